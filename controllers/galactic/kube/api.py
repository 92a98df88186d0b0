"""The requests to the Kubernetes API. ``client.Kube`` makes them, ``memory.MemoryApi`` answers them in tests."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from galactic.errors import Rejected, Unreachable
from galactic.kube.resources import Resource

Object = dict[str, Any]
Objects = list[Object]
Patch = Mapping[str, Any] | list[Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""
WATCH_SECONDS: Final = 300
"""The API server ends a watch after this time."""


def key_of(item: Object) -> Key:
    """The object's key."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class NotFound(Rejected):
    """The object does not exist (404)."""


class Conflict(Rejected):
    """Another client changed or made the object in between (409)."""


class Terminating(Rejected):
    """Nothing can be made in a namespace that is being deleted (403)."""


class Expired(Unreachable):
    """The resource version is too old to watch from (410): list again."""

    def __init__(self, message: str) -> None:
        super().__init__("kube-apiserver", message)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a watch; ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class Api(Protocol):
    """Each request answers or raises one of our errors."""

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """The object; None where it does not exist."""

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> tuple[Objects, str]:
        """All objects, and the resource version to watch from. Raises NotFound where the kind is not served."""

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> AsyncIterator[tuple[Objects, str]]:
        """As ``list``, in parts: each with the resource version, which is the same in all."""

    def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
    ) -> AsyncIterator[Event]:
        """Events after ``version`` until the server ends the stream. Raises Expired when ``version`` is too old."""

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        """The object as made. Raises Conflict if it exists."""

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        """The object as written. Raises Conflict unless ``metadata.resourceVersion`` is still the current one."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        """The object after a merge patch (a mapping) or a JSON patch (a list).

        Raises Conflict when a merge patch names another resource version.
        """

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str = "",
    ) -> None:
        """Deletes the object if it exists. Raises Conflict where it has another UID than the given one."""

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        """Evicts the Pod (policy/v1), as long as it is the one with that UID.

        Raises NotYet while a PodDisruptionBudget forbids it, NotFound or Conflict where that Pod is gone.
        """

"""What the operator needs of the Kubernetes API. ``galactic.kube.client.Kube`` is the real one."""

from collections.abc import Mapping
from typing import Any, Protocol

from galactic.kube.client import Object
from galactic.kube.lease import Lease
from galactic.kube.resources import Resource


class Api(Protocol):
    """Requests that either answer or raise one of our errors."""

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[list[Object], str]:
        """All objects, and the resource version of the list. Raises NotFound where the kind is not served."""

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        """The object as made. Raises Conflict if it exists."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        """The object after a merge patch. Raises Conflict when the patch names another resource version."""

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        """Evicts a Pod. Raises NotYet where a PodDisruptionBudget forbids it now."""


class Fenced:
    """The API for as long as this replica leads: anything else raises Deposed. Reading is free."""

    def __init__(self, api: Api, lease: Lease) -> None:
        self._api, self._lease = api, lease

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[list[Object], str]:
        return await self._api.list(resource, namespace, labels=labels)

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        return await self._lease.guarded(self._api.create(resource, body, namespace))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        request = self._api.patch(resource, name, patch, namespace, subresource=subresource)
        return await self._lease.guarded(request)

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        await self._lease.guarded(self._api.evict(name, namespace, uid))

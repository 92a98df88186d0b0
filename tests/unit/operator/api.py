"""An API server in memory: resource versions, preconditions, merge patches, ownership, and failures on demand."""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from galactic.errors import GalacticError
from galactic.kube.client import Conflict, NotFound, Object
from galactic.kube.resources import NADS, NAMESPACES, NODES, PODS, VPC_ATTACHMENTS, Resource

Seen = Callable[[Resource, str, Object], None]


class MemoryApi:
    """``seen(resource, type, object)`` is told what a watch would tell. ``fail`` may raise instead of a request."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.patches: list[tuple[str, str, Object]] = []
        self.fail: Callable[[str, Resource, str], GalacticError | None] = lambda *_: None
        self.seen: Seen = lambda *_: None
        self._numbers = itertools.count(1)

    def stored(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        return self.objects.get((resource.plural, namespace, name))

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self._request("find", resource, name)
        return copy.deepcopy(self.stored(resource, name, namespace or ""))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[list[Object], str]:
        self._request("list", resource, "")
        # In the order of names, as etcd has them.
        found = [
            copy.deepcopy(self.objects[key])
            for key in sorted(self.objects)
            if key[0] == resource.plural and self.selected(self.objects[key], labels, namespace)
        ]
        return found, "0"

    @staticmethod
    def selected(thing: Object, labels: str, namespace: str | None) -> bool:
        """Whether a list with that selector (names, or names with values, all of which must match) has the object."""
        there = thing["metadata"].get("labels") or {}
        wanted = [each.partition("=") for each in labels.split(",") if each]
        return all(
            name in there and (not equal or there[name] == value) for name, equal, value in wanted
        ) and namespace in (None, thing["metadata"].get("namespace"))

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        name = body["metadata"]["name"]
        self._request("create", resource, name)
        return self.put(resource, body, namespace or "")

    def put(self, resource: Resource, body: Mapping[str, Any], namespace: str = "") -> Object:
        """What a user's ``kubectl create`` does."""
        thing: Object = copy.deepcopy(dict(body))
        meta = thing["metadata"]
        namespace = namespace if resource.namespaced else ""
        key = (resource.plural, namespace, meta["name"])
        if key in self.objects:
            raise Conflict(f"{key} exists", reason="AlreadyExists")
        number = next(self._numbers)
        thing |= {"apiVersion": resource.api_version, "kind": resource.kind}
        meta |= {
            "uid": f"uid-{number}",
            "generation": 1,
            "creationTimestamp": f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        }
        if namespace:
            meta["namespace"] = namespace
        self.objects[key] = thing
        return self._told(resource, "ADDED", thing)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        self._request("patch", resource, name)
        self.patches.append((resource.kind, name, copy.deepcopy(dict(patch))))
        return self.change(resource, name, patch, namespace or "", subresource=subresource)

    def change(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str | None = None,
    ) -> Object:
        """What a user's ``kubectl patch --type=merge`` does."""
        thing = self.stored(resource, name, namespace)
        if thing is None:
            raise NotFound(f"{name} not found", reason="NotFound")
        version = (patch.get("metadata") or {}).get("resourceVersion")
        if version and version != thing["metadata"]["resourceVersion"]:
            raise Conflict(f"{name} was changed", reason="Conflict")
        parts = {
            part: value for part, value in patch.items() if (part == "status") == (subresource == "status")
        }
        spec = copy.deepcopy(thing.get("spec"))
        _merge(thing, parts)
        if thing.get("spec") != spec:
            thing["metadata"]["generation"] += 1
        if "deletionTimestamp" in thing["metadata"] and not thing["metadata"].get("finalizers"):
            return self._gone(resource, name, namespace)
        return self._told(resource, "MODIFIED", thing)

    def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """What a user's ``kubectl delete --wait=false`` does, and garbage collection after it."""
        thing = self.stored(resource, name, namespace)
        assert thing is not None
        if thing["metadata"].get("finalizers"):
            thing["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
            self._told(resource, "MODIFIED", thing)
        else:
            self._gone(resource, name, namespace)

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        self._request("evict", PODS, name)
        pod = self.stored(PODS, name, namespace)
        if pod is None:
            raise NotFound(f"{name} not found", reason="NotFound")
        if pod["metadata"]["uid"] != uid:
            raise Conflict(f"{name} is another one", reason="Conflict")
        self.delete(PODS, name, namespace)

    def _gone(self, resource: Resource, name: str, namespace: str) -> Object:
        thing = self.objects.pop((resource.plural, namespace, name))
        answer = self._told(resource, "DELETED", thing)
        for (plural, space, other), owned in list(self.objects.items()):
            owners = [owner["uid"] for owner in owned["metadata"].get("ownerReferences") or ()]
            if thing["metadata"]["uid"] in owners:
                kind = next(one for one in (NADS, NODES, NAMESPACES, VPC_ATTACHMENTS) if one.plural == plural)
                self.delete(kind, other, space)
        return answer

    def _told(self, resource: Resource, type_: str, thing: Object) -> Object:
        thing["metadata"]["resourceVersion"] = str(next(self._numbers))
        self.seen(resource, type_, copy.deepcopy(thing))
        return copy.deepcopy(thing)

    def _request(self, verb: str, resource: Resource, name: str) -> None:
        self.requests.append((verb, resource.kind, name))
        if (error := self.fail(verb, resource, name)) is not None:
            raise error


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """RFC 7386."""
    for name, value in patch.items():
        if name == "resourceVersion":
            continue
        if value is None:
            target.pop(name, None)
        elif isinstance(value, Mapping):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = copy.deepcopy(value)

"""An API server in memory, for tests: resource versions, preconditions, patches, ownership, watches, failures.

Methods of ``Api`` are a client's requests and are counted. ``put``, ``change``, ``remove`` and ``store`` are what other
clients do meanwhile.
"""

import asyncio
import copy
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Conflict, Event, NotFound, Object, Objects, Patch
from galactic.kube.resources import ACCESS_REVIEWS, PODS, Resource

PAGE: Final = 2

Failure = Callable[[str, Resource, str], GalacticError | None]
Observer = Callable[[Resource, Event], None]


class MemoryApi:
    """``fail(verb, resource, name)`` may give the error that a request raises. ``observer`` gets every watch event.

    ``permits`` answers SubjectAccessReviews.
    ``objects``: by plural, namespace, name. ``requests``: verb, kind and name of each, of a list its label selector.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.patches: list[tuple[str, str, Object]] = []
        self.fail: Failure = lambda *_: None
        self.permits: Callable[[Object], bool] = lambda _: True
        self.observer: Observer = lambda *_: None
        self.objects: dict[tuple[str, str, str], Object] = {}
        self._kinds: dict[str, Resource] = {}  # by plural
        self._numbers = itertools.count(1)
        self._restarts = 0
        self._history: list[
            tuple[int, str, Event, Object | None]
        ] = []  # version, plural, event, the object before
        self._latest: dict[tuple[str, str, str], Object] = {}  # as in the latest event of each
        self._changed = asyncio.Event()

    # What other clients do

    def stored(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """The object itself, not a copy."""
        return self.objects.get((resource.plural, namespace, name))

    def all(self, resource: Resource) -> Iterator[Object]:
        """The objects of a kind, in the order in which they were made."""
        return (stored for (plural, _, _), stored in self.objects.items() if plural == resource.plural)

    def put(self, resource: Resource, body: Mapping[str, Any], namespace: str = "") -> Object:
        """As ``kubectl create``: the object as made, with UID, generation and creation time. Raises Conflict."""
        stored: Object = copy.deepcopy(dict(body))
        meta = stored["metadata"]
        namespace = namespace if resource.namespaced else ""
        key = (resource.plural, namespace, meta["name"])
        if key in self.objects:
            raise Conflict(f"{resource.plural} {meta['name']!r} already exists", reason="AlreadyExists")
        number = next(self._numbers)
        clock = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
        stored |= {"apiVersion": resource.api_version, "kind": resource.kind}
        meta |= {"uid": f"uid-{number}", "generation": 1, "creationTimestamp": f"2026-01-01T{clock}Z"}
        if namespace:
            meta["namespace"] = namespace
        self.objects[key] = stored
        return self._publish(resource, "ADDED", stored)

    def store(self, resource: Resource, stored: Object) -> Object:
        """The object exactly as given but for its resource version, in place of its predecessor."""
        stored = copy.deepcopy(stored)
        meta = stored["metadata"]
        key = (resource.plural, meta.get("namespace", ""), meta["name"])
        type_ = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = stored
        return self._publish(resource, type_, stored)

    def change(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str | None = None,
    ) -> Object:
        """As ``kubectl patch --type=merge``. Raises NotFound, and Conflict for another resource version."""
        stored = self._required(resource, name, namespace)
        version = (patch.get("metadata") or {}).get("resourceVersion")
        if version and version != stored["metadata"]["resourceVersion"]:
            raise Conflict(f"{resource.plural} {name!r} was changed", reason="Conflict")
        parts = {
            part: value for part, value in patch.items() if (part == "status") == (subresource == "status")
        }
        spec = copy.deepcopy(stored.get("spec"))
        _merge(stored, parts)
        return self._modified(resource, stored, spec)

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """As ``kubectl delete --wait=false``, and garbage collection after it. Raises NotFound."""
        stored = self._required(resource, name, namespace)
        if stored["metadata"].get("finalizers"):
            stored["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
            self._publish(resource, "MODIFIED", stored)
        else:
            self._vanish(resource, stored)

    def backup(self) -> Callable[[], None]:
        """As a snapshot of etcd. The result restores it, with the numbers of later versions; watches end then."""
        objects, history = copy.deepcopy(self.objects), len(self._history)
        number = self._history[-1][0] if self._history else 0

        def restore() -> None:
            self.objects = copy.deepcopy(objects)
            self._latest = copy.deepcopy(objects)
            self._numbers = itertools.count(number + 1)
            del self._history[history:]
            self.restart()

        return restore

    def restart(self) -> None:
        """Ends all watches, as a restart of the API server does."""
        self._restarts += 1
        self._changed.set()
        self._changed = asyncio.Event()

    # Requests

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self._request("find", resource, name)
        return copy.deepcopy(self.stored(resource, name, namespace or ""))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",  # noqa: ARG002 - there is one state, and it is the newest
    ) -> tuple[Objects, str]:
        self._request("list", resource, labels)
        keys = sorted(key for key in self.objects if key[0] == resource.plural)  # as etcd has them
        objects = [copy.deepcopy(self.objects[key]) for key in keys]
        version = str(self._history[-1][0]) if self._history else "0"
        return [stored for stored in objects if selected(stored, labels, namespace, fields)], version

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> AsyncIterator[tuple[Objects, str]]:
        """The list in parts of PAGE objects; an empty list in one part."""
        objects, version = await self.list(resource, namespace, fields=fields, labels=labels, least=least)
        for start in range(0, max(len(objects), 1), PAGE):
            yield objects[start : start + PAGE], version

    async def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
    ) -> AsyncIterator[Event]:
        self._request("watch", resource, labels)
        position, restarts = 0, self._restarts
        while True:
            if restarts != self._restarts:
                raise Unreachable("kube-apiserver", "it was restarted")
            changed = self._changed
            for number, plural, event, before in self._history[position:]:
                position += 1
                if plural == resource.plural and number > int(version):
                    if (error := self.fail("watch", resource, labels)) is not None:
                        raise error
                    was = before is not None and selected(before, labels, namespace, fields)
                    if selected(event.object, labels, namespace, fields):
                        entered = event.type == "MODIFIED" and not was
                        yield copy.deepcopy(Event("ADDED", event.object) if entered else event)
                    elif was:
                        yield copy.deepcopy(Event("DELETED", event.object))
            if position == len(self._history):
                await changed.wait()

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        self._request("create", resource, body["metadata"]["name"])
        if resource == ACCESS_REVIEWS:
            return {**body, "status": {"allowed": self.permits(body["spec"])}}
        return self.put(resource, body, namespace or "")

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        meta = body["metadata"]
        self._request("replace", resource, meta["name"])
        stored = self._required(resource, meta["name"], meta.get("namespace", ""))
        if meta.get("resourceVersion") != stored["metadata"]["resourceVersion"]:
            raise Conflict(f"{resource.plural} {meta['name']!r} was changed", reason="Conflict")
        spec = copy.deepcopy(stored.get("spec"))
        kept = {"status"} if subresource is None else stored.keys() - {"status"}
        whole = copy.deepcopy(body) | {part: stored[part] for part in kept if part in stored}
        stored.clear()
        stored |= whole
        return self._modified(resource, stored, spec)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        assert not isinstance(patch, list), "merge patches only"
        self._request("patch", resource, name)
        self.patches.append((resource.kind, name, copy.deepcopy(dict(patch))))
        return self.change(resource, name, patch, namespace or "", subresource=subresource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,  # noqa: ARG002 - nothing runs here that could end
        uid: str = "",
    ) -> None:
        self._request("delete", resource, name)
        stored = self.stored(resource, name, namespace or "")
        if stored is not None:
            if uid not in ("", stored["metadata"]["uid"]):
                raise Conflict(f"{resource.plural} {name!r} has another UID", reason="Conflict")
            self.remove(resource, name, namespace or "")

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        self._request("evict", PODS, name)
        if self._required(PODS, name, namespace)["metadata"]["uid"] != uid:
            raise Conflict(f"pod {name!r} has another UID", reason="Conflict")
        self.remove(PODS, name, namespace)

    def _required(self, resource: Resource, name: str, namespace: str) -> Object:
        stored = self.stored(resource, name, namespace)
        if stored is None:
            raise NotFound(f"{resource.plural} {name!r} not found", reason="NotFound")
        return stored

    def _modified(self, resource: Resource, stored: Object, spec: object) -> Object:
        """After a write. ``spec``: the one before."""
        meta = stored["metadata"]
        if stored.get("spec") != spec:
            meta["generation"] = meta.get("generation", 0) + 1
        if "deletionTimestamp" in meta and not meta.get("finalizers"):
            return self._vanish(resource, stored)
        return self._publish(resource, "MODIFIED", stored)

    def _vanish(self, resource: Resource, stored: Object) -> Object:
        meta = stored["metadata"]
        del self.objects[resource.plural, meta.get("namespace", ""), meta["name"]]
        answer = self._publish(resource, "DELETED", stored)
        for (plural, namespace, name), owned in list(self.objects.items()):
            owners = [owner["uid"] for owner in owned["metadata"].get("ownerReferences") or ()]
            if meta.get("uid") in owners:
                self.remove(self._kinds[plural], name, namespace)
        return answer

    def _publish(self, resource: Resource, type_: str, stored: Object) -> Object:
        number = next(self._numbers)
        stored["metadata"]["resourceVersion"] = str(number)
        event = Event(type_, copy.deepcopy(stored))
        self._kinds.setdefault(resource.plural, resource)
        meta = stored["metadata"]
        key = (resource.plural, meta.get("namespace", ""), meta["name"])
        self._history.append((number, resource.plural, event, self._latest.pop(key, None)))
        if type_ != "DELETED":
            self._latest[key] = event.object
        self._changed.set()
        self._changed = asyncio.Event()
        self.observer(resource, event)
        return copy.deepcopy(stored)

    def _request(self, verb: str, resource: Resource, name: str) -> None:
        self.requests.append((verb, resource.kind, name))
        if (error := self.fail(verb, resource, name)) is not None:
            raise error


def selected(stored: Object, labels: str, namespace: str | None, fields: str = "") -> bool:
    """Whether selectors have the object. Labels: ``name``, ``name=value``, ``name in (…)``. Fields: ``path=value``."""
    meta = stored["metadata"]
    present = meta.get("labels") or {}
    by_field = [term.partition("=") for term in fields.split(",") if term]
    return (
        all(_labelled(present, term) for term in re.split(r",(?![^(]*\))", labels) if term)
        and all(str(_field(stored, path)) == value for path, _, value in by_field)
        and namespace in (None, meta.get("namespace"))
    )


def _labelled(present: Mapping[str, str], term: str) -> bool:
    name, within, values = term.partition(" in ")
    if within:
        return present.get(name) in values.strip("()").split(",")
    name, equal, value = term.partition("=")
    return name in present and (not equal or present[name] == value)


def _field(stored: Object, path: str) -> object:
    value: Any = stored
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return value


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

"""An API server in memory, as far as the webhooks ask one."""

import itertools
from typing import Any

import pytest

from galactic.kube.client import Conflict, Object, Patch
from galactic.kube.resources import Resource
from galactic.names import ATTACHMENT_LABEL


class Store:
    """Objects by kind, namespace and name. ``asked`` counts requests by what they were for."""

    def __init__(self) -> None:
        self._objects: dict[tuple[Resource, str, str], Object] = {}
        self._versions = itertools.count(1)
        self.asked: list[tuple[str, Resource, str]] = []

    def put(self, resource: Resource, thing: Object) -> Object:
        meta = thing["metadata"]
        kept = {**thing, "metadata": {**meta, "resourceVersion": str(next(self._versions))}}
        self._objects[resource, meta.get("namespace", ""), meta["name"]] = kept
        return kept

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self.asked.append(("find", resource, name))
        return self._objects.get((resource, namespace or "", name))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, fields: str = "", labels: str = ""
    ) -> tuple[list[Object], str]:
        self.asked.append(("list", resource, labels))
        label = labels.removeprefix(f"{ATTACHMENT_LABEL}=")
        return [
            thing
            for (kind, place, _), thing in self._objects.items()
            if kind == resource
            and namespace in (None, place)
            and (not labels or (thing["metadata"].get("labels") or {}).get(ATTACHMENT_LABEL) == label)
        ], "1"

    async def create(self, resource: Resource, body: Object, namespace: str | None = None) -> Object:
        if (resource, namespace or "", body["metadata"]["name"]) in self._objects:
            raise Conflict("it exists")
        return self.put(resource, body)

    async def replace(self, resource: Resource, body: Object) -> Object:
        meta = body["metadata"]
        there = self._objects[resource, meta.get("namespace", ""), meta["name"]]
        if there["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise Conflict("it was changed")
        return self.put(resource, body)

    async def patch(
        self, resource: Resource, name: str, patch: Patch, namespace: str | None = None
    ) -> Object:
        there = self._objects[resource, namespace or "", name]
        assert not isinstance(patch, list)
        labels = {**(there["metadata"].get("labels") or {}), **patch["metadata"]["labels"]}
        return self.put(resource, {**there, "metadata": {**there["metadata"], "labels": labels}})

    def __getitem__(self, key: tuple[Resource, str, str]) -> Any:
        return self._objects[key]


@pytest.fixture
def store() -> Store:
    return Store()

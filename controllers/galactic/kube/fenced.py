"""The API for one of several replicas: it writes only while its replica leads."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from galactic.kube.api import Api, Event, Object, Objects, Patch
from galactic.kube.lease import Lease
from galactic.kube.resources import Resource


class Fenced:
    """Every replica reads. A write raises Deposed unless this replica holds the lease."""

    def __init__(self, api: Api, lease: Lease) -> None:
        self._api, self._lease = api, lease

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        return await self._api.find(resource, name, namespace)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> tuple[Objects, str]:
        return await self._api.list(resource, namespace, fields=fields, labels=labels, least=least)

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> AsyncIterator[tuple[Objects, str]]:
        return self._api.pages(resource, namespace, fields=fields, labels=labels, least=least)

    def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
    ) -> AsyncIterator[Event]:
        return self._api.watch(resource, version, namespace, fields=fields, labels=labels)

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        return await self._lease.guarded(self._api.create(resource, body, namespace))

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        return await self._lease.guarded(self._api.replace(resource, body, subresource=subresource))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        request = self._api.patch(resource, name, patch, namespace, subresource=subresource)
        return await self._lease.guarded(request)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str = "",
    ) -> None:
        await self._lease.guarded(self._api.delete(resource, name, namespace, grace=grace, uid=uid))

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        await self._lease.guarded(self._api.evict(name, namespace, uid))

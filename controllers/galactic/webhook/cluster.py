"""The cluster's objects that answers depend on: caches, and requests to the API server in case of doubt.

A cache may be a moment behind, and a user may apply a VPC, its attachments and pods at once. So no request is refused
because of an object that a cache lacks: the webhook reads it from the API server first.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any, Final, TypeVar

import structlog

from galactic.crds.model import Model, parse, trimmed
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Api, Key, NotFound, Object, key_of
from galactic.kube.resources import (
    NAMESPACES,
    NODE_SEGMENTS,
    NODES,
    PODS,
    VPC_ATTACHMENTS,
    VPCS,
    Resource,
)
from galactic.names import ATTACHMENT_LABEL
from galactic.validation.networks import Network, unpacked
from galactic.webhook.holders import Holders
from galactic.webhook.record import AttachmentRecord, record
from galactic.webhook.vpc import Range, Used

log = structlog.get_logger(__name__)
T = TypeVar("T", Vpc, AttachmentRecord)
M = TypeVar("M", bound=Model)
RANGES_SECONDS: Final = 60.0
SERVICES: Final = Resource("", "v1", "services", "Service")
SERVICE_RANGES: Final = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
WATCHED: Final = (VPCS, VPC_ATTACHMENTS, NODE_SEGMENTS, NAMESPACES)


class Cluster:
    """``changed`` gets every object that was added, changed or deleted (``new`` is None)."""

    def __init__(self, api: Api, ranges: Iterable[Range] = ()) -> None:
        self._api = api
        self._given = tuple(ranges)
        self._vpcs: dict[Key, Vpc] = {}
        self._attachments: dict[Key, AttachmentRecord] = {}
        self._prefixes: dict[str, str] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._members: defaultdict[Key, set[Key]] = defaultdict(set)  # VPC → attachments
        self._holders: defaultdict[Key, Holders] = defaultdict(Holders)  # VPC → networks → attachments
        self._waiting: defaultdict[tuple[Resource, Key], set[asyncio.Future[None]]] = defaultdict(set)
        self._ranges: tuple[float, tuple[Range, ...]] = (0.0, ())

    def changed(self, resource: Resource, key: Key, new: Object | None) -> None:
        if resource == VPCS:
            _put(self._vpcs, key, _vpc(new))
        elif resource == VPC_ATTACHMENTS:
            self._attachment_changed(key, _record(new))
        elif resource == NODE_SEGMENTS:
            _put(self._prefixes, key[1], (new.get("spec") or {}).get("prefix") if new else None)
        elif resource == NAMESPACES:
            _put(self._labels, key[1], (new["metadata"].get("labels") or {}) if new else None)
        for future in self._waiting.pop((resource, key), ()):
            if not future.done():
                future.set_result(None)

    async def vpc(self, key: Key, sufficient: Callable[[Vpc], bool] = lambda _: True) -> Vpc | None:
        """The VPC: from the cache where that is ``sufficient``, else from the API server."""
        return await self._read_through(VPCS, _vpc, self._vpcs, key, sufficient)

    async def attachment(
        self, key: Key, sufficient: Callable[[AttachmentRecord], bool] = lambda _: True
    ) -> AttachmentRecord | None:
        """The VPCAttachment: from the cache where that is ``sufficient``, else from the API server."""
        return await self._read_through(VPC_ATTACHMENTS, _record, self._attachments, key, sufficient)

    async def attachment_when(
        self, key: Key, sufficient: Callable[[AttachmentRecord], bool], seconds: float
    ) -> AttachmentRecord | None:
        """The VPCAttachment once it is ``sufficient``, or as it is after ``seconds``; None where it does not exist."""
        return await self._wait_until(
            VPC_ATTACHMENTS, key, lambda: self.attachment(key, sufficient), sufficient, seconds
        )

    async def vpc_when(self, key: Key, sufficient: Callable[[Vpc], bool], seconds: float) -> Vpc | None:
        """The VPC once it is ``sufficient``, or as it is after ``seconds``; None where it does not exist."""
        return await self._wait_until(VPCS, key, lambda: self.vpc(key, sufficient), sufficient, seconds)

    async def labels(self, namespace: str, *, live: bool) -> Mapping[str, str] | None:
        """The namespace's labels; None where it does not exist. ``live``: from the API server in any case."""
        if not live and namespace in self._labels:
            return self._labels[namespace]
        namespace_object = await self._api.find(NAMESPACES, namespace)
        return None if namespace_object is None else namespace_object["metadata"].get("labels") or {}

    def segments(self) -> Iterator[tuple[str, str]]:
        """Name and prefix of every NodeSegment."""
        return iter(self._prefixes.items())

    def holder(self, vpc: Key, network: Network, other_than: Key) -> Key | None:
        """Another attachment of the VPC that leads to the network."""
        holders = self._holders.get(vpc)
        others = holders.of(network) - {other_than} if holders else ()
        return min(others, default=None)

    def enclosing(self, vpc: Key, network: Network, namespace: str) -> Key | None:
        """An attachment of the VPC in another namespace that leads to a network which encloses this one."""
        holders = self._holders.get(vpc)
        for candidate in holders.lengths.enclosing(network) if holders else ():
            assert holders
            others = [key for key in holders.of(candidate) if key[0] != namespace]
            if others:
                return min(others)
        return None

    def used(self, vpc: Key) -> Iterator[Used]:
        """Every address that an attachment of the VPC has."""
        for key in self._members.get(vpc, ()):
            for network in self._attachments[key].addresses:
                yield Used(key, unpacked(network).network_address)

    def known_vpc(self, key: Key) -> Vpc | None:
        """The VPC as the cache has it: for warnings, which need no request."""
        return self._vpcs.get(key)

    def identified(self, identifier: str | None, other_than: Key) -> Key | None:
        """Another VPC that has the identifier."""
        for key, vpc in self._vpcs.items() if identifier else ():
            if key != other_than and identifier == (vpc.status.identifier or vpc.spec.identifier):
                return key
        return None

    def identifiers(self) -> dict[str, str | None]:
        """The UID of every VPC, with the identifier in its status."""
        return {vpc.metadata.uid: vpc.status.identifier for vpc in self._vpcs.values()}

    async def pods(self, namespace: str, label: str) -> list[Object]:
        """The namespace's Pods with that value of ATTACHMENT_LABEL."""
        pods, _ = await self._api.list(PODS, namespace, labels=f"{ATTACHMENT_LABEL}={label}")
        return pods

    async def node_of(self, pod: str, namespace: str) -> str | None:
        """The node of a Pod."""
        document = await self._api.find(PODS, pod, namespace)
        return None if document is None else (document.get("spec") or {}).get("nodeName")

    async def ranges(self) -> tuple[Range, ...]:
        """The cluster's own networks, from the settings and from the API server; at most a minute old."""
        until, cached = self._ranges
        if time.monotonic() < until:
            return cached
        ranges = (*self._given, *await self._cluster_ranges())
        unique = tuple({range_.network: range_ for range_ in reversed(ranges)}.values())
        self._ranges = (time.monotonic() + RANGES_SECONDS, unique)
        return unique

    async def _cluster_ranges(self) -> list[Range]:
        result: list[Range] = []
        for node in await self._all(NODES):
            spec = node.get("spec") or {}
            owner = f"the pods of {node['metadata']['name']}"
            result += _ranges(spec.get("podCIDRs") or [spec.get("podCIDR")], owner)
        for services in await self._all(SERVICE_RANGES):
            result += _ranges((services.get("spec") or {}).get("cidrs") or (), "the cluster's services")
        try:
            kubernetes = await self._api.find(SERVICES, "kubernetes", "default") or {}
        except Rejected:
            kubernetes = {}
        spec = kubernetes.get("spec") or {}
        addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
        return result + _ranges(addresses, "the service of the Kubernetes API")

    async def _all(self, resource: Resource) -> list[Object]:
        """All objects of a kind; none where it is not served, or RBAC forbids reading it."""
        try:
            return (await self._api.list(resource))[0]
        except NotFound:
            return []
        except Rejected as problem:
            log.debug("kind not readable", resource=resource.plural, error=str(problem))
            return []

    async def _read_through(
        self,
        resource: Resource,
        read: Callable[[Object | None], T | None],
        cache: Mapping[Key, T],
        key: Key,
        sufficient: Callable[[T], bool],
    ) -> T | None:
        cached = cache.get(key)
        if cached is not None and sufficient(cached):
            return cached
        return read(await self._api.find(resource, key[1], key[0]))

    async def _wait_until(
        self,
        resource: Resource,
        key: Key,
        read: Callable[[], Any],
        sufficient: Callable[[T], bool],
        seconds: float,
    ) -> T | None:
        until = time.monotonic() + seconds
        while True:
            # Registered before the read, so that no change falls between the two.
            future = asyncio.get_running_loop().create_future()
            self._waiting[resource, key].add(future)
            try:
                current: T | None = await read()
                left = until - time.monotonic()
                if current is None or sufficient(current) or left <= 0:
                    return current
                await asyncio.wait([future], timeout=left)
            finally:
                self._forget(resource, key, future)

    def _forget(self, resource: Resource, key: Key, future: asyncio.Future[None]) -> None:
        future.cancel()
        waiting = self._waiting.get((resource, key))
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[resource, key]

    def _attachment_changed(self, key: Key, new: AttachmentRecord | None) -> None:
        old = self._attachments.pop(key, None)
        if old is not None:
            _drop(self._members, old.vpc, key)
            holders = self._holders[old.vpc]
            for network in old.networks:
                holders.remove(network, key)
            if not holders:
                del self._holders[old.vpc]
        if new is not None:
            self._attachments[key] = new
            self._members[new.vpc].add(key)
            for network in new.networks:
                self._holders[new.vpc].add(network, key)


def _ranges(texts: Iterable[str | None], owner: str) -> list[Range]:
    return [Range(ip_network(text), owner) for text in texts if text and text != "None"]


def _put(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        cache.pop(key, None)
    else:
        cache[key] = value


def _drop(index: defaultdict[Any, set[Key]], place: Any, key: Key) -> None:
    index[place].discard(key)
    if not index[place]:
        del index[place]


def _read(kind: type[M], document: Object | None) -> M | None:
    """The object as a model; None for one that does not fit it."""
    if document is None:
        return None
    try:
        return parse(kind, trimmed(document))
    except Rejected as problem:
        log.debug("object does not fit its model", key=key_of(document), problem=str(problem))
        return None


def _vpc(document: Object | None) -> Vpc | None:
    return _read(Vpc, document)


def _record(document: Object | None) -> AttachmentRecord | None:
    attachment = _read(VpcAttachment, document)
    return None if attachment is None else record(attachment)

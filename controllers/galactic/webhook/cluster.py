"""What is in the cluster, as far as an answer depends on it: caches, and a look at the source in case of doubt.

A cache may be behind by moments, and whoever applies a VPC, its attachments and pods in one go is faster. So nobody is
refused because of what a cache does not know: the API server itself is asked first.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_interface, ip_network
from typing import Any, Final, TypeVar

import structlog

from galactic.crds.model import Model, parse
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import GalacticError, Rejected
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
from galactic.validation.attachment import parse_attachment
from galactic.validation.networks import Network, host
from galactic.webhook.vpc import Range, Used

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=Model)
RANGES_SECONDS: Final = 60.0
SERVICES: Final = Resource("", "v1", "services", "Service")
SERVICE_RANGES: Final = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
WATCHED: Final = (VPCS, VPC_ATTACHMENTS, NODE_SEGMENTS, NAMESPACES)


class Cluster:
    """``changed(resource, key, old, new)`` is told of every object that came, changed or went (``new`` is None)."""

    def __init__(self, api: Api, ranges: Iterable[Range] = ()) -> None:
        self._api = api
        self._given = tuple(ranges)
        self._vpcs: dict[Key, Vpc] = {}
        self._attachments: dict[Key, VpcAttachment] = {}
        self._prefixes: dict[str, str] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._members: defaultdict[Key, set[Key]] = defaultdict(set)  # VPC → attachments
        self._holders: defaultdict[tuple[Key, Network], set[Key]] = defaultdict(set)
        self._waiting: defaultdict[tuple[Resource, Key], set[asyncio.Future[None]]] = defaultdict(set)
        self._ranges: tuple[float, tuple[Range, ...]] = (0.0, ())

    def changed(self, resource: Resource, key: Key, _old: Object | None, new: Object | None) -> None:
        if resource == VPCS:
            _put(self._vpcs, key, _read(Vpc, new))
        elif resource == VPC_ATTACHMENTS:
            self._attachment_changed(key, _read(VpcAttachment, new))
        elif resource == NODE_SEGMENTS:
            _put(self._prefixes, key[1], (new.get("spec") or {}).get("prefix") if new else None)
        elif resource == NAMESPACES:
            _put(self._labels, key[1], (new["metadata"].get("labels") or {}) if new else None)
        for future in self._waiting.pop((resource, key), ()):
            if not future.done():
                future.set_result(None)

    # What is there

    async def vpc(self, key: Key, enough: Callable[[Vpc], bool] = lambda _: True) -> Vpc | None:
        """The VPC: as the cache has it where that is ``enough``, else as it is."""
        return await self._sure(VPCS, Vpc, self._vpcs, key, enough)

    async def attachment(
        self, key: Key, enough: Callable[[VpcAttachment], bool] = lambda _: True
    ) -> VpcAttachment | None:
        """The VPCAttachment: as the cache has it where that is ``enough``, else as it is."""
        return await self._sure(VPC_ATTACHMENTS, VpcAttachment, self._attachments, key, enough)

    async def attachment_when(
        self, key: Key, enough: Callable[[VpcAttachment], bool], seconds: float
    ) -> VpcAttachment | None:
        """The VPCAttachment once it is ``enough``, or as it is after so many seconds; None where none is there."""
        return await self._when(VPC_ATTACHMENTS, key, lambda: self.attachment(key, enough), enough, seconds)

    async def vpc_when(self, key: Key, enough: Callable[[Vpc], bool], seconds: float) -> Vpc | None:
        """The VPC once it is ``enough``, or as it is after so many seconds; None where none is there."""
        return await self._when(VPCS, key, lambda: self.vpc(key, enough), enough, seconds)

    async def labels(self, namespace: str, *, live: bool) -> Mapping[str, str] | None:
        """The namespace's labels; None where there is no such namespace."""
        if not live and namespace in self._labels:
            return self._labels[namespace]
        found = await self._api.find(NAMESPACES, namespace)
        return None if found is None else found["metadata"].get("labels") or {}

    def segments(self) -> Iterator[tuple[str, str]]:
        """Name and prefix of every NodeSegment."""
        return iter(self._prefixes.items())

    def holder(self, vpc: Key, network: Network, other_than: Key) -> Key | None:
        """Another attachment of the VPC that leads to the network."""
        return min(self._holders.get((vpc, network), set()) - {other_than}, default=None)

    def used(self, vpc: Key) -> Iterator[Used]:
        """Every address that an attachment of the VPC has."""
        for key in self._members.get(vpc, ()):
            for network in _addresses(self._attachments[key]):
                yield Used(key, network.network_address)

    def identified(self, identifier: str | None, other_than: Key) -> Key | None:
        """Another VPC that has the identifier."""
        for key, vpc in self._vpcs.items() if identifier else ():
            if key != other_than and identifier == (vpc.status.identifier or vpc.spec.identifier):
                return key
        return None

    async def pods(self, namespace: str, label: str) -> list[Object]:
        """The namespace's Pods with that value of ATTACHMENT_LABEL."""
        found, _ = await self._api.list(PODS, namespace, labels=f"{ATTACHMENT_LABEL}={label}")
        return found

    async def node_of(self, pod: str, namespace: str) -> str | None:
        """The node of a Pod."""
        found = await self._api.find(PODS, pod, namespace)
        return None if found is None else (found.get("spec") or {}).get("nodeName")

    async def ranges(self) -> tuple[Range, ...]:
        """The cluster's own networks: as given in the settings, and as the API server tells. At most a minute old."""
        until, known = self._ranges
        if time.monotonic() < until:
            return known
        found = (*self._given, *await self._told())
        unique = tuple({one.network: one for one in reversed(found)}.values())
        self._ranges = (time.monotonic() + RANGES_SECONDS, unique)
        return unique

    async def _told(self) -> list[Range]:
        result: list[Range] = []
        for node in await self._all(NODES):
            spec = node.get("spec") or {}
            what = f"the pods of {node['metadata']['name']}"
            result += _ranges(spec.get("podCIDRs") or [spec.get("podCIDR")], what)
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
        """What there is of a kind; nothing where it is not served, or not ours to read."""
        try:
            return (await self._api.list(resource))[0]
        except NotFound:
            return []
        except Rejected as problem:
            log.debug("not readable", resource=resource.plural, error=str(problem))
            return []

    # How it is known

    async def _sure(
        self,
        resource: Resource,
        kind: type[T],
        cache: Mapping[Key, T],
        key: Key,
        enough: Callable[[T], bool],
    ) -> T | None:
        cached = cache.get(key)
        if cached is not None and enough(cached):
            return cached
        return _read(kind, await self._api.find(resource, key[1], key[0]))

    async def _when(
        self,
        resource: Resource,
        key: Key,
        look: Callable[[], Any],
        enough: Callable[[T], bool],
        seconds: float,
    ) -> T | None:
        until = time.monotonic() + seconds
        while True:
            # Asked for before the look, so that no change falls between the two.
            future = asyncio.get_running_loop().create_future()
            self._waiting[resource, key].add(future)
            try:
                found: T | None = await look()
                left = until - time.monotonic()
                if found is None or enough(found) or left <= 0:
                    return found
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

    def _attachment_changed(self, key: Key, new: VpcAttachment | None) -> None:
        old = self._attachments.pop(key, None)
        if old is not None:
            vpc = _vpc_of(old)
            _drop(self._members, vpc, key)
            for network in _held(old):
                _drop(self._holders, (vpc, network), key)
        if new is not None:
            vpc = _vpc_of(new)
            self._attachments[key] = new
            self._members[vpc].add(key)
            for network in _held(new):
                self._holders[vpc, network].add(key)


def kept(thing: Object) -> Object:
    """The object without what no answer depends on: a node's endpoints alone can be a megabyte."""
    meta = {name: value for name, value in thing["metadata"].items() if name != "managedFields"}
    result = {**thing, "metadata": meta}
    if thing.get("kind") in (NODE_SEGMENTS.kind, NAMESPACES.kind):
        result.pop("status", None)
    return result


def _ranges(texts: Iterable[str | None], what: str) -> list[Range]:
    return [Range(ip_network(text), what) for text in texts if text and text != "None"]


def _put(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        cache.pop(key, None)
    else:
        cache[key] = value


def _drop(index: defaultdict[Any, set[Key]], place: Any, key: Key) -> None:
    index[place].discard(key)
    if not index[place]:
        del index[place]


def _read(kind: type[T], thing: Object | None) -> T | None:
    """The object as a model; None for one that does not fit it, which nothing can be made of."""
    if thing is None:
        return None
    try:
        return parse(kind, thing)
    except Rejected as problem:
        log.debug("does not fit its model", key=key_of(thing), problem=str(problem))
        return None


def _vpc_of(attachment: VpcAttachment) -> Key:
    return attachment.spec.vpc.namespace or attachment.metadata.namespace, attachment.spec.vpc.name


def _addresses(attachment: VpcAttachment) -> set[Network]:
    """The addresses in force, and those asked for, as networks of one address."""
    texts = [*attachment.status.addresses]
    if not _refused(attachment):
        texts += attachment.spec.interface.addresses
    result = set()
    for text in texts:
        try:
            result.add(host(ip_interface(text).ip))
        except ValueError:
            continue
    return result


def _held(attachment: VpcAttachment) -> set[Network]:
    """Every network that leads to the attachment, or will as soon as the operator has seen it."""
    held = _addresses(attachment)
    if not _refused(attachment):
        try:
            wanted = parse_attachment(attachment, None)
            addresses = wanted.addresses or tuple(map(ip_interface, attachment.status.addresses))
            held |= set(wanted.holds(addresses))
        except (GalacticError, ValueError):
            pass
    return held


def _refused(attachment: VpcAttachment) -> bool:
    """Whether the operator did not let it have what it asks for."""
    return any(one.type == "Accepted" and one.status == "False" for one in attachment.status.conditions)

"""Values of the operator's gauges, computed from the caches at each scrape.

Only the replica that acts has an allocator, and so exposes the numbers of VPCs: exactly one of several replicas.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network, collapse_addresses
from operator import itemgetter
from typing import Any, Final

from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import ACCEPTED, PUBLISHED, READY, REDUNDANT
from galactic.operator.addresses import capacity
from galactic.operator.allocator import Allocator
from galactic.operator.attachment_counts import NO_STATUS, unready_reason
from galactic.operator.cache import Cache
from galactic.operator.context import Rules
from galactic.operator.objects import Invalid
from galactic.operator.state import Caches
from galactic.srv6 import parse_prefix
from galactic.validation.networks import parse_networks

GATEWAY_CONDITIONS: Final = (ACCEPTED, READY, REDUNDANT, PUBLISHED)


@dataclass(frozen=True, slots=True)
class Family:
    """The addresses of one IP version in a VPC."""

    version: int
    capacity: int  # addresses that can be allocated
    allocated: int


@dataclass(frozen=True, slots=True)
class VpcUsage:
    """One VPC. ``vpc`` is its identifier, empty before it has one."""

    name: str
    vpc: str
    families: tuple[Family, ...]
    ready: int
    unready: int
    namespaces: tuple[tuple[str, int], ...] = ()
    """Other namespaces than its own, and the number of networks that their attachments hold."""


@dataclass(frozen=True, slots=True)
class GatewayCondition:
    """A condition of a VPCGateway, and whether it is True."""

    namespace: str
    name: str
    type: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Prefixes for Nodes without one of their own."""

    used: int
    free: int


def pool(caches: Caches, rules: Rules) -> Pool:
    """Used and free prefixes of the pool; 0 of both without a pool.

    A prefix that a user gave uses as many of the pool's as share an address with it.
    """
    if rules.pool is None:
        return Pool(0, 0)
    total = 1 << (rules.pool_length - rules.pool.prefixlen)
    overlapping = []
    for segment in map(itemgetter(1), caches.segments.items()):
        if not isinstance(segment, Invalid) and (prefix := _prefix(segment)) and prefix.overlaps(rules.pool):
            length = min(max(prefix.prefixlen, rules.pool.prefixlen), rules.pool_length)
            overlapping.append(IPv6Network((int(prefix.network_address), length), strict=False))
    used = sum(1 << (rules.pool_length - network.prefixlen) for network in collapse_addresses(overlapping))
    return Pool(used, total - used)


def _prefix(segment: NodeSegment) -> IPv6Network | None:
    try:
        return parse_prefix(segment.spec.prefix)
    except Rejected:
        return None


def unready(caches: Caches) -> Counter[tuple[str, str]]:
    """The number of objects that are not Ready, by kind and reason; of each kind at least a 0."""
    counts: Counter[tuple[str, str]] = Counter()
    kinds: tuple[tuple[str, Cache[Any]], ...] = (
        (Vpc.KIND, caches.vpcs),
        (NodeSegment.KIND, caches.segments),
    )
    for kind, cache in kinds:
        counts[kind, NO_STATUS] += 0
        for item in map(itemgetter(1), cache.items()):
            if isinstance(item, Invalid):
                counts[kind, item.problem.reason] += 1
            elif reason := unready_reason(item.status.conditions):
                counts[kind, reason] += 1
    counts[VpcAttachment.KIND, NO_STATUS] += 0
    for mark, count in caches.attachment_counts:
        if mark.reason:
            counts[VpcAttachment.KIND, mark.reason] += count
    return counts


def gateways(caches: Caches) -> Iterator[GatewayCondition]:
    """The conditions of every VPCGateway: one whose specification is invalid is not accepted, and not ready."""
    for (namespace, name), gateway in caches.gateways.items():
        if isinstance(gateway, Invalid):
            yield from (GatewayCondition(namespace, name, kind, holds=False) for kind in (ACCEPTED, READY))
            continue
        for condition in gateway.status.conditions:
            if condition.type in GATEWAY_CONDITIONS:
                yield GatewayCondition(namespace, name, condition.type, condition.status == "True")


def unattached(caches: Caches) -> int:
    """The number of attachments with a pod that runs without its VPC interface."""
    return sum(count for mark, count in caches.attachment_counts if mark.unattached)


def vpcs(caches: Caches, allocator: Allocator) -> Iterator[VpcUsage]:
    """Every VPC."""
    members: Counter[tuple[Key, bool]] = Counter()
    for mark, count in caches.attachment_counts:
        if mark.vpc is not None:
            members[mark.vpc, mark.ready] += count
    for key, vpc in caches.vpcs.items():
        if isinstance(vpc, Invalid):
            continue
        yield VpcUsage(
            name="/".join(key),
            vpc=vpc.status.identifier or "",
            families=tuple(_families(key, vpc, allocator)),
            ready=members[key, True],
            unready=members[key, False],
            namespaces=tuple(_namespaces(key, allocator)),
        )


def _families(key: Key, vpc: Vpc, allocator: Allocator) -> Iterator[Family]:
    try:
        networks = parse_networks(vpc.spec.networks, None)
    except Rejected:
        return
    allocations = allocator.allocated(key)
    for version in sorted({network.version for network in networks}):
        total = sum(capacity(network) for network in networks if network.version == version)
        yield Family(version, total, allocations.addresses.hosts(version) if allocations else 0)


def _namespaces(key: Key, allocator: Allocator) -> Iterator[tuple[str, int]]:
    allocations = allocator.allocated(key)
    for namespace, count in allocations.addresses.namespaces().items() if allocations else ():
        if namespace != key[0]:
            yield namespace, count

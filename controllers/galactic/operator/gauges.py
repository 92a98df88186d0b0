"""What the operator's gauges say of the objects: computed when they are scraped, from what is in memory.

Only the replica that acts has the allocator, and so tells the figures of VPCs: of several replicas exactly one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network, collapse_addresses
from operator import itemgetter
from typing import Any, Final

from galactic.crds.model import Condition
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import ATTACHED, READY
from galactic.operator.addresses import room
from galactic.operator.allocator import Allocator, reference, settled
from galactic.operator.context import Rules
from galactic.operator.state import Cache, Caches, Invalid
from galactic.srv6 import parse_prefix
from galactic.validation.networks import parse_networks

UNSAID: Final = "NoStatus"
"""The reason of what nobody has said anything about yet."""


@dataclass(frozen=True, slots=True)
class Family:
    """The addresses of one IP version in a VPC."""

    version: int
    room: int  # that can be allocated
    held: int


@dataclass(frozen=True, slots=True)
class VpcFigures:
    """One VPC. ``vpc`` is its identifier, empty before it has one."""

    name: str
    vpc: str
    families: tuple[Family, ...]
    ready: int
    unready: int


@dataclass(frozen=True, slots=True)
class Pool:
    """The prefixes that Nodes without one of their own get."""

    used: int
    free: int


def pool(caches: Caches, rules: Rules) -> Pool:
    """How much of the pool is left; nothing of either where there is none.

    A prefix that was given by hand uses as many of the pool's as share an address with it.
    """
    if rules.pool is None:
        return Pool(0, 0)
    there = 1 << (rules.pool_length - rules.pool.prefixlen)
    taken = []
    for segment in map(itemgetter(1), caches.segments.items()):
        if not isinstance(segment, Invalid) and (prefix := _prefix(segment)) and prefix.overlaps(rules.pool):
            length = min(max(prefix.prefixlen, rules.pool.prefixlen), rules.pool_length)
            taken.append(IPv6Network((int(prefix.network_address), length), strict=False))
    used = sum(1 << (rules.pool_length - each.prefixlen) for each in collapse_addresses(taken))
    return Pool(used, there - used)


def _prefix(segment: NodeSegment) -> IPv6Network | None:
    try:
        return parse_prefix(segment.spec.prefix)
    except Rejected:
        return None


def unready(caches: Caches) -> Counter[tuple[str, str]]:
    """How many objects are not Ready, by kind and reason. Each kind is there, if with 0."""
    found: Counter[tuple[str, str]] = Counter()
    kinds: tuple[tuple[str, Cache[Any]], ...] = (
        (Vpc.KIND, caches.vpcs),
        (VpcAttachment.KIND, caches.attachments),
        (NodeSegment.KIND, caches.segments),
    )
    for kind, cache in kinds:
        found[kind, UNSAID] += 0
        for thing in map(itemgetter(1), cache.items()):
            if isinstance(thing, Invalid):
                found[kind, thing.problem.reason] += 1
            elif reason := _reason(thing.status.conditions):
                found[kind, reason] += 1
    return found


def unattached(caches: Caches) -> int:
    """How many attachments have a pod that runs without its VPC interface."""
    return sum(
        any(
            condition.type == ATTACHED and condition.status == "False" for condition in each.status.conditions
        )
        for _, each in caches.attachments.items()
        if isinstance(each, VpcAttachment)
    )


def vpcs(caches: Caches, allocator: Allocator) -> Iterator[VpcFigures]:
    """Every VPC."""
    members: Counter[tuple[Key, bool]] = Counter()
    for attachment in map(itemgetter(1), caches.attachments.items()):
        if not isinstance(attachment, Invalid):
            owner = settled(attachment) or reference(attachment)
            members[owner, attachment.status.ready] += 1
    for key, vpc in caches.vpcs.items():
        if isinstance(vpc, Invalid):
            continue
        yield VpcFigures(
            name="/".join(key),
            vpc=vpc.status.identifier or "",
            families=tuple(_families(key, vpc, allocator)),
            ready=members[key, True],
            unready=members[key, False],
        )


def _families(key: Key, vpc: Vpc, allocator: Allocator) -> Iterator[Family]:
    try:
        networks = parse_networks(vpc.spec.networks, None)
    except Rejected:
        return
    allocations = allocator.known(key)
    for version in sorted({network.version for network in networks}):
        there = sum(room(network) for network in networks if network.version == version)
        yield Family(version, there, allocations.addresses.hosts(version) if allocations else 0)


def _reason(conditions: tuple[Condition, ...]) -> str:
    """Why it is not Ready; empty: it is."""
    for condition in conditions:
        if condition.type == READY:
            return "" if condition.status == "True" else condition.reason or UNSAID
    return UNSAID

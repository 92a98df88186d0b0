"""What the operator's gauges say of the objects: computed when they are scraped, from what is in memory.

Only the replica that acts has the books, and so tells the figures of VPCs: of several replicas exactly one.
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
from galactic.kube.conditions import ATTACHED, READY
from galactic.kube.informer import Key
from galactic.operator.addresses import room
from galactic.operator.books import Books, reference, settled
from galactic.operator.desk import Rules
from galactic.operator.state import Broken, Cache, View
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


def pool(view: View, rules: Rules) -> Pool:
    """How much of the pool is left; nothing of either where there is none.

    A prefix that was given by hand uses as many of the pool's as share an address with it.
    """
    if rules.pool is None:
        return Pool(0, 0)
    there = 1 << (rules.pool_length - rules.pool.prefixlen)
    taken = []
    for segment in map(itemgetter(1), view.segments.items()):
        if not isinstance(segment, Broken) and (prefix := _prefix(segment)) and prefix.overlaps(rules.pool):
            length = min(max(prefix.prefixlen, rules.pool.prefixlen), rules.pool_length)
            taken.append(IPv6Network((int(prefix.network_address), length), strict=False))
    used = sum(1 << (rules.pool_length - each.prefixlen) for each in collapse_addresses(taken))
    return Pool(used, there - used)


def _prefix(segment: NodeSegment) -> IPv6Network | None:
    try:
        return parse_prefix(segment.spec.prefix)
    except Rejected:
        return None


def unready(view: View) -> Counter[tuple[str, str]]:
    """How many objects are not Ready, by kind and reason. Each kind is there, if with 0."""
    found: Counter[tuple[str, str]] = Counter()
    kinds: tuple[tuple[str, Cache[Any]], ...] = (
        (Vpc.KIND, view.vpcs),
        (VpcAttachment.KIND, view.attachments),
        (NodeSegment.KIND, view.segments),
    )
    for kind, cache in kinds:
        found[kind, UNSAID] += 0
        for thing in map(itemgetter(1), cache.items()):
            if isinstance(thing, Broken):
                found[kind, thing.problem.reason] += 1
            elif reason := _reason(thing.status.conditions):
                found[kind, reason] += 1
    return found


def unattached(view: View) -> int:
    """How many attachments have a pod that runs without its VPC interface."""
    return sum(
        any(
            condition.type == ATTACHED and condition.status == "False" for condition in each.status.conditions
        )
        for _, each in view.attachments.items()
        if isinstance(each, VpcAttachment)
    )


def vpcs(view: View, books: Books) -> Iterator[VpcFigures]:
    """Every VPC."""
    members: Counter[tuple[Key, bool]] = Counter()
    for attachment in map(itemgetter(1), view.attachments.items()):
        if not isinstance(attachment, Broken):
            home = settled(attachment) or reference(attachment)
            members[home, attachment.status.ready] += 1
    for key, vpc in view.vpcs.items():
        if isinstance(vpc, Broken):
            continue
        yield VpcFigures(
            name="/".join(key),
            vpc=vpc.status.identifier or "",
            families=tuple(_families(key, vpc, books)),
            ready=members[key, True],
            unready=members[key, False],
        )


def _families(key: Key, vpc: Vpc, books: Books) -> Iterator[Family]:
    try:
        networks = parse_networks(vpc.spec.networks, None)
    except Rejected:
        return
    book = books.known(key)
    for version in sorted({network.version for network in networks}):
        there = sum(room(network) for network in networks if network.version == version)
        yield Family(version, there, book.addresses.hosts(version) if book else 0)


def _reason(conditions: tuple[Condition, ...]) -> str:
    """Why it is not Ready; empty: it is."""
    for condition in conditions:
        if condition.type == READY:
            return "" if condition.status == "True" else condition.reason or UNSAID
    return UNSAID

"""The allocator: VPC identifiers, and per VPC attachment identifiers and addresses.

``restore`` fills it from the caches before the first decision; after that the reconcilers keep it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import Any

import structlog

from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.reflector import in_turns
from galactic.names import from_base62, parse_function, parse_vpc
from galactic.operator.addresses import Addresses, Held
from galactic.operator.attachment_counts import reference, settled_vpc
from galactic.operator.cache import Cache
from galactic.operator.identifiers import Identifiers, functions, vpc_identifiers
from galactic.operator.objects import Invalid
from galactic.operator.state import Caches
from galactic.validation.attachment import parse_attachment
from galactic.validation.networks import Interface, Network, host

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class VpcAllocations:
    """One VPC's. ``blocked``: the attachments that wait for a network or identifier which another holds."""

    functions: Identifiers[Key] = field(default_factory=functions)
    addresses: Addresses = field(default_factory=Addresses)
    blocked: set[Key] = field(default_factory=set)
    members: set[Key] = field(default_factory=set)
    """The attachments that were assigned to the VPC."""


class Allocator:
    """All VPCs' allocations. ``blocked``: the VPCs that wait for an identifier which another has."""

    def __init__(self) -> None:
        self._named: dict[
            Key, tuple[Key, frozenset[Network]]
        ] = {}  # attachment → the addresses that its specification gives
        self.clear()

    def clear(self) -> None:
        """Forgets all allocations, but for addresses that specifications give (``name``)."""
        self.vpcs: Identifiers[Key] = vpc_identifiers()
        self.blocked: set[Key] = set()
        self._allocations: dict[Key, VpcAllocations] = {}
        self._vpcs_of: dict[Key, Key] = {}  # attachment → VPC
        self._addresses: dict[Key, tuple[Interface, ...]] = {}  # attachment → the addresses allocated to it
        for vpc, networks in self._named.values():
            self.of(vpc).addresses.name(networks)

    def name(self, attachment: Key, vpc: Key | None, networks: frozenset[Network]) -> None:
        """The attachment's specification gives those addresses in that VPC: no other is allocated one of them."""
        before = self._named.pop(attachment, None)
        if before is not None and (allocations := self._allocations.get(before[0])) is not None:
            allocations.addresses.unname(before[1])
            if self.vpcs.of(before[0]) is None:
                self.forget(before[0])
        if vpc is not None and networks:
            self._named[attachment] = vpc, networks
            self.of(vpc).addresses.name(networks)

    def of(self, vpc: Key) -> VpcAllocations:
        allocations = self._allocations.get(vpc)
        if allocations is None:
            allocations = self._allocations[vpc] = VpcAllocations(addresses=Addresses(vpc[0]))
        return allocations

    def allocated(self, vpc: Key) -> VpcAllocations | None:
        """The VPC's allocations if there is one."""
        return self._allocations.get(vpc)

    def vpc_of(self, attachment: Key) -> Key | None:
        """The VPC that the attachment was assigned to."""
        return self._vpcs_of.get(attachment)

    def assign(self, attachment: Key, vpc: Key) -> tuple[Key, ...]:
        """Assigns the attachment to that VPC alone. The blocked attachments that may now get what it released."""
        freed: tuple[Key, ...] = ()
        if self._vpcs_of.get(attachment, vpc) != vpc:
            freed = self.release(attachment)
        self._vpcs_of[attachment] = vpc
        self.of(vpc).members.add(attachment)
        return freed

    def release(self, attachment: Key) -> tuple[Key, ...]:
        """Releases all that the attachment holds. The blocked attachments that may now get it."""
        self._addresses.pop(attachment, None)
        vpc = self._vpcs_of.pop(attachment, None)
        for allocations in [self.of(vpc)] if vpc else []:
            allocations.functions.release(attachment)
            allocations.addresses.release(attachment)
            allocations.members.discard(attachment)
            allocations.blocked.discard(attachment)
            return tuple(allocations.blocked)
        return ()

    def forget(self, vpc: Key) -> None:
        """Drops the allocations of a deleted VPC, once it has no attachments."""
        allocations = self._allocations.get(vpc)
        if (
            allocations
            and not allocations.members
            and not allocations.blocked
            and not allocations.addresses.named
        ):
            del self._allocations[vpc]

    def addresses(self, attachment: Key) -> tuple[Interface, ...]:
        """The addresses allocated to the attachment."""
        return self._addresses.get(attachment, ())

    def remember(self, attachment: Key, addresses: tuple[Interface, ...]) -> None:
        self._addresses[attachment] = addresses


async def restore(allocator: Allocator, caches: Caches) -> None:
    """Claims what live objects hold, oldest first: from their status, or from their NAD where that is missing yet.

    Other tasks have their turns meanwhile; attachments that change then are entered again. Last come networks that
    NodeSegments list beyond that: a pod has them, but its attachment was deleted or changed.
    """
    _enter_vpcs(allocator, caches)
    cache, clock = caches.attachments, -1
    while cache.clock > clock:
        since, clock = clock, cache.clock
        await _enter_attachments(allocator, caches, await _oldest(cache, since))
    for name in [*caches.segments]:
        segment = caches.segments.get(name)
        endpoints = segment.status.endpoints if isinstance(segment, NodeSegment) else ()
        async for part in in_turns(endpoints):
            for endpoint in part:
                _enter_reported(allocator, endpoint)


def _enter_vpcs(allocator: Allocator, caches: Caches) -> None:
    for key, vpc in _oldest_first(caches.vpcs.items()):
        if isinstance(vpc, Vpc) and vpc.status.identifier:
            try:
                claimed = allocator.vpcs.claim(key, parse_vpc(vpc.status.identifier))
            except Rejected:
                claimed = False
            if not claimed:
                log.error(
                    "duplicate VPC identifier, the VPC gets another",
                    vpc=key,
                    identifier=vpc.status.identifier,
                )


async def _oldest(cache: Cache[VpcAttachment | Invalid], since: int) -> list[Key]:
    """The attachments that have changed since, the oldest first."""
    aged: list[tuple[str, Key]] = []
    async for part in in_turns(cache.changed_since(since)):
        aged += [
            (attachment.metadata.creation_timestamp, key)
            for key in part
            if isinstance(attachment := cache.get(key), VpcAttachment)
        ]
    return [key for _, key in sorted(aged)]


async def _enter_attachments(allocator: Allocator, caches: Caches, keys: list[Key]) -> None:
    """First what each holds by its status, then their terminations."""
    async for part in in_turns(keys):
        for key in part:
            if isinstance(attachment := caches.attachments.get(key), VpcAttachment):
                _enter(allocator, caches, key, attachment)
    async for part in in_turns(keys):
        for key in part:
            vpc, attachment = allocator.vpc_of(key), caches.attachments.get(key)
            if vpc and isinstance(attachment, VpcAttachment) and attachment.status.ready:
                _enter_terminations(allocator, vpc, key, attachment)


def _enter_reported(allocator: Allocator, endpoint: SegmentEndpoint) -> None:
    """Claims an endpoint's networks and identifier, unless another attachment holds them."""
    namespace, _, name = endpoint.attachment.partition("/")
    key = namespace, name
    try:
        vpc = allocator.vpcs.holder(parse_vpc(endpoint.vpc))
        if not name or vpc is None or allocator.vpc_of(key) not in {None, vpc}:
            return
        allocations = allocator.of(vpc)
        held = allocations.addresses.held_by(key)
        for network in set(map(ip_network, endpoint.networks)) - held:
            if allocations.addresses.holder(network) is None:
                held |= {network}
        allocations.addresses.claim(key, held)
        if allocations.functions.of(key) is None:
            allocations.functions.claim(key, parse_function(endpoint.function))
    except (Rejected, ValueError) as error:
        log.warning("malformed endpoint of a NodeSegment", attachment=endpoint.attachment, error=str(error))
        return
    allocator.assign(key, vpc)


def _enter(allocator: Allocator, caches: Caches, key: Key, attachment: VpcAttachment) -> None:
    vpc = settled_vpc(attachment) or reference(attachment)
    status = attachment.status
    try:
        if status.identifier:
            function = parse_function(status.identifier)
            addresses = tuple(map(ip_interface, status.addresses))
            if status.configuration and allocator.vpcs.of(vpc) is None:  # the VPC was deleted by force
                allocator.vpcs.claim(vpc, parse_vpc(status.configuration.vpc))
        else:
            nad = caches.nads.get(key)
            plugin = _plugin(nad.config) if nad and nad.owner == attachment.metadata.uid else None
            if not plugin or allocator.vpcs.of(vpc) != from_base62(str(plugin["vpc"])):
                return
            function = from_base62(str(plugin["vpcattachment"]))
            addresses = tuple(map(ip_interface, plugin["addresses"]))
        allocations = allocator.of(vpc)
        if not allocations.functions.claim(key, function):
            log.error("duplicate attachment identifier, the attachment gets another", attachment=key, vpc=vpc)
        allocations.addresses.claim(key, [host(address.ip) for address in addresses])
    except (Held, Rejected, ValueError, KeyError, TypeError) as error:
        log.warning("malformed status, allocated again", attachment=key, error=str(error))
        addresses = ()
    allocator.assign(key, vpc)
    allocator.remember(key, addresses)


def _enter_terminations(allocator: Allocator, vpc: Key, key: Key, attachment: VpcAttachment) -> None:
    try:
        parsed = parse_attachment(attachment, None)
        addresses = parsed.addresses or allocator.addresses(key)
        allocator.of(vpc).addresses.claim(key, parsed.holds(addresses))
    except Rejected as problem:
        log.info("terminations not restored, the specification changed", attachment=key, problem=str(problem))


def _oldest_first(objects: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Any]]:
    yield from sorted(objects, key=lambda item: (item[1].metadata.creation_timestamp, item[0]))


def _plugin(config: str) -> dict[str, Any] | None:
    """Our plugin's part of a NAD's configuration."""
    try:
        plugins = json.loads(config)["plugins"]
        own: dict[str, Any] = next(plugin for plugin in plugins if plugin.get("type") == "galactic")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
    return own

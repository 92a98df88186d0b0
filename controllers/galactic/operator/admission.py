"""Admits an attachment to its VPC: checks the grant, claims addresses, terminations and an identifier."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface, ip_network

from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import MAX_VPC_NETWORKS, ConfiguredPeer, VpcAttachment
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key
from galactic.names import parse_function, parse_vpc
from galactic.operator.addresses import Held
from galactic.operator.attachment_counts import settled_vpc
from galactic.operator.context import ReconcileContext
from galactic.operator.objects import Invalid
from galactic.operator.vpcs import Vpcs, count_delay
from galactic.validation.accepting import accepted, declined
from galactic.validation.attachment import ParsedAttachment, outside, parse_attachment
from galactic.validation.grants import granted, may_terminate, refusal, termination_refusal
from galactic.validation.holders import GATEWAY, NESTED, named, unnested
from galactic.validation.networks import Interface, Network, host


@dataclass(frozen=True, slots=True)
class Acceptance:
    """``recorded``: the VPC's networks when the attachment was first ready; None where the VPC is of its namespace.

    ``declined``: networks of the VPC that came later, and that ``spec.acceptedNetworks`` does not mention.
    """

    recorded: tuple[Network, ...] | None = None
    declined: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Admitted:
    """An attachment with everything allocated to it. ``warning``: a sentence or empty. ``revoked``: its grant was.

    ``networks``: those of the VPC and its peers, as far as the attachment accepts them.
    """

    spec: ParsedAttachment
    vpc: int
    function: int
    addresses: tuple[Interface, ...]
    networks: tuple[Network, ...]
    warning: str
    revoked: bool
    acceptance: Acceptance
    peers: tuple[ConfiguredPeer, ...] = ()


class Admission:
    """Claims and releases in the allocator, and wakes the attachments that waited for what was released."""

    def __init__(self, context: ReconcileContext, vpcs: Vpcs) -> None:
        self._context, self._vpcs = context, vpcs

    def admit(self, key: Key, attachment: VpcAttachment) -> Admitted:
        """Nothing is awaited here, so that what was free is free when it is claimed. Raises Rejected or NotYet."""
        allocator, rules = self._context.allocator, self._context.rules
        spec = parse_attachment(attachment, rules.srv6_block)
        if settled_vpc(attachment) not in (None, spec.vpc):
            raise Rejected(
                f"{'/'.join(spec.vpc)} cannot replace {attachment.status.vpc}: immutable once ready; set it back, or "
                "make another attachment",
                reason="Immutable",
                field="spec.vpc",
            )
        vpc, revoked = self._vpc(key, spec.vpc, attachment.status.ready)
        assert vpc.status.identifier is not None
        networks = self._vpcs.networks(spec.vpc, vpc)
        self._assign(key, spec.vpc)
        allocations = allocator.of(spec.vpc)
        try:
            if not _settled(attachment):
                self._within_quota(key, spec)
            peers = self._vpcs.peers.in_force(spec.vpc)
            beyond = tuple(network for peer in peers for network in peer.networks)
            given, acceptance = _acceptance(key, attachment, spec, (*networks, *beyond))
            own = accepted(networks, given)
            addresses = self._addresses(key, attachment, spec, own)
            warning = self._outside(spec, addresses, networks)
            if not _settled(attachment):
                self._may_terminate(key, spec, addresses, vpc)
                enclosing = partial(allocations.addresses.enclosing, namespace=key[0])
                unnested(spec, addresses, networks, enclosing, key[0])
            holds = frozenset(spec.holds(addresses))
            self._check_detached(key, spec.vpc, holds)
            if allocations.addresses.claim(key, holds | self._still_reported(key, spec.vpc, holds)):
                self._wake(allocations.blocked - {key})
            allocator.remember(key, addresses)
            function = self._function(key, spec.vpc, attachment)
        except (Held, NotYet):
            allocations.blocked.add(key)
            raise
        except Rejected as problem:
            if problem.reason == NESTED:
                allocations.blocked.add(key)
            raise
        allocations.blocked.discard(key)
        number = parse_vpc(vpc.status.identifier)
        configured = tuple(peer.configured for peer in peers)
        return Admitted(spec, number, function, addresses, given, warning, revoked, acceptance, configured)

    def release(self, key: Key) -> None:
        """The attachment was deleted: all that it held is free, once no NodeSegment lists it."""
        vpc = self._context.allocator.vpc_of(key)
        if vpc and self._context.caches.reporters(key):
            return  # a pod still has it; a change of the NodeSegment leads here again
        self._wake(self._context.allocator.release(key))
        if vpc:
            self._count(vpc)

    def _count(self, vpc: Key) -> None:
        """The VPC's counts changed."""
        self._context.dirty(("vpc", vpc), count_delay(self._context.caches.vpcs.get(vpc)))

    def _vpc(self, key: Key, name: Key, was_ready: bool) -> tuple[Vpc, bool]:
        """The VPC, ready for attachments, and whether its grant to the attachment was revoked."""
        caches = self._context.caches
        vpc = caches.vpcs.get(name)
        member = self._context.allocator.vpc_of(key) == name
        revoked = False
        if name[0] != key[0]:
            namespace = caches.namespaces.get(("", key[0]))
            allowed = isinstance(vpc, Vpc) and granted(
                vpc.spec.allowed_namespaces, False, namespace.labels if namespace else None
            )
            if not allowed and not (member and was_ready and vpc is not None):
                raise refusal(name, key[0])
            revoked = not allowed
        if vpc is None:
            message = f"VPC {'/'.join(name)} does not exist; make it, or name another in spec.vpc"
            raise NotYet(message, reason="VPCNotFound")
        if isinstance(vpc, Invalid) or not vpc.status.ready or not vpc.status.identifier:
            message = (
                f"VPC {'/'.join(name)} is not ready; kubectl describe vpc -n {name[0]} {name[1]} says why"
            )
            raise NotYet(message, reason="VPCNotReady")
        if vpc.metadata.deletion_timestamp is not None and not member:
            raise NotYet(f"VPC {'/'.join(name)} is being deleted", reason="VPCDeleting")
        return vpc, revoked

    def _assign(self, key: Key, vpc: Key) -> None:
        allocator = self._context.allocator
        previous = allocator.vpc_of(key)
        if previous == vpc:
            return
        if previous is not None and (nodes := self._context.caches.reporters(key)):
            raise NotYet(
                f"an earlier VPCAttachment {'/'.join(key)}, of VPC {'/'.join(previous)}, is still attached on node "
                f"{', '.join(nodes)}; it waits until that pod is detached",
                reason="StillAttached",
            )
        self._wake(allocator.assign(key, vpc))
        for changed in (previous, vpc):
            if changed is not None:
                self._count(changed)

    def _outside(
        self, spec: ParsedAttachment, addresses: tuple[Interface, ...], networks: tuple[Network, ...]
    ) -> str:
        """The warning of addresses outside the VPC's networks. With the rule ``strict`` raises Rejected."""
        if self._context.rules.strict and (given := outside(spec, spec.addresses, networks)):
            raise Rejected(
                f"{given}; give addresses inside them",
                reason="AddressOutsideNetworks",
                field="spec.interface.addresses",
            )
        warning = outside(spec, addresses, networks)
        if warning and not spec.addresses:
            warning += "; an allocated address is kept for as long as the attachment lives"
        return warning

    def _addresses(
        self, key: Key, attachment: VpcAttachment, spec: ParsedAttachment, networks: tuple[Network, ...]
    ) -> tuple[Interface, ...]:
        """The addresses in force: given ones, those allocated earlier, or new ones."""
        if spec.addresses:
            return spec.addresses
        allocator = self._context.allocator
        allocations = allocator.of(spec.vpc)
        allocated = allocator.addresses(key) or _parsed(attachment.status.addresses)
        if allocated:
            return allocated  # also outside the VPC's present networks: a pod may be using them
        if not networks:
            raise NotYet(
                f"no network of VPC {'/'.join(spec.vpc)} lies inside the accepted ones, so there is no address; give "
                "addresses, or add one of its networks to spec.acceptedNetworks",
                reason="NoNetworkAccepted",
            )
        addresses = allocations.addresses.allocate(networks)
        # They are free, so this cannot fail. They are kept even if a termination turns out to be held.
        allocations.addresses.claim(
            key, allocations.addresses.held_by(key) | {host(address.ip) for address in addresses}
        )
        allocator.remember(key, addresses)
        return addresses

    def _within_quota(self, key: Key, spec: ParsedAttachment) -> None:
        """Raises NotYet when the attachment's namespace would hold too many networks of another namespace's VPC."""
        most, allocator = self._context.rules.namespace_networks, self._context.allocator
        if not most or key[0] == spec.vpc[0]:
            return
        present = allocator.of(spec.vpc).addresses
        wanted = len(spec.holds(spec.addresses or allocator.addresses(key))) or 1
        others = present.in_namespace(key[0]) - len(present.held_by(key))
        if others + wanted > most:
            raise NotYet(
                f"namespace {key[0]} would hold {others + wanted} addresses and terminated networks in VPC "
                f"{'/'.join(spec.vpc)}, and may hold {most} (the operator's namespace_networks); delete some",
                reason="NamespaceQuota",
            )

    def _may_terminate(
        self, key: Key, spec: ParsedAttachment, addresses: tuple[Interface, ...], vpc: Vpc
    ) -> None:
        """Raises Rejected when it terminates networks, and the VPC does not let its namespace do so."""
        namespace = self._context.caches.namespaces.get(("", key[0]))
        labels = namespace.labels if namespace else None
        own = key[0] == spec.vpc[0]
        if spec.terminations(addresses) and not may_terminate(vpc.spec.allowed_terminations, own, labels):
            raise termination_refusal(spec.vpc, key[0])

    def _function(self, key: Key, vpc: Key, attachment: VpcAttachment) -> int:
        allocations = self._context.allocator.of(vpc)
        if allocations.functions.of(key) is None and attachment.status.identifier:
            with contextlib.suppress(Rejected):  # a status that another client overwrote may be malformed
                allocations.functions.claim(key, parse_function(attachment.status.identifier))
        return allocations.functions.allocate(key, attachment.metadata.uid)

    def _check_detached(self, key: Key, vpc: Key, networks: Iterable[Network]) -> None:
        """Raises Held for a network of a deleted attachment that a node has not detached yet."""
        caches, addresses = self._context.caches, self._context.allocator.of(vpc).addresses
        for network in networks:
            holder = addresses.holder(network)
            if holder is None or holder == key or holder[1].startswith(GATEWAY):
                continue
            if caches.attachments.get(holder) is None:
                nodes = ", ".join(caches.reporters(holder)) or "its node"
                raise Held(
                    f"{network} is held by {named('VPCAttachment', holder, key[0], vpc[0])}, which was deleted and is "
                    f"still attached on node {nodes}; it waits until that pod is detached; delete the Node if it never "
                    "returns",
                    reason="StillAttached",
                )

    def _still_reported(self, key: Key, vpc: Key, networks: frozenset[Network]) -> frozenset[Network]:
        """Networks that the attachment has given up, and that a node still lists."""
        surplus = self._context.allocator.of(vpc).addresses.held_by(key) - networks
        if not surplus:
            return surplus
        listed = {text for endpoint in self._context.caches.reported(key) for text in endpoint.networks}
        return frozenset(network for network in surplus if str(network) in listed)

    def _wake(self, blocked: Iterable[Key]) -> None:
        for attachment in tuple(blocked):
            self._context.dirty(("attachment", attachment))


def _settled(attachment: VpcAttachment) -> bool:
    """Whether the specification, as it is, was admitted before; an earlier version admits what this one refuses."""
    status = attachment.status
    return status.ready and status.observed_generation >= attachment.metadata.generation


def _acceptance(
    key: Key, attachment: VpcAttachment, spec: ParsedAttachment, networks: tuple[Network, ...]
) -> tuple[tuple[Network, ...], Acceptance]:
    """The networks that the pod gets routes to, and why it gets no others.

    ``networks``: of the VPC, then of its peers.
    """
    status = attachment.status
    recorded = networks[:MAX_VPC_NETWORKS]
    if key[0] == spec.vpc[0]:
        limits = networks if spec.accepted is None else spec.accepted
        return accepted(networks, limits), Acceptance()
    if status.accepted_networks is not None:
        recorded = _stored(status.accepted_networks)
    elif (
        status.configuration is not None
    ):  # made ready by a version without this record: its pod keeps its routes
        recorded = _stored(status.configuration.networks)
    if spec.accepted is not None:
        return accepted(networks, spec.accepted), Acceptance(recorded)
    return accepted(networks, recorded), Acceptance(recorded, declined(networks, recorded))


def _stored(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks of a status. A malformed part counts as empty."""
    networks = []
    for text in texts:
        with contextlib.suppress(ValueError):
            networks.append(ip_network(text))
    return tuple(networks)


def _parsed(texts: tuple[str, ...]) -> tuple[Interface, ...]:
    try:
        return tuple(map(ip_interface, texts))
    except ValueError:
        return ()

"""VPCGateways as nodes act by them: by their status alone, which tenants cannot write."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

from galactic import srv6
from galactic.crds.vpcgateway import PublishedEntry, VpcGateway
from galactic.linux.objects import Address, Network
from galactic.names import parse_function, parse_vpc
from galactic.srv6 import parse_sid


@dataclass(frozen=True, slots=True)
class Exit:
    """A node that leads out. ``addresses``: those of the gateway that it holds."""

    node: str
    segment: IPv6Address
    addresses: tuple[Address, ...]
    ready: bool

    @property
    def loopback(self) -> IPv6Address:
        """The node's SRv6 loopback, which answers as long as the node does."""
        return IPv6Address(int(self.segment) | (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Published:
    """An address and port outside that lead to ready pods. ``node``: the holder of the address. ``inside``: the source
    that pods see. ``protocol``: tcp or udp. ``target``: the pods' port.
    """

    address: Address
    port: int
    protocol: str
    node: str
    inside: Address
    target: int
    endpoints: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Gateway:
    """``families``: 4, 6. ``forbidden``: destinations that are not led to."""

    name: str  # namespace/name
    vpc: int
    function: int
    families: frozenset[int]
    snat: bool
    networks: tuple[Network, ...]
    forbidden: tuple[Network, ...]
    exits: tuple[Exit, ...]
    published: tuple[Published, ...] = ()

    def held(self, node: str) -> tuple[Published, ...]:
        """The entries whose address that node holds."""
        return tuple(one for one in self.published if one.node == node)

    def here(self, node: str) -> Exit | None:
        """The exit on that node."""
        return next((one for one in self.exits if one.node == node), None)

    def serving(self, family: int) -> tuple[Exit, ...]:
        """The exits that are ready for a family: with SNAT, those that hold an address of it."""
        if family not in self.families:
            return ()
        return tuple(one for one in self.exits if one.ready and self.leads(one, family))

    def leads(self, exit_: Exit, family: int) -> bool:
        """Whether that exit leads out packets of the family."""
        if family not in self.families:
            return False
        return not self.snat or any(address.version == family for address in exit_.addresses)

    def of(self, family: int) -> tuple[Network, ...]:
        """The VPC's networks of the family."""
        return tuple(network for network in self.networks if network.version == family)


def gateway_of(stored: VpcGateway) -> Gateway | None:
    """The gateway; None where the operator has not decided yet, or has refused it. Raises Rejected or ValueError."""
    status, meta = stored.status, stored.metadata
    if not (status.identifier and status.function and status.nodes):
        return None
    vpc, function = parse_vpc(status.identifier), parse_function(status.function)
    exits = []
    for node in status.nodes:
        sid = parse_sid(node.sid)
        if (sid.vpc, sid.function) != (vpc, function):
            raise ValueError(f"{node.sid} is no SID of gateway {meta.namespace}/{meta.name}")
        exits.append(Exit(node.node, sid.address, tuple(map(ip_address, node.addresses)), node.ready))
    return Gateway(
        f"{meta.namespace}/{meta.name}",
        vpc,
        function,
        frozenset(int(family[-1]) for family in status.families),
        bool(status.snat),
        tuple(map(ip_network, status.networks)),
        tuple(map(ip_network, status.forbidden)),
        tuple(exits),
        tuple(_published(status.published)) if status.snat else (),
    )


def _published(entries: Iterable[PublishedEntry]) -> Iterable[Published]:
    """Those that lead somewhere: an entry without a node or an inside address is not in force yet."""
    for entry in entries:
        if not (entry.node and entry.inside):
            continue
        address, inside = ip_address(entry.address), ip_address(entry.inside)
        endpoints = tuple(map(ip_address, entry.endpoints))
        if {inside.version, *(one.version for one in endpoints)} != {address.version}:
            raise ValueError(f"{entry.address} leads to addresses of another family")
        yield Published(
            address, entry.port, entry.protocol.lower(), entry.node, inside, entry.target_port, endpoints
        )


def by_vpc(gateways: Iterable[Gateway]) -> dict[int, Gateway]:
    """One a VPC, as the operator accepts no second: of several the first by name."""
    chosen: dict[int, Gateway] = {}
    for gateway in sorted(gateways, key=lambda one: one.name):
        chosen.setdefault(gateway.vpc, gateway)
    return chosen


class GatewayState:
    """The gateways of all VPCs, and what is known of their exits. Kept by the store."""

    def __init__(self) -> None:
        self.node = ""
        """This Node's name."""
        self.all: Mapping[int, Gateway] = {}
        self.away: AbstractSet[str] = frozenset()
        """Nodes of exits that do not answer."""
        self.filtered: AbstractSet[int] = frozenset()
        """VPCs whose rules are in the packet filter: no way out is made without them."""
        self.leading: tuple[str, ...] | None = None
        """The SIDs of the ways out that are in this node's kernel; None before it was read."""
        self.publishing: tuple[str, ...] | None = None
        """The published addresses whose rules are in this node's kernel, as well as their way in; None before it was
        read.
        """

    def exit_here(self, vpc: int, prefix: IPv6Network | None) -> Exit | None:
        """The VPC's exit on this node, if there is one and its SID is of the node's present prefix."""
        gateway = self.all.get(vpc)
        if gateway is None or prefix is None:
            return None
        here = gateway.here(self.node)
        return here if here is not None and here.segment in srv6.locator(prefix) else None

    def led_out(self, prefix: IPv6Network | None) -> frozenset[int]:
        """The VPCs that this node leads out."""
        return frozenset(vpc for vpc in self.all if self.exit_here(vpc, prefix))

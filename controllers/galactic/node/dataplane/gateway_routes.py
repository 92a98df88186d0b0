"""The kernel objects of a VPC for its way out: default routes to its gateway's exits, or the exit on this node. Pure.

A gateway with SNAT has a VRF of its own between the VPC's and the table main: what is translated on its way in has to
leave by a device, ahead of any encapsulation (docs/design/gateways.md).
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_interface, ip_network
from typing import Final, NamedTuple

from galactic import names
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    UNREACHABLE_METRIC,
    WAY_OUT_METRIC,
    Address,
    Balanced,
    Encap,
    EndDT46,
    Link,
    Network,
    Objects,
    RouteTarget,
    Unreachable,
    Via,
    route_key,
)
from galactic.node.dataplane.gateway_shares import shares
from galactic.node.dataplane.plan import (
    DEFAULTS,
    GATEWAY4,
    GATEWAY6,
    OVERHEAD,
    TABLES,
    Host,
    device_sysctls,
    mac,
)
from galactic.node.state.attachment import SMALLEST_MTU
from galactic.node.state.gateways import Exit, Gateway, GatewayState

OUTSIDE: Final[Mapping[int, Address]] = {4: IPv4Address("169.254.1.2"), 6: IPv6Address("fe80::2")}
"""M's addresses, the next hop of a VRF's default route. E has those of host ends."""
INSIDE: Final[Mapping[int, Address]] = {4: GATEWAY4, 6: GATEWAY6}
INNER: Final[Mapping[int, Address]] = {4: IPv4Address("169.254.1.3"), 6: IPv6Address("fe80::3")}
JOIN: Final[Mapping[int, Address]] = {4: IPv4Address("169.254.1.4"), 6: IPv6Address("fe80::4")}
"""The addresses of the ends I and J. A VRF's next hop cannot be an address of the same VRF."""
_LENGTHS: Final = {4: 32, 6: 64}


def objects(facts: Host, vpc: int, table: int, gateways: GatewayState) -> Objects:
    """A VPC's: the way out here, or the default routes to its exits."""
    gateway = gateways.all.get(vpc)
    if gateway is None:
        return Objects()
    if here := gateways.exit_here(vpc, facts.prefix):
        if vpc not in gateways.filtered:
            return Objects()
        plan = way_out(facts, table, gateway, here)
    else:
        plan = Objects(routes=defaults(facts, table, gateway, gateways.away))
    plan.routes |= returns(facts, table, gateway, here)
    return plan


def returns(facts: Host, table: int, gateway: Gateway, here: Exit | None) -> dict[bytes, RouteTarget]:
    """The routes of answers to connections from outside: to the node that translates them."""
    ways: dict[str, RouteTarget] = {
        one.node: Encap(LOOPBACK_DEVICE, one.segment.packed, facts.encap) for one in gateway.exits
    }
    routes: dict[bytes, RouteTarget] = {}
    for one in gateway.published:
        key = route_key(table, ip_network(one.inside), WAY_OUT_METRIC)
        if here is not None and one.node == here.node:
            join = names.join_end(gateway.vpc, gateway.function)
            routes[key] = Via(join, INNER[one.inside.version].packed)
        elif one.node in ways:
            routes[key] = ways[one.node]
    return routes


def defaults(facts: Host, table: int, gateway: Gateway, away: AbstractSet[str]) -> dict[bytes, RouteTarget]:
    """The VPC's default routes to exits on other nodes."""
    routes: dict[bytes, RouteTarget] = {}
    for everything in DEFAULTS:
        exits = gateway.serving(everything.version)
        hops = shares(exits, {one for one in exits if one.node in away})
        if hops and not balanced(facts, gateway, everything.version):
            hops = [max(hops, key=lambda hop: _preference(facts, hop[0]))]
        key = route_key(table, everything, WAY_OUT_METRIC)
        if len(hops) == 1:
            routes[key] = Encap(LOOPBACK_DEVICE, hops[0][0].segment.packed, facts.encap)
        elif hops:
            weighted = tuple((one.segment.packed, weight) for one, weight in hops)
            routes[key] = Balanced(LOOPBACK_DEVICE, weighted, facts.encap)
    return routes


def balanced(facts: Host, gateway: Gateway, family: int) -> bool:
    """Whether a node uses several exits at once.

    The kernel's hash of an IPv6 packet has its flow label in it, which TCP changes when it repeats a packet (RFC 6438
    §3, ``net.core.txrehash``): behind SNAT such a connection would end.
    """
    return facts.multipath if family == 4 else not gateway.snat


def _preference(facts: Host, exit_: Exit) -> bytes:
    """The highest is this node's choice, where it can have but one: nodes and VPCs have different ones."""
    return blake2b(facts.prefix.network_address.packed + exit_.segment.packed, digest_size=8).digest()


def way_out(facts: Host, table: int, gateway: Gateway, here: Exit) -> Objects:
    """The exit on this node: a veth pair from the VRF to the table main, and the routes through it."""
    plan = Objects()
    number = gateway.vpc, gateway.function
    out, main = names.exit_end(*number), names.main_end(*number)
    own = names.gateway_vrf(*number) if gateway.snat else names.vrf(gateway.vpc)
    _pair(plan, facts, End(out, own, INSIDE), End(main, "", OUTSIDE))
    for everything in DEFAULTS:
        family = everything.version
        led = gateway.leads(here, family)
        key, hop = route_key(table, everything, WAY_OUT_METRIC), Via(out, OUTSIDE[family].packed)
        if not gateway.snat:
            if led:
                plan.routes[key] = hop
            continue
        if led:
            plan.routes[key] = Via(names.join_end(*number), INNER[family].packed)
        if led or any(one.address.version == family for one in gateway.held(here.node)):
            plan.routes[route_key(table + TABLES, everything, WAY_OUT_METRIC)] = hop
    if gateway.snat:
        _between(plan, facts, table, gateway)
    for network in led_back(gateway, here):
        plan.routes[route_key(MAIN_TABLE, network)] = Via(main, INSIDE[network.version].packed)
    plan.routes[route_key(MAIN_TABLE, IPv6Network((here.segment, 128)))] = EndDT46(
        names.vrf(gateway.vpc), table
    )
    return plan


class End(NamedTuple):
    """An end of a veth pair. ``vrf``: "" for none."""

    device: str
    vrf: str
    addresses: Mapping[int, Address]


def _pair(plan: Objects, facts: Host, *ends: End) -> None:
    # Packets from outside that are too big after encapsulation are refused ahead of it, by the host, which knows the
    # sender's addresses.
    mtu = max(facts.mtu - OVERHEAD[facts.encap], SMALLEST_MTU)
    for end, other in zip(ends, reversed(ends), strict=True):
        plan.links[end.device] = Link("veth", 0, end.vrf, mtu, ("", other.device), mac=mac(end.device))
        plan.sysctls |= device_sysctls(end.device)
        for family, length in _LENGTHS.items():
            plan.addresses[end.device, ip_interface((end.addresses[family], length))] = False


def _between(plan: Objects, facts: Host, table: int, gateway: Gateway) -> None:
    """The gateway's own VRF, and the pair that joins it with the VPC's."""
    number = gateway.vpc, gateway.function
    own, inner, join = names.gateway_vrf(*number), names.inner_end(*number), names.join_end(*number)
    plan.links[own] = Link("vrf", table=table + TABLES, mac=mac(own))
    plan.sysctls |= device_sysctls(own)
    for default in DEFAULTS:
        plan.routes[route_key(table + TABLES, default, UNREACHABLE_METRIC)] = Unreachable()
    _pair(plan, facts, End(inner, own, INNER), End(join, names.vrf(gateway.vpc), JOIN))
    for network in gateway.networks:
        plan.routes[route_key(table + TABLES, network)] = Via(inner, JOIN[network.version].packed)


def led_back(gateway: Gateway, here: Exit) -> Iterable[Network]:
    """The destinations outside that lead into the VPC here: the addresses held here, or without SNAT its networks."""
    if gateway.snat:
        held = {*here.addresses, *(one.address for one in gateway.held(here.node))}
        return tuple(ip_network(address) for address in held if address.version in gateway.families)
    return tuple(network for network in gateway.networks if network.version in gateway.families)

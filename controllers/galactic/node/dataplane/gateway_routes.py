"""The kernel objects of a VPC for its way out: default routes to its gateway's exits, or the exit on this node.
Pure.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_interface, ip_network
from typing import Final

from galactic import names
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    WAY_OUT_METRIC,
    Address,
    Balanced,
    Encap,
    EndDT46,
    Link,
    Network,
    Objects,
    RouteTarget,
    Via,
    route_key,
)
from galactic.node.dataplane.gateway_shares import shares
from galactic.node.dataplane.plan import (
    DEFAULTS,
    GATEWAY4,
    GATEWAY6,
    OVERHEAD,
    Host,
    device_sysctls,
    mac,
)
from galactic.node.state.attachment import SMALLEST_MTU
from galactic.node.state.gateways import Exit, Gateway, GatewayState

OUTSIDE: Final[Mapping[int, Address]] = {4: IPv4Address("169.254.1.2"), 6: IPv6Address("fe80::2")}
"""M's addresses, the next hop of a VRF's default route. E has those of host ends."""
INSIDE: Final[Mapping[int, Address]] = {4: GATEWAY4, 6: GATEWAY6}


def objects(facts: Host, vpc: int, table: int, gateways: GatewayState) -> Objects:
    """A VPC's: the way out here, or the default routes to its exits."""
    gateway = gateways.all.get(vpc)
    if gateway is None:
        return Objects()
    if here := gateways.exit_here(vpc, facts.prefix):
        return way_out(facts, table, gateway, here) if vpc in gateways.filtered else Objects()
    return Objects(routes=defaults(facts, table, gateway, gateways.away))


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
    vrf, out, main = names.vrf(gateway.vpc), names.exit_end(*number), names.main_end(*number)
    # Packets from outside that are too big after encapsulation are refused ahead of it, by the host, which knows the
    # sender's addresses.
    mtu = max(facts.mtu - OVERHEAD[facts.encap], SMALLEST_MTU)
    plan.links[out] = Link("veth", 0, vrf, mtu, ("", main), mac=mac(out))
    plan.links[main] = Link("veth", 0, "", mtu, ("", out), mac=mac(main))
    plan.sysctls = device_sysctls(out) | device_sysctls(main)
    for address, length in ((GATEWAY4, 32), (GATEWAY6, 64)):
        plan.addresses[out, ip_interface((address, length))] = False
    for family, length in ((4, 32), (6, 64)):
        plan.addresses[main, ip_interface((OUTSIDE[family], length))] = False
    for everything in DEFAULTS:
        if gateway.leads(here, everything.version):
            hop = Via(out, OUTSIDE[everything.version].packed)
            plan.routes[route_key(table, everything, WAY_OUT_METRIC)] = hop
    for network in led_back(gateway, here):
        plan.routes[route_key(MAIN_TABLE, network)] = Via(main, INSIDE[network.version].packed)
    plan.routes[route_key(MAIN_TABLE, IPv6Network((here.segment, 128)))] = EndDT46(vrf, table)
    return plan


def led_back(gateway: Gateway, here: Exit) -> Iterable[Network]:
    """The destinations outside that lead into the VPC here: the addresses held here, or without SNAT its networks."""
    if gateway.snat:
        return tuple(ip_network(address) for address in here.addresses if address.version in gateway.families)
    return tuple(network for network in gateway.networks if network.version in gateway.families)

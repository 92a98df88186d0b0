"""The kernel plan of a node as a pure function (docs/architecture.md, "The kernel plan")."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import Final

from galactic import names, srv6
from galactic.linux.fib_rules import UNDERLAY_PRIORITY
from galactic.linux.kept_neighbours import solicited_node
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    UNREACHABLE_METRIC,
    Address,
    Direct,
    EncapMode,
    EndDT46,
    Family,
    Interface,
    Link,
    LookupOrder,
    Neighbour,
    Network,
    Objects,
    Rule,
    Unreachable,
    Via,
    route_key,
)
from galactic.node.state.attachment import SMALLEST_MTU, Attachment

FIRST_TABLE: Final = 1_000_000_000
TABLES: Final = 1_000_000_000
GATEWAY4: Final = IPv4Address("169.254.1.1")
GATEWAY6: Final = IPv6Address("fe80::1")
DEVICE_SYSCTLS: Final = {
    "ipv4": {
        "forwarding": "1",
        "rp_filter": "0",
        "proxy_arp": "0",
        "arp_ignore": "0",
        "route_localnet": "0",
    },
    "ipv6": {
        "disable_ipv6": "0",
        "forwarding": "1",
        "accept_ra": "0",
        "seg6_enabled": "0",
        "rpl_seg_enabled": "0",
    },
}
"""Of VRFs and host ends. New devices inherit them from ``default``, but systemd-sysctl and other programs set those of
`net.ipv4.conf.*` when a device appears. Routing headers of pods (seg6, RPL) would pass the packet filter.
"""
DEFAULTS: Final[tuple[Network, ...]] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
POD_METRIC: Final = 2154
"""Of routes inside pods, for the first interface; each further one has the next. Less preferred than the metrics of the
default network's routes (0 for IPv4, 1024 for IPv6), which routes to the same destinations leave in place.
"""
OVERHEAD: Final = {"encap.red": 40, "encap": 64}
"""Bytes: an IPv6 header, and with ``encap`` a segment routing header of one segment (RFC 8754 §2)."""


@dataclass(frozen=True, slots=True)
class Host:
    """The facts that the plan depends on besides attachments and routes."""

    prefix: IPv6Network
    block: IPv6Network
    underlay: str
    encap: EncapMode = "encap.red"
    mtu: int = 1500  # of the underlay
    advertised: tuple[str, ...] = ()  # interfaces on which the kernel heeds router advertisements
    multipath: bool = True  # IPv4 routes may have several next hops


def tables(hosted: Iterable[int], known: Mapping[int, int]) -> dict[int, int]:
    """VPC → table number: the number that the kernel's VRF has, else one made of the VPC's identifier.

    Ten digits, a one and the identifier's last nine, so that a VPC has the same table on every node and after every
    restart; the next free number where two VPCs of a node would have the same.
    """
    chosen = {vpc: known[vpc] for vpc in hosted if vpc in known}
    used = set(known.values())
    for vpc in sorted(set(hosted) - chosen.keys()):
        number = vpc % TABLES
        while FIRST_TABLE + number in used:
            number = (number + 1) % TABLES
        chosen[vpc] = FIRST_TABLE + number
        used.add(chosen[vpc])
    return chosen


def tables_of(actual: Objects) -> dict[int, int]:
    """VPC → table number, of the VRFs in the kernel."""
    numbers = {}
    for name, link in actual.links.items():
        parts = names.parse_interface(name)
        if parts and parts[2] == "V" and link.kind == "vrf":
            numbers[parts[0]] = link.table
    return numbers


def host(facts: Host) -> Objects:
    """The node's own objects, without any attachment."""
    plan = Objects()
    plan.links[LOOPBACK_DEVICE] = Link("dummy", mac=mac(LOOPBACK_DEVICE))
    plan.addresses[LOOPBACK_DEVICE, IPv6Interface((srv6.loopback(facts.prefix), 128))] = False
    plan.routes[route_key(MAIN_TABLE, srv6.locator(facts.prefix))] = Unreachable()
    plan.rules[Rule(UNDERLAY_PRIORITY, facts.block, MAIN_TABLE)] = None
    plan.lookups = lookups(facts.block)
    plan.sysctls["net/vrf/strict_mode"] = "1"
    # First: where forwarding is switched on, the kernel drops routes of advertisements on interfaces that have not 2.
    for device in facts.advertised:
        plan.sysctls[f"net/ipv6/conf/{device}/accept_ra"] = "2"
    for device in ("all", "default", facts.underlay, LOOPBACK_DEVICE):
        plan.sysctls[f"net/ipv4/conf/{device}/forwarding"] = "1"
        plan.sysctls[f"net/ipv4/conf/{device}/rp_filter"] = "0"
        plan.sysctls[f"net/ipv6/conf/{device}/forwarding"] = "1"
        if device == LOOPBACK_DEVICE or device not in _of_advertisements(facts):
            plan.sysctls[f"net/ipv6/conf/{device}/accept_ra"] = "0"
            plan.sysctls[f"net/ipv6/conf/{device}/autoconf"] = "0"
        # Devices made later inherit `default`, and must refuse: a packet of a pod to its gateway, with a routing header
        # of the pod's own, would be forwarded to any SID, past PREROUTING. So would one to the node from outside.
        # Actions on SIDs work without; the kernel accepts such packets only where both `all` and the device are 1.
        plan.sysctls[f"net/ipv6/conf/{device}/seg6_enabled"] = "1" if device == "all" else "0"
    return plan


def _of_advertisements(facts: Host) -> set[str]:
    """The places below net/ipv6/conf that stay as they are where an interface depends on router advertisements."""
    return {*facts.advertised, "all", "default"} if facts.advertised else set()


def lookups(block: IPv6Network) -> dict[Family, LookupOrder]:
    """The order of the policy rules of each family."""
    return {4: LookupOrder(), 6: LookupOrder(block=block)}


def vpc(number: int, table: int) -> Objects:
    """A VPC's own objects on a node: its VRF, and the end of every look-up in it."""
    plan = Objects()
    plan.links[names.vrf(number)] = Link("vrf", table=table, mac=mac(names.vrf(number)))
    plan.sysctls = device_sysctls(names.vrf(number))
    for default in DEFAULTS:
        plan.routes[route_key(table, default, UNREACHABLE_METRIC)] = Unreachable()
    return plan


def attached(facts: Host, table: int, attachment: Attachment, holds: Callable[[Network], bool]) -> Objects:
    """One attachment's objects on the host. ``holds``: whether a network that several announce is this one's."""
    plan = Objects()
    device = names.host_end(attachment.vpc, attachment.function)
    vrf = names.vrf(attachment.vpc)
    peer = (attachment.netns, attachment.ifname)
    plan.links[device] = Link("veth", 0, vrf, mtu(facts, attachment), peer, mac=mac(device))
    plan.sysctls = device_sysctls(device)
    plan.addresses[device, ip_interface((GATEWAY4, 32))] = False
    plan.addresses[device, ip_interface((GATEWAY6, 64))] = False
    for address in attachment.addresses:
        if holds(host := ip_network(address.ip)):
            plan.routes[route_key(table, host)] = Direct(device)
    plan.neighbours = _neighbours(device, (address.ip for address in attachment.addresses))
    for termination in attachment.terminations:
        if holds(termination.network):
            plan.routes.setdefault(route_key(table, termination.network), Via(device, termination.via.packed))
    sid = srv6.sid(facts.prefix, attachment.vpc, attachment.function).address
    plan.routes[route_key(MAIN_TABLE, IPv6Network((sid, 128)))] = EndDT46(vrf, table)
    return plan


def device_sysctls(device: str) -> dict[str, str]:
    """The sysctls of a device of Galactic's."""
    return {
        f"net/{family}/conf/{device}/{name}": value
        for family, values in DEVICE_SYSCTLS.items()
        for name, value in values.items()
    }


def pod(attachment: Attachment, rank: int = 0) -> Objects:
    """The objects inside the pod's namespace: its addresses, its gateways, and the networks reached through the VPC.

    Several interfaces of a pod have routes to the same networks with different metrics; the first's come first.
    A VPC has no default route to give; that of an attachment itself is two halves, ahead of the default network's.
    """
    plan = Objects()
    device = attachment.ifname
    own = set(attachment.announces)
    for address in attachment.addresses:
        plan.addresses[device, address] = True
    families = {address.version for address in attachment.addresses}
    metric = POD_METRIC + rank
    if 4 in families:
        plan.routes[route_key(MAIN_TABLE, ip_network(GATEWAY4), metric)] = Direct(device)
    plan.neighbours = _neighbours(device, _gateways(attachment, families))
    gateways = {4: Via(device, GATEWAY4.packed), 6: Via(device, GATEWAY6.packed)}
    given = (network for network in attachment.networks if network.prefixlen)
    halves = (
        half for route in attachment.routes for half in ((route,) if route.prefixlen else route.subnets())
    )
    for network in (*given, *halves):
        if network.version in families and network not in own:
            plan.routes[route_key(MAIN_TABLE, network, metric)] = gateways[network.version]
    return plan


def _neighbours(device: str, addresses: Iterable[Address]) -> dict[Neighbour, None]:
    """The addresses, and the groups by which those of IPv6 are solicited."""
    kept = ((device, one) for address in addresses for one in (address, *solicited_node(address)))
    return dict.fromkeys(kept)


def _gateways(attachment: Attachment, families: AbstractSet[int]) -> Iterator[IPv4Address | IPv6Address]:
    """The host end's addresses that the pod has to know.

    The kernel solicits the pod from the link-local address that it makes of the host end's MAC itself.
    """
    if 4 in families:
        yield GATEWAY4
    if 6 in families:
        yield GATEWAY6
        yield link_local(mac(names.host_end(attachment.vpc, attachment.function)))


def link_local(mac: str) -> IPv6Address:
    """The address that the kernel makes of a MAC (RFC 4291 §2.5.1, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 0x02,)) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def mac(device: str) -> str:
    """A locally administered MAC for a device, of its name. One that is given at creation is never replaced by udev."""
    return (b"\x02" + blake2b(device.encode(), digest_size=5).digest()).hex(":")


def mtu(facts: Host, attachment: Attachment) -> int:
    """The largest MTU that fits into the underlay, or the attachment's where that is smaller."""
    fits = max(facts.mtu - OVERHEAD[facts.encap], SMALLEST_MTU)
    return min(attachment.mtu or fits, fits)


def gateway(address: Interface) -> IPv4Address | IPv6Address:
    """The pod's next hop for an address of that family."""
    return GATEWAY4 if address.version == 4 else GATEWAY6

"""The packet filter's table for gateways: which packets of a VPC leave by this node, and with which source. Pure.

The pair of devices E (in the VRF) and M (in no VRF) separates the two: what concerns the VPC happens where packets pass
E, and packets pass M with the gateway's address. ``GALACTIC-…`` chains (galactic.linux.firewall) treat both as devices
of tenants.

With SNAT pods' packets come from I, in the gateway's own VRF; else from the VPC's VRF. For published ports the
destination is translated where packets enter by E, the source where they leave by I
(``galactic.node.dataplane.published_rules``).

Connections are tracked between I and E only, in a zone of the VPC: VPCs may have equal addresses. Zones are set ahead
of those chains (priority -300), which exclude from tracking what has no zone. On M's side no packet is tracked, so that
no NAT of the host applies to it; nor does any apply in the VRF, as the first NAT chain decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import collapse_addresses
from typing import Final

from galactic import names
from galactic.linux.connections import Held, Service
from galactic.linux.nftables import Chain, Set, Table
from galactic.linux.objects import Address, Network
from galactic.node.dataplane import connection_rules, published_rules
from galactic.node.state.gateways import Exit, Gateway, Published

TABLE: Final = "inet galactic-gateways"
ZONES: Final = 65535
UDP: Final = 17
IP: Final = {4: "ip", 6: "ip6"}
ALWAYS: Final = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    6: ("::/96", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8"),
}
"""Destinations that no gateway leads to: of a host or a link (RFC 6890), the metadata service 169.254.169.254
included.
"""


@dataclass(frozen=True, slots=True)
class WayOut:
    """A gateway, and its exit on this node."""

    gateway: Gateway
    exit: Exit

    @property
    def published(self) -> tuple[Published, ...]:
        """The published ports here."""
        return self.gateway.held(self.exit.node)


def zones(vpcs: Iterable[int]) -> dict[int, int]:
    """A connection tracking zone for each VPC: of its identifier, the next free one where two would have the same."""
    chosen: dict[int, int] = {}
    used: set[int] = set()
    for vpc in sorted(vpcs):
        zone = 1 + vpc % ZONES
        while zone in used:
            zone = 1 + zone % ZONES
        used.add(zone)
        chosen[vpc] = zone
    return chosen


def table(ways: Iterable[WayOut], connections: int = connection_rules.CONNECTIONS) -> Table:
    """The table for the ways out of this node; without any, none. ``connections``: of a VPC, in each family and
    direction.
    """
    ways = list(ways)
    if not ways:
        return Table(TABLE)
    zone = zones(way.gateway.vpc for way in ways)
    sets: dict[str, Set] = {}
    bounds: dict[str, Chain] = {}
    before: list[str] = []
    tracked: list[str] = []
    replies: list[str] = []
    forwarded: list[str] = []
    translated: list[str] = []
    for way in ways:
        gateway = way.gateway
        _sets(gateway, sets)
        inside, out, main = _devices(gateway)
        before += _before(way, zone[gateway.vpc])
        forwarded += published_rules.refused(main, way.published)
        forwarded += _forwarded(gateway)
        if gateway.snat:
            sets |= connection_rules.sets(gateway, connections)
            bounds |= connection_rules.chains(gateway, connections)
            forwarded += connection_rules.bounded(gateway)
            tracked += [
                f'iifname "{inside}" meta nfproto ipv{family} dnat {IP[family]} to {IP[family]} daddr'
                for family in sorted(gateway.families)
            ]
            tracked += published_rules.destinations(out, way.published)
            translated += published_rules.sources(gateway, way.published)
            replies += published_rules.admitted(gateway, way.published)
            replies += [
                f'iifname "{out}" ip6 saddr fe80::/10 accept',
                f'iifname "{out}" ct state != {{ established, related }} drop',
            ]
            translated += _translated(way)
        else:
            replies += [f'iifname "{out}" ip6 saddr fe80::/10 accept']
            replies += [
                f'iifname "{out}" {IP[family]} daddr != @{_networks(gateway, family)} drop'
                for family in (4, 6)
            ]
        before += _main(way, main)
    chains = {
        "before": Chain(tuple(before), "type filter hook prerouting priority -310"),
        "replies": Chain(tuple(replies), "type filter hook prerouting priority -190"),
        "tracked": Chain(tuple(tracked), "type nat hook prerouting priority -190"),
        "forwarded": Chain(tuple(forwarded), "type filter hook forward priority -10"),
        "translated": Chain(tuple(translated), "type nat hook postrouting priority 90"),
    }
    return Table(TABLE, bounds | {name: chain for name, chain in chains.items() if chain.rules}, sets)


def held(ways: Iterable[WayOut]) -> frozenset[Held]:
    """The addresses at which ports are published, or may have been."""
    ways = list(ways)
    zone = zones(way.gateway.vpc for way in ways)
    return frozenset(
        Held(zone[way.gateway.vpc], address)
        for way in ways
        for address in (*way.exit.addresses, *(one.address for one in way.published))
    )


def served(ways: Iterable[WayOut]) -> dict[Service, frozenset[Address]]:
    """The pods of each published UDP port."""
    ways = list(ways)
    zone = zones(way.gateway.vpc for way in ways)
    return {
        Service(zone[way.gateway.vpc], UDP, one.address, one.port): frozenset(one.endpoints)
        for way in ways
        for one in way.published
        if one.protocol == "udp"
    }


def _devices(gateway: Gateway) -> tuple[str, str, str]:
    """The device that pods' packets come from, E and M."""
    number = gateway.vpc, gateway.function
    inside = names.inner_end(*number) if gateway.snat else names.vrf(gateway.vpc)
    return inside, names.exit_end(*number), names.main_end(*number)


def _networks(gateway: Gateway, family: int) -> str:
    return f"n{family}-{names.vpc_hex(gateway.vpc)}"


def _forbidden(gateway: Gateway, family: int) -> str:
    return f"f{family}-{names.vpc_hex(gateway.vpc)}"


def _sets(gateway: Gateway, sets: dict[str, Set]) -> None:
    for family in (4, 6):
        kind = f"type ipv{family}_addr; flags interval;"
        sets[_networks(gateway, family)] = Set("set", kind, _elements(gateway.of(family)))
        networks = [network for network in gateway.forbidden if network.version == family]
        sets[_forbidden(gateway, family)] = Set("set", kind, _elements(networks))


def _elements(networks: Iterable[Network]) -> Mapping[str, str]:
    merged: Iterable[Network] = collapse_addresses(networks)  # type: ignore[type-var]
    return {str(network): "" for network in merged}


def _before(way: WayOut, zone: int) -> list[str]:
    gateway = way.gateway
    inside, out, _ = _devices(gateway)
    rules = published_rules.tracked(inside, way.published, zone)
    within = "drop" if gateway.snat else "accept"  # from I it would go round
    for family in (4, 6):
        ip = IP[family]
        rules += [
            f'iifname "{inside}" {ip} daddr @{_networks(gateway, family)} {within}',
            f'iifname "{inside}" {ip} daddr {{ {", ".join(ALWAYS[family])} }} accept',
            f'iifname "{inside}" {ip} daddr @{_forbidden(gateway, family)} drop',
        ]
    if gateway.snat:
        rules.append(f'iifname {{ "{inside}", "{out}" }} ct zone set {zone} accept')
    return rules


def _main(way: WayOut, main: str) -> list[str]:
    """On M's side. Neighbour discovery comes from E's link-local address."""
    rules = [
        f'iifname "{main}" ip6 saddr fe80::/10 accept',
        f'iifname "{main}" fib daddr type != unicast drop',
        f'iifname "{main}" notrack',
    ]
    held: dict[int, list[str]] = {4: [], 6: []}
    addresses = {*way.exit.addresses, *(one.address for one in way.published)}
    for address in sorted(addresses, key=str) if way.gateway.snat else ():
        held[address.version].append(str(address))
    if not way.gateway.snat:
        held = {family: [str(network) for network in way.gateway.of(family)] for family in (4, 6)}
    rules += [
        f'iifname != "G*" {IP[family]} daddr {{ {", ".join(held[family])} }} notrack'
        for family in held
        if held[family]
    ]
    return rules


def _forwarded(gateway: Gateway) -> list[str]:
    _, out, _ = _devices(gateway)
    rules = []
    for family in (4, 6):
        ip = IP[family]
        rules += [f'oifname "{out}" {ip} daddr {{ {", ".join(ALWAYS[family])} }} drop']
        if gateway.published:
            rules += [f'oifname "{out}" meta nfproto ipv{family} ct status dnat ct direction reply accept']
        rules += [
            f'oifname "{out}" {ip} saddr != @{_networks(gateway, family)} drop',
            f'oifname "{out}" {ip} daddr @{_forbidden(gateway, family)} drop',
        ]
    if gateway.snat:
        rules.append(f'oifname "{out}" ct state {{ invalid, untracked }} drop')
    return rules


def _translated(way: WayOut) -> list[str]:
    _, out, _ = _devices(way.gateway)
    rules = []
    for family in (4, 6):
        addresses = [address for address in way.exit.addresses if address.version == family]
        if addresses and family in way.gateway.families:
            rules.append(
                f'oifname "{out}" meta nfproto ipv{family} snat {IP[family]} to {_chosen(family, addresses)}'
            )
    return rules


def _chosen(family: int, addresses: list[Address]) -> str:
    """One address, or of several one by the pod's address, so that a pod has the same one outside for all it does."""
    if len(addresses) == 1:
        return str(addresses[0])
    choices = ", ".join(f"{index} : {address}" for index, address in enumerate(addresses))
    return f"jhash {IP[family]} saddr mod {len(addresses)} seed 0x154 map {{ {choices} }}"

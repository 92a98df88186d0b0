"""The table of nftables that enforces rules at host ends: a pure function.

A packet from a pod is judged where its host end receives it, after forged sources were dropped; a packet to a pod where
it is forwarded to the host end. The device's name leads to the chains of the attachment; of an attachment without rules
it leads nowhere, and that look-up is all that its packets pay.

Connections are remembered in sets of the attachment's own, which rules fill: the kernel's connection tracking loses a
connection where a packet is encapsulated, and is shared by all VPCs (docs/design/policies.md).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from galactic.linux.nftables import Chain, Set, Table
from galactic.node.policies.classes import Access, Classes, Ip, classes
from galactic.node.policies.rules import LAST_PORT, PROTOCOLS, Allow, Direction, PortRange, Rules

TABLE: Final = "inet galactic-policy"
DROPPED: Final = ("dropped-in", "dropped-out")
"""Sets that count the packets dropped at each host end."""
FLOWS: Final = 65536
"""Connections an attachment's set remembers, in each family."""
_DIGEST: Final = 8
_FAMILIES: Final = {4: ("ipv4", "ip", "ipv4_addr"), 6: ("ipv6", "ip6", "ipv6_addr")}
_KINDS: Final = {4: IPv4Address, 6: IPv6Address}
_DIRECTIONS: Final[tuple[Direction, ...]] = ("out", "in")
_ICMP: Final = {4: "icmp", 6: "icmpv6"}
_HOOKS: Final[dict[Direction, str]] = {
    "out": "type filter hook prerouting priority -290",
    "in": "type filter hook forward priority -10",
}
_DEVICE: Final[dict[Direction, str]] = {"out": "iifname", "in": "oifname"}
_ALWAYS: Final = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    # Errors (RFC 4443), multicast listeners (RFC 3810), neighbour discovery (RFC 4861).
    6: "icmpv6 type { 1-4, 130-137, 143 } accept",
}
_FRAGMENTS: Final = {4: "ip frag-off & 0x1fff != 0 accept", 6: "frag frag-off != 0 accept"}
"""All but the first, which have no ports (RFC 1858): without the first they are nothing."""
_SETTLED: Final = "24h"
"""An answered TCP connection in which nothing is sent."""
_CLOSING: Final = "1m"
"""A TCP connection that is not answered yet, or closed."""
_OTHERS: Final = (("udp", "3m"), ("sctp", "10m"))
_TALK: Final = "10m"
"""Of protocols without ports."""


def table(devices: Mapping[str, Sequence[Rules]], groups: Mapping[str, frozenset[Ip]]) -> Table:
    """``devices``: host end → the rules in force, for those that have any. Without any there is no table."""
    chains: dict[str, Chain] = {}
    sets: dict[str, Set] = {}
    ways: dict[Direction, dict[str, str]] = {"out": {}, "in": {}}
    profiles: dict[tuple[Direction, tuple[str, ...]], str] = {}
    for device, rules in sorted(devices.items()):
        called: dict[Direction, list[str]] = {"out": [], "in": []}
        for direction in _DIRECTIONS:
            for floor in (True, False):
                own = [one for one in rules if one.floor == floor and one.of(direction) is not None]
                if not own:
                    continue
                profile = direction, tuple(sorted(one.name for one in own))
                if profile not in profiles:
                    profiles[profile] = _profile(profile, own, groups, chains, sets)
                called[direction].append(profiles[profile])
        for direction, names in called.items():
            other: Direction = "in" if direction == "out" else "out"
            for family, (word, _, kind) in _FAMILIES.items():
                name = f"{direction}{family}-{device}"
                lines = _device(direction, family, device, names, remembered=bool(called[other]))
                chains[name] = Chain(tuple(lines))
                ways[direction][f'{word} . "{device}"'] = f"goto {name}"
                sets[f"flows{family}-{device}"] = Set(
                    "set",
                    f"type inet_proto . {kind} . inet_service . {kind} . inet_service; "
                    f"flags dynamic,timeout; size {FLOWS};",
                )
                sets[f"talks{family}-{device}"] = Set(
                    "set", f"type inet_proto . {kind} . {kind}; flags dynamic,timeout; size {FLOWS};"
                )
    if not devices:
        return Table(TABLE)
    for direction, elements in ways.items():
        key = _DEVICE[direction]
        sets[f"dropped-{direction}"] = Set("set", "type ifname; flags dynamic; size 65536;")
        sets[f"ways-{direction}"] = Set("map", "type nf_proto . ifname : verdict;", elements)
        chains[f"denied-{direction}"] = Chain(
            (f"update @dropped-{direction} {{ {key} counter }} drop", "drop")
        )
        chains[f"packets-{direction}"] = Chain(
            (f"meta nfproto . {key} vmap @ways-{direction}",), _HOOKS[direction]
        )
    return Table(TABLE, chains, sets)


def _profile(
    key: tuple[Direction, tuple[str, ...]],
    rules: Sequence[Rules],
    groups: Mapping[str, frozenset[Ip]],
    chains: dict[str, Chain],
    sets: dict[str, Set],
) -> str:
    """The chain of some rules together: returns a packet that one of them allows, and drops others."""
    direction, names = key
    allowed: list[Allow] = [rule for one in rules for rule in one.of(direction) or ()]
    found = classes(allowed, groups)
    name = f"rules-{direction}-{_digest(names)}"
    lines = []
    for family, (_, word, kind) in _FAMILIES.items():
        for prefix, flags, elements in (
            ("peers", "", _single(direction, found, family, chains)),
            ("blocks", " flags interval;", _ranges(direction, found, family, chains)),
        ):
            if elements:
                own = f"{prefix}{family}-{direction}-{_digest(names)}"
                sets[own] = Set("map", f"type {kind} : verdict;{flags}", elements)
                lines.append(f"{word} {'saddr' if direction == 'in' else 'daddr'} vmap @{own}")
    lines.append(_verdict(direction, found.rest, chains))
    chains[name] = Chain(tuple(lines))
    return name


def _single(direction: Direction, found: Classes, family: int, chains: dict[str, Chain]) -> dict[str, str]:
    return {
        str(address): _verdict(direction, access, chains)
        for address, access in found.single.items()
        if address.version == family
    }


def _ranges(direction: Direction, found: Classes, family: int, chains: dict[str, Chain]) -> dict[str, str]:
    kind = _KINDS[family]
    return {
        str(kind(first)) if first == last else f"{kind(first)}-{kind(last)}": _verdict(
            direction, access, chains
        )
        for first, last, access in found.ranges.get(family, ())
    }


def _verdict(direction: Direction, access: Access, chains: dict[str, Chain]) -> str:
    """Where a packet of a class goes on: back to the attachment's chain where it is allowed."""
    if access is None:
        return "return"
    if not access:
        return f"goto denied-{direction}"
    name = f"ports-{direction}-{_digest(access)}"
    if name not in chains:
        chains[name] = Chain((*_ports(access), f"goto denied-{direction}"))
    return f"goto {name}"


def _ports(access: Sequence[PortRange]) -> Iterator[str]:
    """A rule a protocol. Not all kernels have sets of protocols and ranges of ports together."""
    for protocol, number in PROTOCOLS.items():
        ranges = [(first, last) for kind, first, last in access if kind == number]
        if any(last - first >= LAST_PORT - 1 for first, last in ranges):
            yield f"meta l4proto {protocol.lower()} return"
        elif ranges:
            texts = (str(first) if first == last else f"{first}-{last}" for first, last in ranges)
            yield f"{protocol.lower()} dport {{ {', '.join(texts)} }} return"


def _device(
    direction: Direction, family: int, device: str, profiles: Sequence[str], *, remembered: bool
) -> Iterator[str]:
    """The chain of an attachment. ``remembered``: the other way is restricted, so that replies need the connection."""
    word = _FAMILIES[family][1]
    local, remote = ("saddr", "daddr") if direction == "out" else ("daddr", "saddr")
    near, far = ("sport", "dport") if direction == "out" else ("dport", "sport")
    flow = f"meta l4proto . {word} {local} . th {near} . {word} {remote} . th {far}"
    talk = f"meta l4proto . {word} {local} . {word} {remote}"
    flows, talks = f"@flows{family}-{device}", f"@talks{family}-{device}"
    yield _ALWAYS[family]
    yield _FRAGMENTS[family]
    if profiles:
        yield from _known(family, (flow, flows), (talk, talks))
        for profile in profiles:
            yield f"jump {profile}"
    if remembered:
        yield from _learned(family, (flow, flows), (talk, talks))
    yield "accept"


def _known(family: int, flow: tuple[str, str], talk: tuple[str, str]) -> Iterator[str]:
    """Packets of an allowed connection pass, in both directions. A first TCP segment is always judged."""
    key, flows = flow
    answered = f"{key} {flows} update {flows} {{ {key} timeout {_SETTLED} }} accept"
    yield f"tcp flags & (fin | rst) != 0x0 {key} {flows} update {flows} {{ {key} timeout {_CLOSING} }} accept"
    yield f"tcp flags & (syn | ack) == (syn | ack) {answered}"
    yield f"tcp flags & (syn | psh) == psh {answered}"
    yield f"tcp flags & syn == 0x0 {key} {flows} accept"
    for protocol, seconds in _OTHERS:
        yield f"meta l4proto {protocol} {key} {flows} update {flows} {{ {key} timeout {seconds} }} accept"
    key, talks = talk
    yield f"{_ICMP[family]} type echo-reply {key} {talks} accept"
    yield (
        f"meta l4proto != {{ tcp, udp, sctp, icmp, ipv6-icmp }} {key} {talks} "
        f"update {talks} {{ {key} timeout {_TALK} }} accept"
    )


def _learned(family: int, flow: tuple[str, str], talk: tuple[str, str]) -> Iterator[str]:
    """Allowed packets let their replies pass. One that finds its set full passes, and its replies do not."""
    key, flows = flow
    yield f"tcp flags & (fin | rst) != 0x0 update {flows} {{ {key} timeout {_CLOSING} }} accept"
    yield f"tcp flags & (syn | ack) == syn update {flows} {{ {key} timeout {_CLOSING} }} accept"
    yield f"tcp flags & (syn | psh) != 0x0 update {flows} {{ {key} timeout {_SETTLED} }} accept"
    yield f"meta l4proto tcp add {flows} {{ {key} timeout {_SETTLED} }} accept"
    for protocol, seconds in _OTHERS:
        yield f"meta l4proto {protocol} update {flows} {{ {key} timeout {seconds} }} accept"
    key, talks = talk
    yield f"{_ICMP[family]} type echo-request update {talks} {{ {key} timeout 1m }} accept"
    yield f"meta l4proto != {{ icmp, ipv6-icmp }} update {talks} {{ {key} timeout {_TALK} }} accept"


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=_DIGEST).hexdigest()

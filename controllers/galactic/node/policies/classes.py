"""Addresses that rules treat alike, and what those may do.

Rules become two look-ups whose cost does not depend on their number: an address leads to its class, the class knows its
ports. An address in a group has an entry of its own; the addresses of blocks are cut into ranges that do not overlap.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from galactic.node.policies.rules import Allow, PortRange

Access = tuple[PortRange, ...] | None
"""The ports that a class may use, merged and in order; None: everything, of any protocol."""
Ip = IPv4Address | IPv6Address
_LAST = {4: (1 << 32) - 1, 6: (1 << 128) - 1}


@dataclass(frozen=True, slots=True)
class Classes:
    """``single``: addresses of groups. ``ranges``: version → (first, last, access), in order; all others: ``rest``."""

    rest: Access
    single: Mapping[Ip, Access] = field(default_factory=dict)
    ranges: Mapping[int, Sequence[tuple[int, int, Access]]] = field(default_factory=dict)

    def access(self, address: Ip) -> Access:
        """The access of an address, as the kernel finds it."""
        if address in self.single:
            return self.single[address]
        number = int(address)
        for first, last, access in self.ranges.get(address.version, ()):
            if first <= number <= last:
                return access
        return self.rest


def classes(allowed: Sequence[Allow], groups: Mapping[str, frozenset[Ip]]) -> Classes:
    """The classes of all rules together: each rule allows more."""
    anyone = frozenset(number for number, rule in enumerate(allowed) if rule.anyone)
    ports = tuple(rule.ports for rule in allowed)

    def merged(rules: frozenset[int]) -> Access:
        return _merged(frozenset(ports[number] for number in rules))

    ranges = {version: _ranges(allowed, anyone, version) for version in (4, 6)}
    members: defaultdict[Ip, set[int]] = defaultdict(set)
    for number, rule in enumerate(allowed):
        for group in rule.groups:
            for address in groups.get(group, ()):
                members[address].add(number)
    single = {}
    for address, own in members.items():
        beside = _within(ranges[address.version], int(address))
        single[address] = merged(frozenset(own) | (anyone if beside is None else beside))
    return Classes(
        merged(anyone),
        single,
        {
            version: _joined((first, last, merged(rules)) for first, last, rules in cuts)
            for version, cuts in ranges.items()
            if cuts
        },
    )


def _ranges(
    allowed: Sequence[Allow], anyone: frozenset[int], version: int
) -> list[tuple[int, int, frozenset[int]]]:
    """The ranges that blocks name, each with the rules that allow it; addresses in no block are left out."""
    turns: defaultdict[int, list[tuple[int, int]]] = defaultdict(
        list
    )  # address → (rule, how many blocks more)
    for number, rule in enumerate(allowed):
        for network, excepted in rule.blocks:
            if network.version != version:
                continue
            for first, last in _without((int(network[0]), int(network[-1])), excepted):
                turns[first].append((number, 1))
                if last < _LAST[version]:
                    turns[last + 1].append((number, -1))
    found: list[tuple[int, int, frozenset[int]]] = []
    open_blocks: defaultdict[int, int] = defaultdict(int)
    points = sorted(turns)
    for index, point in enumerate(points):
        for number, more in turns[point]:
            open_blocks[number] += more
            if not open_blocks[number]:
                del open_blocks[number]
        if open_blocks:
            last = points[index + 1] - 1 if index + 1 < len(points) else _LAST[version]
            found.append((point, last, frozenset(open_blocks) | anyone))
    return found


def _without(whole: tuple[int, int], excepted: Iterable[object]) -> list[tuple[int, int]]:
    """The parts of a range outside the networks."""
    parts, start = [], whole[0]
    spans = sorted((int(network[0]), int(network[-1])) for network in excepted)  # type: ignore[index]
    for first, last in spans:
        if start < first:
            parts.append((start, first - 1))
        start = max(start, last + 1)
    if start <= whole[1]:
        parts.append((start, whole[1]))
    return parts


def _within(ranges: Sequence[tuple[int, int, frozenset[int]]], address: int) -> frozenset[int] | None:
    index = bisect_right(ranges, address, key=lambda one: one[0]) - 1
    return ranges[index][2] if index >= 0 and address <= ranges[index][1] else None


def _joined(ranges: Iterable[tuple[int, int, Access]]) -> list[tuple[int, int, Access]]:
    """Neighbours with equal access as one."""
    joined: list[tuple[int, int, Access]] = []
    for first, last, access in ranges:
        if joined and joined[-1][1] == first - 1 and joined[-1][2] == access:
            joined[-1] = (joined[-1][0], last, access)
        else:
            joined.append((first, last, access))
    return joined


@lru_cache(maxsize=4096)
def _merged(several: frozenset[tuple[PortRange, ...] | None]) -> Access:
    if None in several:
        return None
    ranges = sorted(port for ports in several for port in ports or ())
    merged: list[PortRange] = []
    for protocol, first, last in ranges:
        if merged and merged[-1][0] == protocol and first <= merged[-1][2] + 1:
            merged[-1] = (protocol, merged[-1][1], max(last, merged[-1][2]))
        else:
            merged.append((protocol, first, last))
    return tuple(merged)

"""Packets that Galactic's chains dropped: the packet and byte counters of each DROP rule, in both backends.

Rules are described as the kernel applies them (``galactic.linux.readback``), not as they were planned.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from galactic.linux import firewall_fingerprint, readback
from galactic.linux.firewall import OURS, PLACES, TABLES, Backend, FirewallRule, Place, own

BACKENDS: Final[tuple[Backend, ...]] = ("legacy", "nft")
FORGED: Final = "whose source is not an address of that pod"
TO_NODE: Final = "to the node itself"
REASONS: Final = ("forged_source", "node_service", "srv6_space")
_ENCODED_OTHERWISE: Final = "what a newer iptables has written"


@dataclass(frozen=True, slots=True)
class Drops:
    """A DROP rule of Galactic, the ``rule``-th of its chain, and the packets and bytes that it has dropped.

    ``icmp``: whether it can match echo requests; ``discovery``: whether it can match neighbour discovery.
    """

    backend: Backend
    family: int
    chain: str
    rule: int
    what: str
    icmp: bool
    discovery: bool
    packets: int
    bytes: int

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def drops(tables: Collection[tuple[int, str]]) -> list[Drops]:
    """The drops in this process' network namespace. ``tables``: the legacy (family, table)s that exist, since reading
    another one makes it exist. A backend that the kernel does not have has none.
    """
    found: list[Drops] = []
    for backend in BACKENDS:
        chain_at = firewall_fingerprint.reader(backend)
        for place in PLACES:
            if backend == "legacy" and (place[0], TABLES[place[1]]) not in tables:
                continue
            try:
                chain = chain_at(place)
            except OSError:
                continue
            if chain is not None:
                found += _of(backend, place, chain)
    return found


def _of(backend: Backend, place: Place, chain: firewall_fingerprint.Chain) -> list[Drops]:
    dropping = []
    for number, (encoded, (packets, size)) in enumerate(zip(chain.rules, chain.counters, strict=True), 1):
        try:
            applied = readback.decoded(backend, place, encoded)
        except readback.Unreadable:
            what, icmp, discovery = _ENCODED_OTHERWISE, True, place[0] == 6
        else:
            rule = applied.rule
            if rule.target != "DROP":
                continue
            what, icmp = words(applied), not rule.not_icmp
            discovery = place[0] == 6 and icmp and not rule.destination
        dropping.append(Drops(backend, place[0], own(place[1]), number, what, icmp, discovery, packets, size))
    return dropping


def words(applied: readback.Applied) -> str:
    """Which packets a rule matches, e.g. ``packets from pods to the node itself, except ICMP``."""
    rule: FirewallRule = applied.rule
    parts = ["packets"]
    if rule.forged:
        parts.append(f"from pods {FORGED}")
    elif rule.in_interface:
        parts.append("from pods" if rule.in_interface == OURS else f"from {rule.in_interface}")
    if rule.source:
        parts.append(f"from {'outside ' if rule.outside else ''}{rule.source}")
    if rule.chain == "INPUT":
        parts.append(TO_NODE)
    if rule.destination:
        parts.append(f"to {rule.destination}")
    if rule.out_interface:
        parts.append("to pods" if rule.out_interface == OURS else f"to {rule.out_interface}")
    text = " ".join(parts)
    if rule.not_icmp:
        text += ", except ICMP"
    if rule.icmpv6 is not None:
        text += f", ICMPv6 of type {rule.icmpv6}"
    return f"{text} ({'; '.join(applied.beyond)})" if applied.beyond else text


def reason(drop: Drops) -> str:
    """Why the rule drops, one of REASONS: a source that is not the pod's, a service of the node, or SRv6 packets from
    or to the outside, pods included.
    """
    if FORGED in drop.what:
        return REASONS[0]
    return REASONS[1] if TO_NODE in drop.what else REASONS[2]


def rise(before: Sequence[Drops], after: Sequence[Drops]) -> list[Drops]:
    """The drops of each rule in between, without rules that dropped nothing or were written in between."""
    earlier = {(drop.backend, drop.family, drop.chain, drop.rule): drop for drop in before}
    rises = []
    for drop in after:
        old = earlier.get((drop.backend, drop.family, drop.chain, drop.rule))
        if old is not None and old.what == drop.what and drop.packets > old.packets:
            rises.append(replace(drop, packets=drop.packets - old.packets, bytes=drop.bytes - old.bytes))
    return rises

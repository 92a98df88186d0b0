"""Chains of other programs that drop packets of VPCs.

Each base chain at a hook decides for itself: what Galactic's chain accepts in one table is dropped by the policy of
another. So each base chain, of both backends, is followed with the packets that VPCs depend on. A chain counts as
dropping them if its verdict is certain: policies, and rules whose conditions are known (``foreign_rules``).
"""

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from ipaddress import IPv6Address, IPv6Network
from typing import Final, NamedTuple

from galactic.linux import firewall_fingerprint, foreign_rules
from galactic.linux.firewall import TABLES, Backend, Place, own
from galactic.linux.firewall_fingerprint import COUNTERS, HOOKS, LAYOUTS, legacy_table
from galactic.linux.foreign_rules import INVALID, Match, Packet, Rule, netlink_socket, nft_rules_of
from galactic.linux.legacy import in_use
from galactic.linux.netlink import attributes

_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}  # NFPROTO_INET, IPV4, IPV6
_COVERS: Final = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}
_TABLE, _NAME, _HOOK, _POLICY, _COUNTERS = 1, 3, 4, 5, 8  # NFTA_CHAIN_…
_PACKETS: Final = 2  # NFTA_COUNTER_PACKETS
POLICY: Final = "policy drop"
_HOOK_NUMBER: Final = 1  # NFTA_HOOK_HOOKNUM
_DROP: Final = 0
_TABLES: Final = ("raw", "mangle", "filter")
_DEPTH: Final = 16
_OURS: Final = frozenset(own(parent) for parent in TABLES)
_VRF, _HOST_END = "G000000001000V", "G000000001001H"  # any names of that form


@dataclass(frozen=True, slots=True)
class Dropping:
    """A base chain that drops packets of VPCs. ``table``: for nft with its family, e.g. ``inet firewalld``."""

    backend: Backend
    table: str
    chain: str
    how: str
    packets: str
    accepts: tuple[tuple[str, str], ...]
    """The packets to accept there: ("from" or "to", devices) or ("destination", network)."""
    counted: int = field(default=0, compare=False)
    """Packets of any kind that the policy dropped so far; 0 where the kernel counts none."""

    @property
    def where(self) -> str:
        """E.g. ``chain FORWARD of the nft table ip filter``."""
        return f"chain {self.chain} of the {self.backend} table {self.table}"

    def __str__(self) -> str:
        return f"{self.where} ({self.how}) drops {self.packets}"

    @property
    def remedy(self) -> str:
        """The commands that accept the packets there."""
        family, table = self.table.split(maxsplit=1)
        iptables = self.backend == "legacy" or (family in ("ip", "ip6") and self.chain in HOOKS)
        if iptables:
            command = (
                f"{'ip6tables' if family == 'ip6' else 'iptables'}-{self.backend} -t {table} -I {self.chain}"
            )
            ways = {"from": "-i {}+", "to": "-o {}+", "destination": "-d {}"}
            rules = [f"{command} {ways[kind].format(value)} -j ACCEPT" for kind, value in self.accepts]
        else:
            command = f"nft insert rule {self.table} {self.chain}"
            ways = {"from": 'iifname "{}*"', "to": 'oifname "{}*"', "destination": "ip6 daddr {}"}
            rules = [f"{command} {ways[kind].format(value)} accept" for kind, value in self.accepts]
        return "; ".join(rules)


def packets(space: IPv6Network, loopback: IPv6Address, uplinks: Sequence[str]) -> Iterator[Packet]:
    """The packets that VPCs depend on, at each hook that they pass."""
    sid = space[1]
    for family in (4, 6):
        inner = f"IPv{family} packets between pods"
        yield Packet(inner, family, "PREROUTING", into=_HOST_END)
        yield Packet(inner, family, "PREROUTING", into=_VRF)
        # out of a tunnel: the route back is by ``lo-galactic``
        yield Packet(inner, family, "PREROUTING", into=_VRF, astray=True)
        yield Packet(inner, family, "FORWARD", into=_VRF, out=_HOST_END)
        yield Packet(inner, family, "POSTROUTING", out=_HOST_END)
        yield Packet(f"ICMP of pods to their gateway (IPv{family})", family, "INPUT", into=_VRF, icmp=True)
    outer = "SRv6 packets"
    for uplink in uplinks:
        incoming = Packet(outer, 6, "PREROUTING", into=uplink, source=loopback, destination=sid)
        # nf_reset_ct() in seg6_do_srh(): the packet is known to no connection any more
        outgoing = replace(incoming, into="", out=uplink, state=INVALID)
        yield incoming
        yield replace(outgoing, hook="FORWARD", into=_VRF)
        yield replace(outgoing, hook="POSTROUTING")


def dropping(wanted: Sequence[Packet], space: IPv6Network) -> list[Dropping]:
    """The base chains, in this process' network namespace, that drop one of these packets."""
    found: dict[tuple[Backend, str, str], list[_Drop]] = {}
    for drop in (*_legacy(wanted), *_nft(wanted)):
        found.setdefault((drop.backend, drop.table, drop.chain), []).append(drop)
    listed = []
    for place, several in found.items():
        what = ", ".join(dict.fromkeys(drop.packet.what for drop in several))
        accepts = tuple(dict.fromkeys(_accepted_by(drop.packet, space) for drop in several))
        listed.append(Dropping(*place, several[0].how, what, accepts, several[0].counted))
    return listed


class _Drop(NamedTuple):
    backend: Backend
    table: str
    chain: str
    packet: Packet
    how: str
    counted: int = 0


def _accepted_by(packet: Packet, space: IPv6Network) -> tuple[str, str]:
    """The devices or the network that a rule must name to accept such packets."""
    if packet.into.startswith("G"):
        return "from", "G"
    return ("to", "G") if packet.out.startswith("G") else ("destination", str(space))


def _legacy(wanted: Sequence[Packet]) -> Iterator[_Drop]:
    existing = in_use()
    for family in (4, 6):
        for table in _TABLES:
            if (family, table) not in existing:
                continue
            with suppress(OSError):  # it is gone, or changes all the time
                entries, hooks = legacy_table(family, table)
                yield from _legacy_table(family, table, (entries, hooks), wanted)


def _legacy_table(
    family: int, table: str, content: tuple[bytes, Sequence[int]], wanted: Sequence[Packet]
) -> Iterator[_Drop]:
    entries, hooks = content
    place: Place = (6 if family == 6 else 4, "FORWARD")
    layout = LAYOUTS[place[0]]
    heads = (firewall_fingerprint.head(layout, entries, name.encode()) for name in _OURS)
    ours = {firewall_fingerprint.next_entry(layout, entries, at) for at in heads if at is not None}
    for packet in wanted:
        if packet.family != family or not _has_hook(table, packet.hook):
            continue
        number = HOOKS[packet.hook]
        start, end = hooks[number], hooks[number + len(HOOKS)]

        def chain(position: int | str, *, packet: Packet = packet, end: int = end) -> Iterator[Rule]:
            at = int(position)
            while at != end:
                yield foreign_rules.legacy(place, entries, at, packet)
                at = firewall_fingerprint.next_entry(layout, entries, at)

        policy = foreign_rules.legacy(place, entries, end, packet).verdict == "DROP"
        if how := _followed(chain, start, ours, policy=POLICY if policy else ""):
            (counted, _) = COUNTERS.unpack_from(entries, end + layout.counters) if how == POLICY else (0, 0)
            yield _Drop(
                "legacy", f"{'ip6' if family == 6 else 'ip'} {table}", packet.hook, packet, how, counted
            )


def _has_hook(table: str, hook: str) -> bool:
    """Whether a legacy table has chains at that hook."""
    return hook in {"raw": ("PREROUTING",), "filter": ("INPUT", "FORWARD")}.get(table, HOOKS)


def _nft(wanted: Sequence[Packet]) -> Iterator[_Drop]:
    try:
        with netlink_socket() as netlink:
            chains = [
                (family, dict(attributes(body))) for family, body in firewall_fingerprint.nft_chains(netlink)
            ]
    except OSError:  # a kernel without nf_tables
        return
    hooks = {number: name for name, number in HOOKS.items()}
    for number, parts in chains:
        family = _FAMILIES.get(number, "")
        if not family or _HOOK not in parts:
            continue
        hook = hooks.get(int.from_bytes(dict(attributes(parts[_HOOK]))[_HOOK_NUMBER], "big"), "")
        table, name = (parts[kind].rstrip(b"\0").decode() for kind in (_TABLE, _NAME))
        drops = int.from_bytes(parts.get(_POLICY, b"\1"), "big") == _DROP
        rules = cache(partial(nft_rules_of, number, table))
        for packet in wanted:
            if packet.hook != hook or packet.family not in _COVERS[family]:
                continue
            chain = partial(_nft_chain, rules, packet)
            if how := _followed(chain, name, _OURS, policy=POLICY if drops else ""):
                counters = dict(attributes(parts.get(_COUNTERS, b"")))
                counted = int.from_bytes(counters.get(_PACKETS, b""), "big") if how == POLICY else 0
                yield _Drop("nft", f"{family} {table}", name, packet, how, counted)


def _nft_chain(rules: Callable[[str], list[bytes]], packet: Packet, chain: int | str) -> Iterator[Rule]:
    return (foreign_rules.nft(rule, packet) for rule in rules(str(chain)))


_Chain = Callable[[int | str], Iterator[Rule]]


def _followed(chain: _Chain, start: int | str, ours: Container[int | str], *, policy: str = "") -> str:
    """How a packet is certainly dropped from there on; "" if it is not, or if that depends on the VPC's addresses.

    ``ours``: where Galactic's chains begin. What one of them drops is no other program's doing (``readback``).
    """
    verdict, number = _verdict(chain, start, ours, 0)
    if verdict == "DROP":
        return f"rule {number}"
    return policy if verdict == "RETURN" else ""


def _verdict(chain: _Chain, start: int | str, ours: Container[int | str], depth: int) -> tuple[str, int]:
    """ACCEPT, DROP, or RETURN at the end of the chain; and the number of the rule in that chain."""
    if depth > _DEPTH:
        return "ACCEPT", 0
    for number, rule in enumerate(chain(start), 1):
        if rule.match not in (Match.YES, Match.ADDRESS):
            continue
        verdict: str = rule.verdict
        if verdict in ("JUMP", "GOTO"):
            verdict, _ = _verdict(chain, rule.to, ours, depth + 1)
            if verdict == "DROP" and rule.to in ours:
                return "ACCEPT", number
            if verdict == "RETURN" and rule.verdict == "JUMP":
                continue
        if verdict == "CONTINUE" or (rule.match is Match.ADDRESS and verdict != "ACCEPT"):
            continue
        return verdict, number
    return "RETURN", 0

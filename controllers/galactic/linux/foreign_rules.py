"""Rules of other programs, as far as they decide about packets of VPCs: which packets each matches, and its verdict.

A rule matches a packet, or does not, or that is unknown: this module knows interfaces, networks, protocols, the state
of connection tracking, and checks of the reverse path. ``Match.ADDRESS``: only the VPC's addresses are unknown.
"""

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_network
from typing import Final, Literal

from galactic.linux import firewall_fingerprint, readback
from galactic.linux.firewall import Place
from galactic.linux.firewall_fingerprint import LAYOUTS, OFFSETS, TARGET, VERDICT
from galactic.linux.netlink import attributes

Verdict = Literal["ACCEPT", "DROP", "RETURN", "JUMP", "GOTO", "CONTINUE"]
INVALID, UNTRACKED = 1, 64  # NF_CT_STATE_INVALID_BIT, NF_CT_STATE_UNTRACKED_BIT
_GOTO: Final = {4: (82, 0x02), 6: (131, 0x04)}  # offset of the flags, and IPT_F_GOTO or IP6T_F_GOTO
ANY: Final = "*"
"""In place of an interface: any."""
ANY_MARK: Final = 0xFFFFFFFF
_MARK: Final = "match mark with the data "
_CONNTRACK: Final = "match conntrack with the data "
_CONNTRACK_FLAGS_AT: Final = 146  # behind eight addresses, two times, the protocol and four ports
_CONNTRACK_STATES: Final = struct.Struct("=HHH")  # match_flags, invert_flags, state_mask
_CONNTRACK_BITS: Final = {
    INVALID: 1,
    UNTRACKED: 256,
}  # XT_CONNTRACK_STATE_INVALID, XT_CONNTRACK_STATE_UNTRACKED
_CONNTRACK_STATE: Final = 1  # XT_CONNTRACK_STATE
_RPFILTER: Final = "match rpfilter with the data "
_RPFILTER_ALONE: Final = "match rpfilter alone"
_RPFILTER_LOOSE, _RPFILTER_INVERT = 1, 8  # XT_RPFILTER_LOOSE, XT_RPFILTER_INVERT
_REJECTS: Final = ("REJECT", "TARPIT", "DROP")
_LEGACY: Final[dict[int, Verdict]] = {-1: "DROP", -2: "ACCEPT", -5: "RETURN"}
_NFT: Final[dict[int, Verdict]] = {0: "DROP", 1: "ACCEPT", -5: "RETURN", -3: "JUMP", -4: "GOTO"}


class Match(Enum):
    NO = 0
    YES = 1
    ADDRESS = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of a VPC at a hook. ``into`` and ``out`` are interfaces, or ``ANY``. ``state``: of connection tracking.
    ``source``, ``destination``: of the outer header; None: the addresses are a VPC's, and any. ``icmp``: it is ICMP;
    None: it may be. ``marks``: the bits that its mark may have; None: any. ``astray``: the route back to its source is
    by another interface than ``into``.
    """

    what: str
    family: Literal[4, 6]
    hook: str
    into: str = ""
    out: str = ""
    state: int = UNTRACKED
    source: IPv6Address | None = None
    destination: IPv6Address | None = None
    icmp: bool | None = None
    marks: int | None = None
    astray: bool = False

    @property
    def protocol(self) -> int | None:
        """The number of the transport protocol, if known."""
        if self.destination is not None:
            return None
        return {4: 1, 6: 58}[self.family] if self.icmp else None


@dataclass(frozen=True, slots=True)
class Rule:
    """``to``: the chain of a jump, by name for nft, by offset for legacy tables. ``marks``: the bits that it may set in
    the packet's mark, and ``cleared``: those that it clears before.
    """

    match: Match
    verdict: Verdict
    to: str | int = ""
    marks: int = 0
    cleared: int = 0


def both(first: Match, second: Match) -> Match:
    """The match of two conditions."""
    if Match.NO in (first, second):
        return Match.NO
    return first if first.value > second.value else second


def _sure(*, true: bool) -> Match:
    return Match.YES if true else Match.NO


def legacy(place: Place, entries: bytes, position: int, packet: Packet) -> Rule:
    """The rule at an offset of a legacy table's entries."""
    layout = LAYOUTS[place[0]]
    applied = readback.decoded("legacy", place, firewall_fingerprint.bare(layout, entries, position))
    at, bit = _GOTO[place[0]]
    goto = bool(entries[position + at] & bit)
    match = both(_interfaces(applied, packet), _addresses(applied, packet))
    if applied.rule.not_icmp:
        match = both(match, Match.UNKNOWN if packet.icmp is None else _sure(true=not packet.icmp))
    known = ("is inverted", *(("flags ",) if goto else ()))
    beyond = [text for text in applied.beyond if not any(part in text for part in known)]
    beyond = [text for text in beyond if not text.startswith("match comment ")]
    for text in list(beyond):
        if text == _RPFILTER_ALONE:
            match = both(match, _rpfilter(bytes([_RPFILTER_INVERT]), packet))
            beyond.remove(text)
        for start, compared in ((_CONNTRACK, _conntrack), (_MARK, _mark), (_RPFILTER, _rpfilter)):
            if text.startswith(start):
                match = both(match, compared(bytes.fromhex(text.removeprefix(start)), packet))
                beyond.remove(text)
    if beyond or applied.rule.icmpv6 is not None or applied.rule.forged:
        match = both(match, Match.UNKNOWN)
    (target_at, _) = OFFSETS.unpack_from(entries, position + layout.offsets)
    _, name, _ = TARGET.unpack_from(entries, position + target_at)
    if extension := name.split(b"\0", 1)[0].decode():
        marks, cleared = _set_marks(extension, entries[position + target_at + TARGET.size :])
        return Rule(match, "DROP" if extension in _REJECTS else "CONTINUE", marks=marks, cleared=cleared)
    (number,) = VERDICT.unpack_from(entries, position + target_at + TARGET.size)
    if number in _LEGACY:
        return Rule(match, _LEGACY[number])
    return Rule(match, ("GOTO" if goto else "JUMP") if number >= 0 else "CONTINUE", number)


def _conntrack(data: bytes, packet: Packet) -> Match:
    """Of xt_conntrack_mtinfo2 and 3: of the conditions, only the state is known."""
    flags, inverted, states = _CONNTRACK_STATES.unpack_from(data, _CONNTRACK_FLAGS_AT)
    if flags != _CONNTRACK_STATE:
        return Match.UNKNOWN
    return _sure(true=bool(states & _CONNTRACK_BITS[packet.state]) != bool(inverted & _CONNTRACK_STATE))


def _mark(data: bytes, packet: Packet) -> Match:
    """Of xt_mark_mtinfo1: mark, mask, invert."""
    mark, mask, inverted = struct.unpack_from("=IIB", data)
    if packet.marks is None or not mark & ~packet.marks:
        some = packet.marks is None or mask & packet.marks
        return Match.UNKNOWN if some else _sure(true=not inverted)
    return _sure(true=bool(inverted))


def _rpfilter(data: bytes, packet: Packet) -> Match:
    """Of xt_rpfilter_info: flags. Without LOOSE it compares the interface."""
    if not packet.astray or data[0] & _RPFILTER_LOOSE:
        return Match.UNKNOWN
    return _sure(true=bool(data[0] & _RPFILTER_INVERT))


def _set_marks(target: str, data: bytes) -> tuple[int, int]:
    """The bits that a target may set, and those that it clears before; of xt_mark_tginfo2: mark, mask."""
    if target == "MARK":
        mark, mask = struct.unpack_from("=II", data)
        return int(mark), int(mask)
    return (ANY_MARK if target in ("CONNMARK", "TPROXY", "SET") else 0), 0


def _interfaces(applied: readback.Applied, packet: Packet) -> Match:
    match = Match.YES
    for name, device in (("in_interface", packet.into), ("out_interface", packet.out)):
        if wanted := getattr(applied.rule, name):
            if device == ANY:
                match = both(match, Match.UNKNOWN)
                continue
            same = device.startswith(wanted[:-1]) if wanted.endswith("+") else device == wanted
            match = both(match, _sure(true=same != (f"{name} is inverted" in applied.beyond)))
    return match


def _addresses(applied: readback.Applied, packet: Packet) -> Match:
    match = Match.YES
    for name, address in (("source", packet.source), ("destination", packet.destination)):
        if wanted := getattr(applied.rule, name):
            inverted = f"{name} is inverted" in applied.beyond or (name == "source" and applied.rule.outside)
            inside = address is not None and address in ip_network(wanted)
            match = both(match, Match.ADDRESS if address is None else _sure(true=inside != inverted))
    return match


# nf_tables: NFT_META_MARK 3, IIFNAME 6, OIFNAME 7, NFPROTO 15, L4PROTO 16; NFT_CT_STATE 0.
_META: Final = {3: "mark", 6: "into", 7: "out", 15: "family", 16: "protocol"}
_AT: Final = {(4, 12): "source", (4, 16): "destination", (6, 8): "source", (6, 24): "destination"}
_ADDRESSES: Final = ("source", "destination")
_FIB_OIF: Final = 1  # NFT_FIB_RESULT_OIF
_FIB_BACK: Final = (
    0x1 | 0x8
)  # NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF: 0 where no route of that interface leads to the source
NFPROTO: Final = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6


def _comment(data: bytes, packet: Packet) -> Match:  # noqa: ARG001 - as the others
    return Match.YES


_MATCHES: Final = {b"conntrack": _conntrack, b"mark": _mark, b"comment": _comment, b"rpfilter": _rpfilter}


@dataclass(slots=True)
class _Evaluation:
    """A rule while it is evaluated: register → (field, its value or None for unknown)."""

    packet: Packet
    registers: dict[int, tuple[str, bytes | None]] = field(default_factory=dict)
    match: Match = Match.YES
    verdict: Verdict = "CONTINUE"
    to: str = ""
    marks: int = 0
    cleared: int = 0

    def step(self, name: str, data: dict[int, bytes]) -> None:
        known: dict[str, Callable[[dict[int, bytes]], None]] = {
            "meta": self.meta,
            "ct": self.ct,
            "payload": self.payload,
            "bitwise": self.bitwise,
            "cmp": self.compare,
            "immediate": self.immediate,
            "fib": self.fib,
        }
        if name in known:
            known[name](data)
        elif name == "reject" or (name == "target" and data[1].rstrip(b"\0").decode() in _REJECTS):
            self.verdict = "DROP"
        elif name == "target":
            self.marks, self.cleared = _set_marks(data[1].rstrip(b"\0").decode(), data[3])
        elif name == "match" and (compared := _MATCHES.get(data[1].rstrip(b"\0"))):
            self.match = both(self.match, compared(data[3], self.packet))
        elif name in ("lookup", "match", "range", "limit", "connlimit", "quota", "numgen", "socket"):
            self.match = both(self.match, Match.UNKNOWN)

    def meta(self, data: dict[int, bytes]) -> None:
        if 1 not in data:  # NFTA_META_SREG: it sets the mark, or another field
            self.marks = ANY_MARK
            return
        name = _META.get(_number(data[2]), "")
        values = {
            "into": None if self.packet.into == ANY else self.packet.into.encode().ljust(16, b"\0"),
            "out": None if self.packet.out == ANY else self.packet.out.encode().ljust(16, b"\0"),
            "family": bytes([NFPROTO[self.packet.family]]),
            "protocol": bytes([self.packet.protocol]) if self.packet.protocol is not None else None,
        }
        self.registers[_number(data[1])] = name, values.get(name)

    def ct(self, data: dict[int, bytes]) -> None:
        if 1 not in data:
            return
        state = struct.pack("=I", self.packet.state) if _number(data[2]) == 0 else None
        self.registers[_number(data[1])] = "state", state

    def payload(self, data: dict[int, bytes]) -> None:
        if 1 not in data:
            return
        base, offset = _number(data[2]), _number(data[3])
        name = _AT.get((self.packet.family, offset), "") if base == 1 else ""
        address = getattr(self.packet, name) if name else None
        self.registers[_number(data[1])] = name, address.packed if address is not None else None

    def bitwise(self, data: dict[int, bytes]) -> None:
        name, value = self.registers.get(_number(data[1]), ("", None))
        if value is not None and 4 in data:
            mask = _value(data[4])
            value = bytes(a & b for a, b in zip(value, mask, strict=False))
        self.registers[_number(data[2])] = name, value

    def compare(self, data: dict[int, bytes]) -> None:
        name, value = self.registers.get(_number(data[1]), ("", None))
        operation, wanted = _number(data[2]), _value(data[3])
        if name == "mark" and operation <= 1 and self.packet.marks is not None:
            mark = int.from_bytes(wanted, sys.byteorder)
            if mark & ~self.packet.marks or not self.packet.marks:
                self.match = both(
                    self.match, _sure(true=(not mark and not self.packet.marks) != (operation == 1))
                )
                return
        if value is None or operation > 1:
            self.match = both(self.match, Match.ADDRESS if name in _ADDRESSES else Match.UNKNOWN)
        else:
            same = value[: len(wanted)] == wanted
            self.match = both(self.match, _sure(true=same != (operation == 1)))

    def fib(self, data: dict[int, bytes]) -> None:
        """The interface of the route back to the source, or whether there is one by the incoming interface."""
        known = _number(data[2]) == _FIB_OIF and _number(data[3]) & _FIB_BACK == _FIB_BACK
        self.registers[_number(data[1])] = "route", bytes(4) if known and self.packet.astray else None

    def immediate(self, data: dict[int, bytes]) -> None:
        parts = dict(attributes(data[2]))
        if 2 not in parts:
            return  # a value for a register
        verdict = dict(attributes(parts[2]))
        (code,) = struct.unpack("!i", verdict[1])
        self.verdict = _NFT.get(code, "CONTINUE")
        self.to = verdict.get(2, b"").rstrip(b"\0").decode()


def nft(rule: bytes, packet: Packet) -> Rule:
    """A rule of nft, by its expressions."""
    evaluation = _Evaluation(packet)
    for name, data in firewall_fingerprint.expressions(rule):
        evaluation.step(name, dict(attributes(data)))
    return Rule(evaluation.match, evaluation.verdict, evaluation.to, evaluation.marks, evaluation.cleared)


def netlink_socket() -> socket.socket:
    """For dumps of nft."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, firewall_fingerprint.NETFILTER)
    made.settimeout(1.0)  # a dump is answered at once
    return made


def nft_rules_of(family: int, table: str, chain: str) -> list[bytes]:
    """The rules of a chain in a table of that family, an NFPROTO number; none where there is no such chain."""
    with suppress(OSError), netlink_socket() as netlink:
        return [
            firewall_fingerprint.rule_of(rule)[0]
            for rule in firewall_fingerprint.nft_rules(netlink, family, table, chain)
        ]
    return []


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _value(data: bytes) -> bytes:
    return dict(attributes(data)).get(1, b"")

"""Galactic's firewall rules as the kernel applies them: decoded from its tables, compared field by field.

A rule's text does not prove what the kernel does. python-iptables writes an IPv6 rule of an inverted protocol without
IP6T_F_PROTO; ``ip6tables -S`` prints ``! -p ipv6-icmp``, and the kernel matches every protocol. So the decoders follow
the kernel's own matching: ip_packet_match(), ip6_packet_match(), the evaluation of nf_tables expressions.

Sources: struct ipt_ip and ip6t_ip6, xt_devgroup_info, xt_rpfilter_info, ip6t_icmp, xt_ct_target_info;
linux/netfilter/nf_tables.h.
"""

import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import ip_network
from typing import Any, Final

from galactic.linux import firewall_fingerprint
from galactic.linux.firewall import PLACES, Backend, Family, FirewallRule, Place, own
from galactic.linux.firewall_fingerprint import LAYOUTS, OFFSETS, TARGET, VERDICT, Chain
from galactic.linux.netlink import attributes
from galactic.linux.objects import HOST_ENDS

_ICMP: Final[dict[Family, int]] = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_INTERFACES: Final = 16  # IFNAMSIZ
_VERDICTS: Final = {-1: "DROP", -2: "ACCEPT", -5: "RETURN"}  # of xt_standard_target: -NF_DROP - 1 and so on
_IN, _OUT, _SOURCE, _DESTINATION, _PROTOCOL = 0x01, 0x02, 0x08, 0x10, 0x40  # IPT_INV_…, the same for IPv6
_F_PROTO: Final = 0x01  # IP6T_F_PROTO; IPv4 has no such flag
_MATCH: Final = struct.Struct("=H29sB")  # struct xt_entry_match, before its data
_DEVGROUP: Final = struct.pack("=5I", 1, HOST_ENDS, 0xFFFFFFFF, 0, 0)  # XT_DEVGROUP_MATCH_SRC
_RPFILTER: Final = b"\x08"  # XT_RPFILTER_INVERT
_ANY_CODE: Final = b"\x00\xff\x00"  # of struct ip6t_icmp after the type: all codes, not inverted
_NOTRACK: Final = 0x01  # XT_CT_NOTRACK, in the first field; with it the kernel ignores the others
_NO_TARGET: Final = "none"


@dataclass(frozen=True, slots=True)
class Applied:
    """A rule as the kernel applies it. ``beyond``: conditions that a ``FirewallRule`` cannot express."""

    rule: FirewallRule
    beyond: tuple[str, ...] = ()


class Unreadable(Exception):
    """The rule has an encoding, of a newer iptables, that this decoder does not know."""


def differences(
    backend: Backend,
    rules: Sequence[FirewallRule],
    *,
    harmless: Callable[[Backend, Place], bool] | None = None,
) -> list[str]:
    """Differences of Galactic's chains in the kernel from ``rules``: chain, rule and field of each. ``harmless``:
    whether the rules ahead of a jump that is not the first count as none.

    Reads the tables of this process' network namespace. Raises OSError if the kernel does not answer.
    """
    read = firewall_fingerprint.reader(backend)
    return [
        text
        for place in PLACES
        for text in compared(
            backend,
            place,
            read(place),
            [rule for rule in rules if (rule.family, rule.chain) == place],
            harmless=harmless,
        )
    ]


def compared(
    backend: Backend,
    place: Place,
    chain: Chain | None,
    rules: Sequence[FirewallRule],
    *,
    harmless: Callable[[Backend, Place], bool] | None = None,
) -> list[str]:
    """The same for one chain. An nft rule in a newer encoding is compared by its text."""
    name = f"IPv{place[0]} {own(place[1])}"
    if chain is None:
        return [f"{name} is missing"] if rules else []
    if not rules:
        return [f"{name} is left over"]
    in_place = chain.first or (harmless is not None and harmless(backend, place))
    differences = [] if in_place else [f"{name} is not the first jump"]
    if len(chain.rules) != len(rules):
        return [*differences, f"{name} has {len(chain.rules)} rules instead of {len(rules)}"]
    for number, (encoded, meant) in enumerate(zip(chain.rules, rules, strict=True), 1):
        try:
            applied = decoded(backend, place, encoded)
        except Unreadable:
            continue
        differences += [f"{name} rule {number}: {text}" for text in _fields(meant, applied)]
    return differences


def _fields(meant: FirewallRule, applied: Applied) -> Iterator[str]:
    for field in fields(FirewallRule):
        is_, wanted = getattr(applied.rule, field.name), getattr(meant, field.name)
        if is_ != wanted:
            yield f"{field.name} is {is_!r} in the kernel, not {wanted!r}"
    yield from applied.beyond


def decoded(backend: Backend, place: Place, encoded: bytes) -> Applied:
    """One rule of ``firewall_fingerprint.Chain.rules``."""
    return _legacy(place, encoded) if backend == "legacy" else _nft(place, encoded)


def _legacy(place: Place, entry: bytes) -> Applied:
    family, chain = place
    long = 16 if family == 6 else 4
    source, destination, source_mask, destination_mask = (
        entry[at : at + long] for at in range(0, 4 * long, long)
    )
    at = 4 * long
    into, out, into_mask, out_mask = (
        entry[at + n * _INTERFACES : at + (n + 1) * _INTERFACES] for n in range(4)
    )
    at += 4 * _INTERFACES
    if family == 6:
        protocol, tos, flags, inverted = struct.unpack_from("=HBBB", entry, at)
        compares_protocol, others = bool(flags & _F_PROTO), flags & ~_F_PROTO
    else:
        protocol, flags, inverted = struct.unpack_from("=HBB", entry, at)
        tos, compares_protocol, others = 0, True, flags
    made = _Made(family, chain)
    made.interface("in_interface", *_name(into, into_mask), inverted=bool(inverted & _IN))
    made.interface("out_interface", *_name(out, out_mask), inverted=bool(inverted & _OUT))
    made.network("source", source, source_mask, inverted=bool(inverted & _SOURCE))
    made.network("destination", destination, destination_mask, inverted=bool(inverted & _DESTINATION))
    if protocol and compares_protocol:
        made.protocol(protocol, inverted=bool(inverted & _PROTOCOL))
    elif protocol:
        made.beyond.append(f"protocol {protocol} is not compared: IP6T_F_PROTO is not set")
    unknown = inverted & ~(_IN | _OUT | _SOURCE | _DESTINATION | _PROTOCOL)
    if others or unknown or tos:
        made.beyond.append(f"flags {others:#04x}, inversions {unknown:#04x} and TOS {tos:#04x} of the entry")

    shorter = LAYOUTS[family].size - LAYOUTS[family].comes_from  # what Chain.rules leaves out
    (target_at, end) = OFFSETS.unpack_from(entry, LAYOUTS[family].offsets)
    at, target_at, end = LAYOUTS[family].comes_from, target_at - shorter, end - shorter
    while at < target_at:
        size, name, _ = _MATCH.unpack_from(entry, at)
        made.match(name.split(b"\0", 1)[0].decode(), entry[at + _MATCH.size : at + size])
        at += size
    _, name, _ = TARGET.unpack_from(entry, target_at)
    (verdict,) = VERDICT.unpack_from(entry, target_at + TARGET.size)
    if extension := name.split(b"\0", 1)[0].decode():
        made.extension(extension, entry[target_at + TARGET.size : end])
    else:
        made.target(_VERDICTS.get(verdict, f"a jump to {verdict}"))
    return made.applied()


def _name(name: bytes, mask: bytes) -> tuple[bytes, bytes]:
    """An interface's name up to where the kernel compares it, and the rest of the mask, which must be empty."""
    length = len(mask) - len(mask.lstrip(b"\xff"))
    return name[:length], mask[length:].rstrip(b"\0")


class _Made:
    """A rule under construction, from the conditions that the kernel checks one after the other."""

    def __init__(self, family: Family, chain: Any) -> None:
        self.family: Family = family
        self.chain = chain
        self.values: dict[str, Any] = {}
        self.beyond: list[str] = []
        self._matched: set[str] = set()
        self._protocol: int | None = None

    def interface(self, field: str, name: bytes, rest: bytes, *, inverted: bool) -> None:
        """``name``: as far as it is compared; with its NUL it is the whole name, without it a prefix."""
        if rest or inverted:
            self.beyond.append(
                f"{field} is {'inverted' if inverted else f'compared by the mask {rest.hex()}'}"
            )
        if name:
            text = name.rstrip(b"\0").decode(errors="replace")
            self.values[field] = text if name.endswith(b"\0") else f"{text}+"

    def network(self, field: str, address: bytes, mask: bytes, *, inverted: bool) -> None:
        bits = int.from_bytes(mask, "big")
        if not bits:
            if inverted:
                self.beyond.append(f"{field} is inverted and matches nothing")
            return
        length, given = bits.bit_count(), int.from_bytes(address, "big")
        width = 8 * len(mask)
        if bits != (1 << width) - (1 << (width - length)):
            self.beyond.append(f"{field} is compared by the mask {mask.hex()}")
            return
        if self.family == 4 and given & ~bits:
            self.beyond.append(f"{field} has bits outside its mask and matches nothing")
        masked = (given & bits).to_bytes(len(mask), "big")
        self.values[field] = str(ip_network((masked, length)))
        if field == "source":
            self.values["outside"] = inverted
        elif inverted:
            self.beyond.append(f"{field} is inverted")

    def protocol(self, number: int, *, inverted: bool) -> None:
        if inverted and number == _ICMP[self.family]:
            self.values["not_icmp"] = True
        elif not inverted and number == _ICMP[self.family] == socket.IPPROTO_ICMPV6:
            self._protocol = number
        else:
            self.beyond.append(f"protocol is {'not ' if inverted else ''}{number}")

    def match(self, name: str, data: bytes) -> None:
        """An extension of xtables; ``data`` may have padding at its end."""
        if name == "icmp6" and self._protocol == socket.IPPROTO_ICMPV6 and data[1:4] == _ANY_CODE:
            self.values["icmpv6"] = data[0]
        elif (name == "devgroup" and data[: len(_DEVGROUP)] == _DEVGROUP) or (
            name == "rpfilter" and data[:1] == _RPFILTER
        ):
            self._matched.add(name)
        else:
            self.beyond.append(f"match {name} with the data {data.hex()}")

    def icmpv6(self, number: int) -> None:
        self.values["icmpv6"] = number

    def target(self, name: str) -> None:
        self.values["target"] = name

    def extension(self, name: str, data: bytes) -> None:
        """A target of xtables: ``CT`` in any revision (xt_ct_target_info, _v1), or any other by its name."""
        notrack = name == "CT" and int.from_bytes(data[:2], sys.byteorder) & _NOTRACK
        self.target("NOTRACK" if notrack else name)

    def applied(self) -> Applied:
        if self._matched == {"devgroup", "rpfilter"}:
            self.values["forged"] = True
        elif self._matched:
            self.beyond.append(f"match {', '.join(self._matched)} alone")
        if self._protocol is not None and "icmpv6" not in self.values:
            self.beyond.append(f"protocol is {self._protocol}, of any type")
        target = self.values.pop("target", _NO_TARGET)
        return Applied(
            replace(FirewallRule(self.family, self.chain, target), **self.values), tuple(self.beyond)
        )


# nf_tables: each expression loads a register, changes one, compares one, or ends the rule.
_META: Final = {6: "in_interface", 7: "out_interface", 16: "protocol"}  # NFT_META_IIFNAME, OIFNAME, L4PROTO
_FIELDS: Final[dict[Family, dict[int, str]]] = {
    4: {9: "protocol", 12: "source", 16: "destination"},
    6: {6: "protocol", 8: "source", 24: "destination"},
}
"""Offset in the network header → field."""
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
_NFT_VERDICTS: Final = {0: "DROP", 1: "ACCEPT", -5: "RETURN"}  # NF_DROP, NF_ACCEPT, NFT_RETURN


def _nft(place: Place, rule: bytes) -> Applied:
    registers = _Registers(_Made(*place))
    for name, data in firewall_fingerprint.expressions(rule):
        step = registers.steps.get(name)
        if step is None:
            raise Unreadable(name)
        try:
            step(dict(attributes(data)))
        except (KeyError, struct.error, IndexError) as error:
            raise Unreadable(name) from error
    return registers.made.applied()


class _Registers:
    """The registers while a rule is evaluated: register → (field, the mask it was reduced by)."""

    def __init__(self, made: _Made) -> None:
        self.made = made
        self.steps: dict[str, Callable[[dict[int, bytes]], None]] = {
            "meta": self.meta,
            "payload": self.payload,
            "bitwise": self.bitwise,
            "cmp": self.compare,
            "match": self.match,
            "immediate": self.immediate,
            "target": self.target,
        }
        self._held: dict[int, tuple[str, bytes | None]] = {}

    def meta(self, data: dict[int, bytes]) -> None:
        """NFTA_META_DREG 1, KEY 2."""
        self._held[_number(data[1])] = _META[_number(data[2])], None

    def payload(self, data: dict[int, bytes]) -> None:
        """NFTA_PAYLOAD_DREG 1, BASE 2, OFFSET 3, LEN 4. A network of whole bytes is loaded that far and no further."""
        register, base, offset, length = (_number(data[kind]) for kind in (1, 2, 3, 4))
        if base == _TRANSPORT and (offset, length) == (0, 1):
            self._held[register] = "icmpv6", None
            return
        if base != _NETWORK:
            raise Unreadable("payload")
        self._held[register] = _FIELDS[self.made.family][offset], None

    def bitwise(self, data: dict[int, bytes]) -> None:
        """NFTA_BITWISE_SREG 1, DREG 2, MASK 4, XOR 5, OP 6, which is absent or 0 for a mask."""
        if _number(data.get(6, b"")) or any(_value(data[5])):
            raise Unreadable("bitwise")
        field, _ = self._held.pop(_number(data[1]))
        self._held[_number(data[2])] = field, _value(data[4])

    def compare(self, data: dict[int, bytes]) -> None:
        """NFTA_CMP_SREG 1, OP 2 (0 equal, 1 not), DATA 3."""
        field, mask = self._held[_number(data[1])]
        value, inverted = _value(data[3]), _number(data[2]) == 1
        if _number(data[2]) > 1:
            raise Unreadable("cmp")
        match field:
            case "in_interface" | "out_interface":
                self.made.interface(field, value, b"" if mask is None else mask, inverted=inverted)
            case "source" | "destination":
                width = 16 if self.made.family == 6 else 4
                whole = (b"\xff" * len(value) if mask is None else mask).ljust(width, b"\0")
                self.made.network(field, value.ljust(width, b"\0"), whole, inverted=inverted)
            case "icmpv6" if not inverted:
                self.made.icmpv6(value[0])
            case "protocol":
                self.made.protocol(value[0], inverted=inverted)
            case _:
                raise Unreadable("cmp")

    def match(self, data: dict[int, bytes]) -> None:
        """NFTA_MATCH_NAME 1, REV 2, INFO 3."""
        self.made.match(data[1].rstrip(b"\0").decode(), data[3])

    def target(self, data: dict[int, bytes]) -> None:
        """NFTA_TARGET_NAME 1, REV 2, INFO 3."""
        self.made.extension(data[1].rstrip(b"\0").decode(), data[3])

    def immediate(self, data: dict[int, bytes]) -> None:
        """NFTA_IMMEDIATE_DREG 1, DATA 2 → NFTA_DATA_VERDICT 2 → NFTA_VERDICT_CODE 1."""
        code = dict(attributes(dict(attributes(data[2]))[2]))[1]
        (verdict,) = struct.unpack("!i", code)
        self.made.target(_NFT_VERDICTS.get(verdict, f"the verdict {verdict}"))


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _value(data: bytes) -> bytes:
    """NFTA_DATA_VALUE."""
    return dict(attributes(data))[1]

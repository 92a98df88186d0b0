"""Galactic's firewall chains as the kernel has them, read over its own interface, and a fingerprint of them.

A reading takes two or three system calls a table, no process, and skips other programs' rules. The fingerprint covers
each rule without its counters, and whether the built-in chain jumps into Galactic's first. It only shows that
something changed since a check: ``galactic.linux.readback`` compares the rules with the plan.
"""

import ctypes
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

from galactic.linux.firewall import PLACES, TABLES, Backend, Place, own
from galactic.linux.netlink import HEADER, attributes

HOOKS: Final = {
    "PREROUTING": 0,
    "INPUT": 1,
    "FORWARD": 2,
    "OUTPUT": 3,
    "POSTROUTING": 4,
}  # NF_INET_PRE_ROUTING and so on
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same numbers for IPv6
_INFO: Final = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_ENTRIES_AT: Final = 40  # in struct ipt_get_entries
TARGET: Final = struct.Struct("=H29sB")  # struct xt_entry_target, before its data
VERDICT: Final = struct.Struct("=i")
OFFSETS: Final = struct.Struct("=HH")  # target_offset, next_offset
COUNTERS: Final = struct.Struct("=QQ")  # struct xt_counters: packets, bytes

_GET_RULE, _NEW_RULE = 10 << 8 | 7, 10 << 8 | 6  # of the subsystem NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _NEW_CHAIN = 10 << 8 | 4, 10 << 8 | 3
_GENERIC: Final = 4  # struct nfgenmsg
NETFILTER: Final = 12  # NETLINK_NETFILTER
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_NFPROTO: Final = {4: 2, 6: 10}
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4  # NFTA_RULE_…
_ELEMENT: Final = 1  # NFTA_LIST_ELEM
NAME, DATA = 1, 2  # NFTA_EXPR_…
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_…
_PART: Final = 1 << 18
_ATTEMPTS: Final = 3


class Layout:
    """Offsets and sizes, in bytes, of struct ipt_entry or struct ip6t_entry."""

    def __init__(self, level: int, family: int, header: int, size: int) -> None:
        self.level, self.family, self.size = level, family, size
        self.offsets = header + 4
        self.comes_from = header + 8
        self.counters = size - 16


LAYOUTS: Final = {
    4: Layout(socket.IPPROTO_IP, socket.AF_INET, 84, 112),
    6: Layout(socket.IPPROTO_IPV6, socket.AF_INET6, 136, 168),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of Galactic as the kernel has it.

    ``rules``: for legacy tables struct ipt_entry or ip6t_entry, without what the kernel writes there itself; for nft
    the encoded expressions. ``first``: the built-in chain begins with an unconditional jump into it. ``counters``:
    packets and bytes that each rule has matched.
    """

    rules: tuple[bytes, ...]
    first: bool
    counters: tuple[tuple[int, int], ...] = ()


def reader(backend: Backend) -> Callable[[Place], Chain | None]:
    """A reader of Galactic's chains in this process' network namespace; reads each legacy table once.

    It returns None if the chain is absent, or empty in nft, and raises OSError if the kernel does not answer.
    """
    tables = cache(legacy_table)

    def legacy(place: Place) -> Chain | None:
        family, parent = place
        entries, hooks = tables(family, TABLES[parent])
        return _legacy_chain(LAYOUTS[family], entries, own(parent).encode(), hooks[HOOKS[parent]])

    return legacy if backend == "legacy" else _nft_chain


def fingerprint(
    backend: Backend,
    *,
    only: Collection[tuple[int, str]] | None = None,
    harmless: Callable[[Backend, Place], bool] | None = None,
) -> str | None:
    """The fingerprint of Galactic's chains in a backend, in this process' network namespace; None without chains, or
    if they are unreadable. ``only``: the (family, table)s to read, as reading a legacy table creates it. ``harmless``:
    whether the rules ahead of a jump that is not the first count as none.
    """
    digest = hashlib.blake2b(digest_size=16)
    anything = False
    chain_at = reader(backend)
    for place in PLACES:
        if only is not None and (place[0], TABLES[place[1]]) not in only:
            continue
        try:
            chain = chain_at(place)
        except OSError:
            return None
        anything |= chain is not None
        in_place = chain is not None and (chain.first or (harmless is not None and harmless(backend, place)))
        digest.update(repr((place, chain and (chain.rules, in_place))).encode())
    return digest.hexdigest() if anything else None


def legacy_table(family: int, table: str) -> tuple[bytes, Sequence[int]]:
    """A table's entries, and the offsets at which each of the five hooks' rules begin, and then their policies."""
    layout = LAYOUTS[family]
    with socket.socket(layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as netlink:
        for _ in range(_ATTEMPTS):
            info = _asked(netlink, layout.level, _GET_INFO, _INFO.pack(table.encode(), *[0] * 13))
            _, _, *numbers, _, size = _INFO.unpack(info)
            request = struct.pack("=32sI4x", table.encode(), size) + bytes(size)
            try:
                return _asked(netlink, layout.level, _GET_ENTRIES, request)[_ENTRIES_AT:], numbers
            except OSError as error:
                if error.errno != errno.EAGAIN:  # it has another size by now
                    raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _legacy_chain(layout: Layout, entries: bytes, name: bytes, first: int) -> Chain | None:
    start_of_chain = head(layout, entries, name)
    if start_of_chain is None:
        return None
    rules: list[bytes] = []
    counters: list[tuple[int, int]] = []
    position = start = next_entry(layout, entries, start_of_chain)
    while not user_chain(layout, entries, position):
        rules.append(bare(layout, entries, position))
        packets, size = COUNTERS.unpack_from(entries, position + layout.counters)
        counters.append((packets, size))
        position = next_entry(layout, entries, position)
    (verdict,) = VERDICT.unpack_from(entries, first + layout.size + TARGET.size)
    (target_at, _) = OFFSETS.unpack_from(entries, first + layout.offsets)
    unconditional = target_at == layout.size and not entries[first : first + layout.offsets - 4].strip(b"\0")
    return Chain(tuple(rules[:-1]), bool(verdict == start and unconditional), tuple(counters[:-1]))


def head(layout: Layout, entries: bytes, name: bytes) -> int | None:
    """The offset of the entry that begins the chain of that name."""
    at = -1
    while (at := entries.find(name + b"\0", at + 1)) >= 0:
        start = at - TARGET.size - layout.size
        if start >= 0 and user_chain(layout, entries, start):
            return start
    return None


def user_chain(layout: Layout, entries: bytes, position: int) -> bool:
    """Whether an entry is the beginning of a chain, or the end of the table."""
    if OFFSETS.unpack_from(entries, position + layout.offsets)[0] != layout.size:
        return False
    _, name, _ = TARGET.unpack_from(entries, position + layout.size)
    return bool(name.split(b"\0", 1)[0] == b"ERROR")


def next_entry(layout: Layout, entries: bytes, position: int) -> int:
    return position + int(OFFSETS.unpack_from(entries, position + layout.offsets)[1])


def bare(layout: Layout, entries: bytes, position: int) -> bytes:
    """An entry without its counters and the kernel's own field."""
    end = next_entry(layout, entries, position)
    return entries[position : position + layout.comes_from] + entries[position + layout.size : end]


def _asked(netlink: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """getsockopt(2) with a request in the buffer, which Python's own lacks."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(netlink.fileno(), level, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def _nft_chain(place: Place) -> Chain | None:
    for _ in range(_ATTEMPTS - 1):
        with suppress(InterruptedError):  # the ruleset changed during the dump
            return _nft_dump(place)
    return _nft_dump(place)


def _nft_dump(place: Place) -> Chain | None:
    family, parent = place
    table, name = TABLES[parent], own(parent)
    jump = name.encode() + b"\0"
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as netlink:
        netlink.settimeout(1.0)  # a dump is answered at once
        rules = tuple(_rules(netlink, family, table, name))
        if not rules:
            return None
        first, _ = next(
            _rules(netlink, family, table, parent), (b"", (0, 0))
        )  # no more: closing ends the dump
        return Chain(tuple(rule for rule, _ in rules), jump in first, tuple(counted for _, counted in rules))


def _rules(
    netlink: socket.socket, family: int, table: str, chain: str
) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The rules of a chain without handles, and their counters. Raises OSError, also if the chain changes meanwhile."""
    for message in nft_rules(netlink, _NFPROTO[family], table, chain):
        yield rule_of(message)


def nft_rules(netlink: socket.socket, protocol: int, table: str, chain: str) -> Iterator[bytes]:
    """The attributes of each rule of a chain in a table of that family, an NFPROTO number. Raises OSError."""
    body = struct.pack("=BBH", protocol, 0, 0) + _text(_TABLE, table) + _text(_CHAIN, chain)
    return (message[_GENERIC:] for message in dumped(netlink, (_GET_RULE, _NEW_RULE), body))


def nft_chains(netlink: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Each chain of nft: its family, an NFPROTO number, and its attributes. Raises OSError."""
    body = struct.pack("=BBH", 0, 0, 0)
    return ((message[0], message[_GENERIC:]) for message in dumped(netlink, (_GET_CHAIN, _NEW_CHAIN), body))


def dumped(netlink: socket.socket, kinds: tuple[int, int], body: bytes) -> Iterator[bytes]:
    """The messages of a dump. ``kinds``: of the request and of what is returned. Raises OSError."""
    request, wanted = kinds
    netlink.send(HEADER.pack(HEADER.size + len(body), request, _REQUEST | _DUMP, 1, 0) + body)
    while True:
        datagram = netlink.recv(_PART)
        position = 0
        while position + HEADER.size <= len(datagram):
            length, kind, flags, *_ = HEADER.unpack_from(datagram, position)
            message = datagram[position + HEADER.size : position + length]
            position += length + 3 & ~3
            if flags & _INTERRUPTED:
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            if kind in (_DONE, _ERROR):
                (number,) = VERDICT.unpack_from(message)
                if number < 0:
                    raise OSError(-number, os.strerror(-number))
                return
            if kind == wanted:
                yield message


def rule_of(rule: bytes) -> tuple[bytes, tuple[int, int]]:
    """The rule's expressions, each as (name, data) again, and apart from them its counter: packets and bytes."""
    encoded, counted = b"", (0, 0)
    for _, expression in attributes(dict(attributes(rule)).get(_EXPRESSIONS, b"")):
        parts = dict(attributes(expression))
        name, data = parts.get(NAME, b""), parts.get(DATA, b"")
        if name == b"counter\0":
            numbers = dict(attributes(data))
            packets, size = (int.from_bytes(numbers.get(kind, b""), "big") for kind in (_PACKETS, _BYTES))
            counted = packets, size
        else:
            encoded += _attribute(_ELEMENT, _attribute(NAME, name) + _attribute(DATA, data))
    return encoded, counted


def expressions(rule: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, data) of each expression of an nft rule in ``Chain.rules``."""
    for _, expression in attributes(rule):
        parts = dict(attributes(expression))
        yield parts[NAME].rstrip(b"\0").decode(), parts[DATA]


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

"""A fingerprint of our firewall chains, cheap enough to be taken every few seconds: two or three system calls a table,
no process, and what others have in the same tables is passed over, however much it is.

It says only whether something is as it was when it was found to be right: ``galactic.linux.iptables`` knows what is.
It covers our chains, rule by rule without the counters, and whether each is jumped into, first, from its built-in
chain. Reading cannot crash or block: that is the kernel's own interface, not a library's.
"""

import ctypes
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Final

from galactic.linux.firewall import PLACES, TABLES, Backend, BuiltIn, own
from galactic.linux.netlink import HEADER, attributes

_HOOKS: Final = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2}  # NF_INET_PRE_ROUTING and so on
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same numbers for IPv6
_INFO: Final = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_ENTRIES_AT: Final = 40  # in struct ipt_get_entries
_TARGET: Final = struct.Struct("=H29sB")  # struct xt_entry_target, before its data
_VERDICT: Final = struct.Struct("=i")
_OFFSETS: Final = struct.Struct("=HH")  # target_offset, next_offset

_NETFILTER: Final = 12  # NETLINK_NETFILTER
_GET_RULE, _NEW_RULE = 10 << 8 | 7, 10 << 8 | 6  # of the subsystem NFNL_SUBSYS_NFTABLES
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_NFPROTO: Final = {4: 2, 6: 10}
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4  # NFTA_RULE_…
_NAME, _DATA = 1, 2  # NFTA_EXPR_…
_PART: Final = 1 << 18
_ATTEMPTS: Final = 3


class _Layout:
    """Where things are in struct ipt_entry and struct ip6t_entry."""

    def __init__(self, level: int, family: int, header: int, size: int) -> None:
        self.level, self.family, self.size = level, family, size
        self.offsets = header + 4
        self.comes_from = header + 8
        self.counters = size - 16


_LAYOUTS: Final = {
    4: _Layout(socket.IPPROTO_IP, socket.AF_INET, 84, 112),
    6: _Layout(socket.IPPROTO_IPV6, socket.AF_INET6, 136, 168),
}


def fingerprint(backend: Backend, *, only: Collection[tuple[int, str]] | None = None) -> str | None:
    """Of our chains in that backend, in this process' network namespace; None if there is nothing of ours, or if it
    could not be read. ``only``: the (family, table)s to look at, since looking at a legacy table makes it exist.
    """
    found = hashlib.blake2b(digest_size=16)
    anything = False
    read = cache(_legacy)  # once a table, though two of our chains may be in it
    for family, chain in PLACES:
        table = TABLES[chain]
        if only is not None and (family, table) not in only:
            continue
        try:
            if backend == "legacy":
                entries, hooks = read(family, table)
                parts = list(
                    _legacy_parts(_LAYOUTS[family], entries, own(chain).encode(), hooks[_HOOKS[chain]])
                )
            else:
                parts = list(_nft(family, chain))
        except OSError:
            return None
        anything |= bool(parts)
        found.update(repr((family, chain, parts)).encode())
    return found.hexdigest() if anything else None


def _legacy(family: int, table: str) -> tuple[bytes, Sequence[int]]:
    """A table's entries, and where in them the rules of each hook begin."""
    layout = _LAYOUTS[family]
    with socket.socket(layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
        for _ in range(_ATTEMPTS):
            info = _asked(asking, layout.level, _GET_INFO, _INFO.pack(table.encode(), *[0] * 13))
            _, _, *numbers, _, size = _INFO.unpack(info)
            request = struct.pack("=32sI4x", table.encode(), size) + bytes(size)
            try:
                return _asked(asking, layout.level, _GET_ENTRIES, request)[_ENTRIES_AT:], numbers
            except OSError as error:
                if error.errno != errno.EAGAIN:  # it has another size by now
                    raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _legacy_parts(layout: _Layout, entries: bytes, name: bytes, first: int) -> Iterator[bytes]:
    head = _head(layout, entries, name)
    if head is None:
        return
    position = start = _next(layout, entries, head)
    while not _user_chain(layout, entries, position):
        yield _bare(layout, entries, position)
        position = _next(layout, entries, position)
    (verdict,) = _VERDICT.unpack_from(entries, first + layout.size + _TARGET.size)
    (target_at, _) = _OFFSETS.unpack_from(entries, first + layout.offsets)
    unconditional = target_at == layout.size and not entries[first : first + layout.offsets - 4].strip(b"\0")
    yield b"first" if verdict == start and unconditional else b"not first"


def _head(layout: _Layout, entries: bytes, name: bytes) -> int | None:
    """Where the entry is that begins the chain of that name."""
    found = -1
    while (found := entries.find(name + b"\0", found + 1)) >= 0:
        head = found - _TARGET.size - layout.size
        if head >= 0 and _user_chain(layout, entries, head):
            return head
    return None


def _user_chain(layout: _Layout, entries: bytes, position: int) -> bool:
    """Whether an entry is the beginning of a chain, or the end of the table."""
    if _OFFSETS.unpack_from(entries, position + layout.offsets)[0] != layout.size:
        return False
    _, name, _ = _TARGET.unpack_from(entries, position + layout.size)
    return bool(name.split(b"\0", 1)[0] == b"ERROR")


def _next(layout: _Layout, entries: bytes, position: int) -> int:
    return position + int(_OFFSETS.unpack_from(entries, position + layout.offsets)[1])


def _bare(layout: _Layout, entries: bytes, position: int) -> bytes:
    """An entry without what changes by itself."""
    end = _next(layout, entries, position)
    return entries[position : position + layout.comes_from] + entries[position + layout.size : end]


def _asked(asking: socket.socket, level: int, option: int, request: bytes) -> bytes:
    """getsockopt(2) with something in the buffer, which Python's own cannot."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(asking.fileno(), level, option, buffer, ctypes.byref(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def _nft(family: int, parent: BuiltIn) -> Iterator[bytes]:
    table, name = TABLES[parent], own(parent)
    jump = name.encode() + b"\0"
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as asking:
        asking.settimeout(1.0)  # a dump is answered at once
        rules = list(_rules(asking, family, table, name))
        if rules:
            yield from rules
            first = next(_rules(asking, family, table, parent), b"")  # and no more: closing ends the dump
            yield b"first" if jump in first else b"not first"


def _rules(asking: socket.socket, family: int, table: str, chain: str) -> Iterator[bytes]:
    """The rules of a chain, without handles and counters. Raises OSError, also if the chain changes meanwhile."""
    body = struct.pack("=BBH", _NFPROTO[family], 0, 0) + _text(_TABLE, table) + _text(_CHAIN, chain)
    asking.send(HEADER.pack(HEADER.size + len(body), _GET_RULE, _REQUEST | _DUMP, 1, 0) + body)
    while True:
        datagram = asking.recv(_PART)
        position = 0
        while position + HEADER.size <= len(datagram):
            length, kind, flags, *_ = HEADER.unpack_from(datagram, position)
            message = datagram[position + HEADER.size : position + length]
            position += length + 3 & ~3
            if flags & _INTERRUPTED:
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            if kind in (_DONE, _ERROR):
                (number,) = _VERDICT.unpack_from(message)
                if number < 0:
                    raise OSError(-number, os.strerror(-number))
                return
            if kind == _NEW_RULE:
                yield _expressions(message[4:])


def _expressions(rule: bytes) -> bytes:
    result = b""
    for _, expression in attributes(dict(attributes(rule)).get(_EXPRESSIONS, b"")):
        parts = dict(attributes(expression))
        name = parts.get(_NAME, b"")
        result += name + (b"" if name == b"counter\0" else parts.get(_DATA, b""))
    return result


def _text(kind: int, value: str) -> bytes:
    text = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(text), kind) + text + bytes(-len(text) % 4)

"""Neighbours (ARP, neighbour discovery): the kernel's state of each, and fresh attempts to resolve them.

rtnetlink(7), linux/neighbour.h, RFC 4861 §7.3.2. With the kernel's defaults an attempt ends after three probes, one a
second. A state may be outdated: ``solicit`` makes the kernel ask unknown neighbours, ``resolve`` also outdated ones
(STALE).

Entries with the flag ``extern_learn`` are *kept*: see ``galactic.linux.kept_neighbours``.
"""

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Final, NamedTuple

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    replies,
)
from galactic.linux.objects import PROTOCOL, Address, Neighbour, NeighbourState

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_ERROR: Final = struct.Struct("=i")
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX, _NDA_PROTOCOL = 1, 2, 8, 12
NTF_USE, _NTF_EXT_LEARNED = 0x01, 0x10
_STATES: Final[dict[int, NeighbourState]] = {
    0x00: "NONE",
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
_NUD_STALE, _NUD_PROBE, _NUD_NOARP = 0x04, 0x10, 0x40
_KNOWN: Final = frozenset({"REACHABLE", "NOARP", "PERMANENT"})
_REMEMBERED: Final = frozenset({"STALE", "DELAY"})
BURST: Final = 100
_PART: Final = 1 << 16
_ANSWER_SECONDS: Final = 30.0
RESOLVE_SECONDS: Final = 3.5
"""For three probes, a second apart."""
_POLL_SECONDS: Final = 0.05


class Entry(NamedTuple):
    """One neighbour. ``device``: its index. ``kept``: it neither counts nor is collected. ``ours``: with our number."""

    device: int
    address: Address
    state: NeighbourState
    kept: bool
    ours: bool
    mac: bytes


async def read(namespace: Namespace, accepts: Callable[[str], bool]) -> dict[Neighbour, NeighbourState]:
    """The neighbours on the devices whose names ``accepts`` returns True for. Raises Unreachable."""
    with namespace.netlink() as own:
        return {neighbour: entry.state for neighbour, entry in await entries_of(own, accepts)}


async def entries_of(own: socket.socket, accepts: Callable[[str], bool]) -> list[tuple[Neighbour, Entry]]:
    """The neighbours on the devices whose names ``accepts`` returns True for."""
    names: dict[int, str] = {}
    entries = []
    for entry in await _dump(own, 0):
        if entry.device not in names:
            names[entry.device] = device_name(own, entry.device)
        if (name := names[entry.device]) and accepts(name):
            entries.append(((name, entry.address), entry))
    return entries


async def solicit(namespace: Namespace, neighbours: Iterable[Neighbour]) -> set[Neighbour]:
    """Makes the kernel ask neighbours of unknown state, as for a packet to them (NTF_USE). Their entries are kept.

    Returns those that it accepted: not those of a missing device, or of one without that family. Raises Unreachable.
    """
    iterator = iter(neighbours)
    accepted: set[Neighbour] = set()
    with namespace.netlink() as own:
        while burst := list(islice(iterator, BURST)):
            known = [(neighbour, index) for neighbour in burst if (index := device_index(own, neighbour[0]))]
            messages = [(RTM_NEWNEIGH, kept_entry(index, address, NTF_USE)) for (_, address), index in known]
            refused = await send(own, messages)
            accepted |= {neighbour for number, (neighbour, _) in enumerate(known, 1) if number not in refused}
    return accepted


async def resolve(
    namespace: Namespace, neighbour: Neighbour, *, seconds: float = RESOLVE_SECONDS
) -> NeighbourState:
    """A neighbour's state after an attempt, at once if it is known: REACHABLE, FAILED or INCOMPLETE (no answer so far),
    or PERMANENT and NOARP, which the kernel does not ask. NONE if the kernel cannot ask: no such device, or no such
    family on it. Raises Unreachable.

    A STALE one is probed (PROBE), as the kernel does five seconds after a packet to it.
    """
    device, address = neighbour
    with namespace.netlink() as own:
        if not (index := device_index(own, device)):
            return "NONE"
        deadline = time.monotonic() + seconds
        state, flags = await _state(own, index, address)
        if state == "FAILED":
            state = "NONE"  # of an attempt before this one
        while state not in _KNOWN | {"FAILED"} and time.monotonic() < deadline:
            if state in _REMEMBERED:
                await send(own, [(RTM_NEWNEIGH, _entry(index, address, _NUD_PROBE, flags))])
            elif state == "NONE":
                asking = _entry(index, address, 0, flags | NTF_USE)
                if await send(own, [(RTM_NEWNEIGH, asking)]):
                    return "NONE"
            await asyncio.sleep(_POLL_SECONDS)
            state, flags = await _state(own, index, address)
        return state if state in _KNOWN | {"FAILED"} else "INCOMPLETE"


async def _state(own: socket.socket, index: int, address: Address) -> tuple[NeighbourState, int]:
    """Its state, and the flag that a message must repeat, because the kernel would take it away."""
    entry = next((entry for entry in await _dump(own, index) if entry.address == address), None)
    return (entry.state, _NTF_EXT_LEARNED if entry.kept else 0) if entry else ("NONE", 0)


def kept_entry(index: int, address: Address, flags: int = 0, mac: bytes = b"") -> bytes:
    """A message, without its header, that makes an entry kept. A multicast address needs no resolution; with ``mac``
    the entry is resolved, and confirmed at its first use.
    """
    body = _attribute(_NDA_PROTOCOL, bytes((PROTOCOL,))) + (_attribute(_NDA_LLADDR, mac) if mac else b"")
    state = _NUD_NOARP if address.is_multicast else _NUD_STALE if mac else 0
    return _entry(index, address, state, flags | _NTF_EXT_LEARNED) + body


def _entry(index: int, address: Address, state: int, flags: int) -> bytes:
    """A message without its header. With NTF_USE the kernel keeps state and link-layer address."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return _NEIGHBOUR.pack(family, index, state, flags, 0) + _attribute(_NDA_DST, address.packed)


async def send(own: socket.socket, messages: Sequence[tuple[int, bytes]]) -> dict[int, int]:
    """Sends all (type and body) and waits for the answer to the last. The errno of refused ones by number, from 1."""
    if not messages:
        return {}
    loop = asyncio.get_running_loop()
    packed = []
    for sequence, (kind, body) in enumerate(messages, 1):
        flags = NLM_F_REQUEST | (NLM_F_CREATE if kind == RTM_NEWNEIGH else 0)
        flags |= NLM_F_ACK if sequence == len(messages) else 0
        packed.append(HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body)
    refused: dict[int, int] = {}
    answered = False
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(own, b"".join(packed))
            while not answered:
                for reply in replies(await loop.sock_recv(own, _PART)):
                    answered |= reply.sequence == len(messages)
                    refused |= {reply.sequence: reply.errno} if reply.errno else {}
    except OSError as error:
        raise Unreachable("kernel", f"asking neighbours: {error.strerror or error}") from error
    return refused


async def _dump(own: socket.socket, index: int) -> list[Entry]:
    """All neighbours, or those on one device."""
    loop = asyncio.get_running_loop()
    body = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_NDA_IFINDEX, struct.pack("=I", index)) if index else b""
    request = HEADER.pack(HEADER.size + len(body), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body
    entries: list[Entry] = []
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(own, request)
            while True:
                for kind, message in _messages(await loop.sock_recv(own, _PART)):
                    if kind == RTM_NEWNEIGH:
                        entries += _decoded(message)
                    elif kind in (NLMSG_DONE, NLMSG_ERROR):
                        _complain(message)
                        return entries
    except OSError as error:
        raise Unreachable("kernel", f"dumping neighbours: {error.strerror or error}") from error


def _decoded(message: bytes) -> Iterator[Entry]:
    _, index, state, flags, _ = _NEIGHBOUR.unpack_from(message)
    given = dict(attributes(message[_NEIGHBOUR.size :]))
    if packed := given.get(_NDA_DST):
        name = _STATES.get(state, "NONE")
        exempt = name == "PERMANENT" or bool(flags & _NTF_EXT_LEARNED)
        ours = bytes(given.get(_NDA_PROTOCOL, b""))[:1] == bytes((PROTOCOL,))
        yield Entry(index, ip_address(packed), name, exempt, ours, bytes(given.get(_NDA_LLADDR, b"")))


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + HEADER.size <= len(datagram):
        length, kind, *_ = HEADER.unpack_from(datagram, position)
        yield kind, datagram[position + HEADER.size : position + length]
        position += length + 3 & ~3


def _complain(message: bytes) -> None:
    number = -_ERROR.unpack_from(message)[0] if len(message) >= _ERROR.size else 0
    if number > 0 and number != errno.ENODEV:  # the device went away: it has none
        raise OSError(number, os.strerror(number))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

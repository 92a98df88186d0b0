"""Neighbours (ARP, neighbour discovery): the kernel's state of each, and fresh attempts to resolve them.

rtnetlink(7), linux/neighbour.h, RFC 4861 §7.3.2. With the kernel's defaults an attempt ends after three probes, one a
second. A state may be outdated: ``solicit`` makes the kernel ask unknown neighbours, ``resolve`` also outdated ones
(STALE).
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
from typing import Final

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
from galactic.linux.objects import Address, Neighbour, NeighbourState

RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_ERROR: Final = struct.Struct("=i")
_NDA_DST, _NDA_IFINDEX = 1, 8
_NTF_USE: Final = 0x01
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
_NUD_PROBE: Final = 0x10
_KNOWN: Final = frozenset({"REACHABLE", "NOARP", "PERMANENT"})
_REMEMBERED: Final = frozenset({"STALE", "DELAY"})
_BURST: Final = 100
_PART: Final = 1 << 16
_ANSWER_SECONDS: Final = 30.0
RESOLVE_SECONDS: Final = 3.5
"""For three probes, a second apart."""
_POLL_SECONDS: Final = 0.05


async def read(namespace: Namespace, accepts: Callable[[str], bool]) -> dict[Neighbour, NeighbourState]:
    """The neighbours on the devices whose names ``accepts`` returns True for. Raises Unreachable."""
    names: dict[int, str] = {}
    found: dict[Neighbour, NeighbourState] = {}
    with namespace.netlink() as own:
        for index, address, state in await _dump(own, 0):
            if index not in names:
                names[index] = device_name(own, index)
            if names[index] and accepts(names[index]):
                found[names[index], address] = state
    return found


async def solicit(namespace: Namespace, neighbours: Iterable[Neighbour]) -> set[Neighbour]:
    """Makes the kernel ask neighbours of unknown state, as for a packet to them (NTF_USE).

    Returns those that it accepted: not those of a missing device, or of one without that family. Raises Unreachable.
    """
    iterator = iter(neighbours)
    accepted: set[Neighbour] = set()
    with namespace.netlink() as own:
        while burst := list(islice(iterator, _BURST)):
            known = [(neighbour, index) for neighbour in burst if (index := device_index(own, neighbour[0]))]
            refused = await _send(own, [_solicitation(index, address) for (_, address), index in known])
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
        state = await _state(own, index, address)
        if state == "FAILED":
            state = "NONE"  # of an attempt before this one
        while state not in _KNOWN | {"FAILED"} and time.monotonic() < deadline:
            if state in _REMEMBERED:
                await _send(own, [_solicitation(index, address, _NUD_PROBE, 0)])
            elif state == "NONE" and await _send(own, [_solicitation(index, address)]):
                return "NONE"
            await asyncio.sleep(_POLL_SECONDS)
            state = await _state(own, index, address)
        return state if state in _KNOWN | {"FAILED"} else "INCOMPLETE"


async def _state(own: socket.socket, index: int, address: Address) -> NeighbourState:
    states = (state for _, other, state in await _dump(own, index) if other == address)
    return next(states, "NONE")


def _solicitation(index: int, address: Address, state: int = 0, flags: int = _NTF_USE) -> bytes:
    """RTM_NEWNEIGH, without its header. The kernel keeps the link-layer address that it has."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return _NEIGHBOUR.pack(family, index, state, flags, 0) + _attribute(_NDA_DST, address.packed)


async def _send(own: socket.socket, bodies: Sequence[bytes]) -> set[int]:
    """Sends all and waits for the answer to the last. Returns the numbers, from 1, of refused ones."""
    if not bodies:
        return set()
    loop = asyncio.get_running_loop()
    messages = []
    for sequence, body in enumerate(bodies, 1):
        flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_ACK if sequence == len(bodies) else 0)
        messages.append(HEADER.pack(HEADER.size + len(body), RTM_NEWNEIGH, flags, sequence, 0) + body)
    refused: set[int] = set()
    answered = False
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(own, b"".join(messages))
            while not answered:
                for reply in replies(await loop.sock_recv(own, _PART)):
                    answered |= reply.sequence == len(bodies)
                    refused |= {reply.sequence} if reply.errno else set()
    except OSError as error:
        raise Unreachable("kernel", f"asking neighbours: {error.strerror or error}") from error
    return refused


async def _dump(own: socket.socket, index: int) -> list[tuple[int, Address, NeighbourState]]:
    """(device's index, address, state) of all neighbours, or of those on one device."""
    loop = asyncio.get_running_loop()
    body = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += _attribute(_NDA_IFINDEX, struct.pack("=I", index)) if index else b""
    request = HEADER.pack(HEADER.size + len(body), RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body
    found: list[tuple[int, Address, NeighbourState]] = []
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(own, request)
            while True:
                for kind, message in _messages(await loop.sock_recv(own, _PART)):
                    if kind == RTM_NEWNEIGH:
                        found += _decoded(message)
                    elif kind in (NLMSG_DONE, NLMSG_ERROR):
                        _complain(message)
                        return found
    except OSError as error:
        raise Unreachable("kernel", f"dumping neighbours: {error.strerror or error}") from error


def _decoded(message: bytes) -> Iterator[tuple[int, Address, NeighbourState]]:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(message)
    if packed := dict(attributes(message[_NEIGHBOUR.size :])).get(_NDA_DST):
        yield index, ip_address(packed), _STATES.get(state, "NONE")


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
    return struct.pack("=HH", 4 + len(value), kind) + value

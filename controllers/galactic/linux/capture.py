"""Packets of one pod at every device that they pass on this node: one packet(7) socket with a filter in the kernel.

The kernel hands over the first SNAP bytes of packets at the pod's host end, and of those elsewhere whose source or
destination is an address of the pod, also inside an SRv6 packet. Sockets are all there is: they are gone with their
process, however that ends. Other packets cost a run of the filter while they are open.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Final, NamedTuple, Self

from galactic.errors import Unreachable
from galactic.linux.objects import Address

SNAP: Final = 128
"""Bytes: an outer header with a routing header (64), an inner one (40) and ports."""
OUTGOING: Final = 4
"""PACKET_OUTGOING: the packet leaves by the device."""
FRAGMENT: Final = -1
"""Protocol of a fragment other than the first, which has no ports."""
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER: Final = 32 << 20
_AD_PROTOCOL, _AD_IFINDEX = 0xFFFFF000, 0xFFFFF008
"""Not bytes of the packet: its ethertype, and its device's index (linux/filter.h)."""
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_EQUAL, _JUMP, _RETURN = 0x15, 0x05, 0x06
_IPV4, _IPV6, _ROUTING, _FRAGMENT = 4, 41, 43, 44
_WITH_PORTS: Final = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite
_ICMP: Final = frozenset({1, 58})
_EXTENSIONS: Final = frozenset({0, 43, 60})
_OUTER: Final = 40
Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, operand."""


class Tuple5(NamedTuple):
    """A flow. Ports are type and code for ICMP, 0 where there are none."""

    protocol: int
    source: Address
    source_port: int
    destination: Address
    destination_port: int


class Sighting(NamedTuple):
    """A packet at a device. ``size``: bytes of the IP packet; ``segment``: the SID that it is on its way to, packed."""

    device: str
    outgoing: bool
    flow: Tuple5
    size: int
    segment: bytes


def program(host_end: int, addresses: Sequence[Address]) -> list[Instruction]:
    """The filter: all of the device with that index, elsewhere packets with these addresses."""
    inner = [
        *_when(_LOAD_BYTE, 6, _IPV4, _with_addresses(_OUTER, 4, addresses)),
        *_when(_LOAD_BYTE, 6, _IPV6, _with_addresses(_OUTER, 6, addresses)),
        *_when(
            _LOAD_BYTE,
            6,
            _ROUTING,
            [
                *_when(_LOAD_BYTE, _OUTER, _IPV4, _with_addresses(_OUTER + 24, 4, addresses)),
                *_when(_LOAD_BYTE, _OUTER, _IPV6, _with_addresses(_OUTER + 24, 6, addresses)),
            ],
        ),
    ]
    return [
        *_when(_LOAD_WORD, _AD_IFINDEX, host_end, [_return(SNAP)]),
        *_when(_LOAD_HALF, _AD_PROTOCOL, _ETH_P_IP, _with_addresses(0, 4, addresses)),
        *_when(_LOAD_HALF, _AD_PROTOCOL, _ETH_P_IPV6, [*_with_addresses(0, 6, addresses), *inner]),
        _return(0),
    ]


def parse(packet: bytes) -> tuple[Tuple5, int, bytes] | None:
    """(flow, bytes of its IP packet, SID) of a packet from its IP header on, unwrapped; None: it is no IP packet."""
    segment = b""
    if len(packet) >= _OUTER and packet[0] >> 4 == 6:
        following, at = packet[6], _OUTER
        if following == _ROUTING and len(packet) > at + 1:
            following, at = packet[at], at + 8 * (packet[at + 1] + 1)
        if following in (_IPV4, _IPV6):
            segment, packet = packet[24:40], packet[at:]
    parsed = _ipv4(packet) if packet[:1] and packet[0] >> 4 == 4 else _ipv6(packet)
    return (*parsed, segment) if parsed else None


def _ipv4(packet: bytes) -> tuple[Tuple5, int] | None:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    size, protocol = int.from_bytes(packet[2:4], "big"), packet[9]
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:
        protocol = FRAGMENT
    ports = _ports(protocol, packet[4 * (packet[0] & 0x0F) :])
    return Tuple5(protocol, ip_address(packet[12:16]), ports[0], ip_address(packet[16:20]), ports[1]), size


def _ipv6(packet: bytes) -> tuple[Tuple5, int] | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    size, protocol, at = 40 + int.from_bytes(packet[4:6], "big"), packet[6], 40
    while protocol in _EXTENSIONS and len(packet) >= at + 2:
        protocol, at = packet[at], at + 8 * (packet[at + 1] + 1)
    if protocol == _FRAGMENT and len(packet) >= at + 8:
        offset = int.from_bytes(packet[at + 2 : at + 4], "big") >> 3
        protocol, at = (FRAGMENT if offset else packet[at]), at + 8
    ports = _ports(protocol, packet[at:])
    return Tuple5(protocol, ip_address(packet[8:24]), ports[0], ip_address(packet[24:40]), ports[1]), size


def _ports(protocol: int, payload: bytes) -> tuple[int, int]:
    if protocol in _WITH_PORTS and len(payload) >= 4:
        return int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
    if protocol in _ICMP and len(payload) >= 2:
        return payload[0], payload[1]
    return 0, 0


class Capture:
    """The open socket. Needs CAP_NET_RAW. Raises Unreachable without it."""

    def __init__(self, host_end: int, vrf: str, addresses: Sequence[Address]) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            # They receive nothing before they are bound.
            self._socket, self._vrf = (socket.socket(socket.AF_PACKET, kind, 0) for _ in range(2))
        except OSError as error:
            raise Unreachable(
                "kernel", f"packet socket: {error.strerror or error}; it needs CAP_NET_RAW"
            ) from error
        try:
            _attach(self._socket, program(host_end, addresses))
            # A VRF shows its packets only if a socket is bound to it (drivers/net/vrf.c, ptype_all).
            _attach(self._vrf, [_return(0)])
            self._vrf.bind((vrf, _ETH_P_ALL))
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            except OSError:  # CAP_NET_ADMIN is missing
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._bind()
        except OSError as error:
            self._close()
            raise Unreachable("kernel", f"packet socket: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._socket.close()
        self._vrf.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def waiting(self, at_most: int = 1000) -> Iterator[Sighting]:
        """The packets that have arrived by now, in their order."""
        for _ in range(at_most):
            try:
                packet, (device, _, kind, _, _) = self._socket.recvfrom(SNAP)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # a device went away
                continue
            if parsed := parse(packet):
                yield Sighting(device, kind == OUTGOING, *parsed)

    def lost(self) -> int:
        """Packets that found the socket's buffer full, since the last call."""
        _, drops = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def _bind(self) -> None:
        """Binds the socket to all devices: ``socket.bind`` of the standard library requires the name of one."""
        address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
        if ctypes.CDLL(None, use_errno=True).bind(self._socket.fileno(), address, len(address)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _attach(target: socket.socket, instructions: Sequence[Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))  # struct sock_fprog
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


def _return(size: int) -> Instruction:
    return _RETURN, 0, 0, size


def _when(load: int, at: int, value: int, then: list[Instruction]) -> list[Instruction]:
    """``then`` if what is loaded is that value; it goes on behind if it does not return."""
    return [(load, 0, 0, at), (_EQUAL, 1, 0, value), (_JUMP, 0, 0, len(then)), *then]


def _with_addresses(at: int, version: int, addresses: Sequence[Address]) -> list[Instruction]:
    """Accepts an IP header there whose source or destination is one of the addresses."""
    places = (12, 16) if version == 4 else (8, 24)
    return [
        instruction
        for address in addresses
        if address.version == version
        for place in places
        for instruction in _equal(at + place, address.packed)
    ]


def _equal(at: int, value: bytes) -> list[Instruction]:
    """Accepts these bytes there; goes on behind for others."""
    words = [int.from_bytes(value[start : start + 4], "big") for start in range(0, len(value), 4)]
    size = 2 * len(words) + 1
    compared = [
        instruction
        for number, word in enumerate(words)
        for instruction in (
            (_LOAD_WORD, 0, 0, at + 4 * number),
            (_EQUAL, 0, size - 2 * number - 2, word),
        )
    ]
    return [*compared, _return(SNAP)]

"""Packet-too-big messages about this node's encapsulated packets, and the answers to their senders (RFC 2473 §8).

Linux forwards an encapsulated packet without looking at the path MTU, of the encapsulation's route or of its outer
destination (net/ipv6/seg6_iptunnel.c ``seg6_input``, net/ipv6/ip6_output.c ``ip6_forward``), and the inner source gets
no answer. A message quotes as much of the packet as 1280 bytes have room for, the inner headers included.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from types import TracebackType
from typing import Final, Self

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace
from galactic.linux.objects import Address

_ICMP6_FILTER: Final = 1
_IPV6_FREEBIND: Final = 78
_PACKET_TOO_BIG: Final = 2
_PASS_ONLY: Final = struct.pack("=8I", 0xFFFFFFFF & ~(1 << _PACKET_TOO_BIG), *(0xFFFFFFFF,) * 7)
"""Blocks all types but one (RFC 3542 §3.2): a set bit blocks."""
_HEAD: Final = struct.Struct("!BBHI")  # type, code, checksum, MTU
_OUTER: Final = 40
_IPV4, _IPV6, _ROUTING, _ICMP, _ICMPV6 = 4, 41, 43, 1, 58
_IPV4_HEADER: Final = 20
_IPV4_ERRORS: Final = frozenset({3, 4, 5, 11, 12})
_QUOTE: Final = 8
"""Bytes of the inner payload that an answer needs: ports, or an echo's identifier (RFC 792)."""
_LONGEST_ANSWER: Final = {4: 576, 6: 1280}
"""Bytes of an ICMP error: RFC 1812 §4.3.2.3, RFC 4443 §2.4."""
_HOPS: Final = 64
_PART: Final = 1 << 16
_RECEIVE_BUFFER: Final = 1 << 18
"""Bytes: some 200 messages. The kernel drops what arrives while they wait."""


@dataclass(frozen=True, slots=True)
class TooBig:
    """A router's message: packets to ``segment`` may have ``mtu`` bytes, outer header included.

    ``source``: the outer source, packed, as ``segment``. ``overhead``: bytes of the outer headers. ``inner``: the
    packet that was encapsulated, as far as it is quoted.
    """

    router: IPv6Address
    mtu: int
    source: bytes
    segment: bytes
    overhead: int
    inner: bytes

    @property
    def sender(self) -> Address:
        """The inner source."""
        return ip_address(self.inner[12:16] if self.inner[0] >> 4 == 4 else self.inner[8:24])

    @property
    def destination(self) -> Address:
        """The inner destination."""
        return ip_address(self.inner[16:20] if self.inner[0] >> 4 == 4 else self.inner[24:40])


def parse(message: bytes, router: IPv6Address) -> TooBig | None:
    """The message from its ICMPv6 header on; None unless it quotes an encapsulated packet that may be answered.

    No error answers an error, or a fragment other than the first (RFC 1122 §3.2.2, RFC 4443 §2.4).
    """
    if len(message) < _HEAD.size + _OUTER:
        return None
    kind, _, _, mtu = _HEAD.unpack_from(message)
    quoted = message[_HEAD.size :]
    if kind != _PACKET_TOO_BIG or quoted[0] >> 4 != 6:
        return None
    following, at = quoted[6], _OUTER
    if following == _ROUTING and len(quoted) >= at + 2:
        following, at = quoted[at], at + 8 * (quoted[at + 1] + 1)
    inner = quoted[at:]
    if not (_answerable4(inner) if following == _IPV4 else following == _IPV6 and _answerable6(inner)):
        return None
    return TooBig(router, mtu, quoted[8:24], quoted[24:40], at, inner)


def _answerable4(inner: bytes) -> bool:
    if len(inner) < _IPV4_HEADER or inner[0] >> 4 != 4:
        return False
    length = 4 * (inner[0] & 0x0F)
    if length < _IPV4_HEADER or len(inner) < length + _QUOTE or int.from_bytes(inner[6:8], "big") & 0x1FFF:
        return False
    return inner[9] != _ICMP or inner[length] not in _IPV4_ERRORS


def _answerable6(inner: bytes) -> bool:
    if len(inner) < _OUTER + _QUOTE or inner[0] >> 4 != 6:
        return False
    return inner[6] != _ICMPV6 or inner[_OUTER] >= 128


def answer(about: TooBig, mtu: int) -> bytes:
    """The whole packet to the sender: *fragmentation needed* (RFC 1191 §4) or *packet too big* with that MTU.

    It comes from the packet's destination, an address that every hop back to the sender accepts, as the answers of
    Linux' other tunnels do (net/ipv4/ip_tunnel_core.c).
    """
    source, destination = about.destination.packed, about.sender.packed
    version = about.sender.version
    room = _LONGEST_ANSWER[version] - (_IPV4_HEADER if version == 4 else _OUTER) - _HEAD.size
    quote = about.inner[:room]
    if version == 4:
        icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote
        icmp = icmp[:2] + _checksum(icmp) + icmp[4:]
        length = _IPV4_HEADER + len(icmp)
        # the kernel writes the identification and the header's checksum (raw(7))
        head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, _HOPS, _ICMP, 0)
        return head + source + destination + icmp
    icmp = _HEAD.pack(_PACKET_TOO_BIG, 0, 0, mtu) + quote
    pseudo = source + destination + struct.pack("!II", len(icmp), _ICMPV6)
    icmp = icmp[:2] + _checksum(pseudo + icmp) + icmp[4:]
    head = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMPV6, _HOPS)
    return head + source + destination + icmp


def _checksum(data: bytes) -> bytes:
    """RFC 1071, in network order."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (0xFFFF - total).to_bytes(2, "big")


class TooBigSocket:
    """Receives packet-too-big messages to one address, and sends answers. Needs CAP_NET_RAW. Raises Unreachable
    without it.

    ``own``: the node's SRv6 loopback, which the packet filter guards. A pod may write to the node's other addresses.
    """

    def __init__(self, own: IPv6Address, namespace: Namespace | None = None) -> None:
        self._namespace = namespace or Namespace.own()
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = self._namespace.run(
                lambda: socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
            )
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _PASS_ONLY)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # the device may not be made yet
            self._socket.bind((str(own), 0))
        except OSError as error:
            raise Unreachable("kernel", f"raw ICMPv6 socket: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def receive(self) -> TooBig | None:
        """The next message; None if it quotes nothing that may be answered. Raises Unreachable."""
        try:
            message, sender = await asyncio.get_running_loop().sock_recvfrom(self._socket, _PART)
        except OSError as error:
            raise Unreachable("kernel", f"raw ICMPv6 socket: {error.strerror or error}") from error
        return parse(message, IPv6Address(sender[0].partition("%")[0]))

    def send(self, vrf: str, packet: bytes, destination: Address) -> bool:
        """Sends a whole IP packet into a VRF. Whether the kernel accepted it."""
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            with self._namespace.run(lambda: socket.socket(family, kind, socket.IPPROTO_RAW)) as sending:
                sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, vrf.encode())
                sending.sendto(packet, (str(destination), 0))
        except OSError:  # the VRF or the route has just gone
            return False
        return True

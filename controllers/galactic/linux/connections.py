"""The kernel's connection tracking: how many entries it takes, and the end of those that lead to a host which serves no
more.

A UDP client that goes on sending keeps its entry, and so its host. Without the entry its next packet is a new
connection's. Filters of dumps and flushes depend on the kernel's version, so entries are compared here.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from galactic.errors import Unreachable
from galactic.linux.netlink import attributes
from galactic.linux.objects import Address

_NETLINK_NETFILTER: Final = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # of the subsystem NFNL_SUBSYS_CTNETLINK
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_FAMILY: Final = struct.Struct("=BBH")  # nfgenmsg
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_IP, _PROTO = 1, 2
_NESTED: Final = 0x8000
_PART: Final = 1 << 17
TIMEOUT_SECONDS: Final = 10.0
_MAX: Final = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class Service(NamedTuple):
    """A destination that is translated, in a zone. ``protocol``: its number."""

    zone: int
    protocol: int
    address: Address
    port: int


class Held(NamedTuple):
    """An address, in a zone, at which ports are translated."""

    zone: int
    address: Address


def capacity() -> int | None:
    """The entries that the table takes, of all network namespaces' one by one; None before the kernel has loaded it."""
    try:
        return int(_MAX.read_text())
    except (OSError, ValueError):
        return None


def release(held: AbstractSet[Held], serving: Mapping[Service, AbstractSet[Address]]) -> int:
    """Ends the UDP flows to held addresses that lead to a host which does not serve the port. Blocks. How many there
    were. Raises Unreachable.
    """
    ended = 0
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for parts in list(_entries(family)):
                service, host = _read(parts)
                translated = service.protocol == socket.IPPROTO_UDP and host != service.address
                ours = Held(service.zone, service.address) in held
                if ours and translated and host not in serving.get(service, ()):
                    ended += _end(family, parts)
    except OSError as error:
        raise Unreachable("nf_conntrack", error.strerror or str(error)) from error
    return ended


def _entries(family: int) -> Iterator[dict[int, bytes]]:
    """Each entry's attributes."""
    with _opened() as netlink:
        netlink.send(_message(_GET, _REQUEST | _DUMP, family, b""))
        while True:
            data = netlink.recv(_PART)
            position = 0
            while position < len(data):
                size, kind, _, _, _ = _HEADER.unpack_from(data, position)
                if kind == _DONE:
                    return
                body = data[position + _HEADER.size : position + size]
                if kind == _ERROR:
                    _raise(body)
                    return
                yield dict(attributes(body[_FAMILY.size :]))
                position += size + 3 & ~3


def _read(parts: Mapping[int, bytes]) -> tuple[Service, Address | None]:
    """The service that was asked, and the host that answers."""
    asked, answering = (_tuple(parts.get(kind, b"")) for kind in (_TUPLE_ORIG, _TUPLE_REPLY))
    zone = int.from_bytes(parts.get(_ZONE, b""), "big")
    service = Service(zone, asked.protocol, asked.destination, asked.port)  # type: ignore[arg-type]
    return service, answering.source


class _Tuple(NamedTuple):
    source: Address | None
    destination: Address | None
    protocol: int
    port: int  # the destination's


def _tuple(data: bytes) -> _Tuple:
    nested = dict(attributes(data))
    addresses, protocol = dict(attributes(nested.get(_IP, b""))), dict(attributes(nested.get(_PROTO, b"")))
    source, destination = (
        ip_address(packed) if (packed := addresses.get(four) or addresses.get(six)) else None
        for four, six in ((1, 3), (2, 4))
    )
    number, port = (int.from_bytes(protocol.get(kind, b""), "big") for kind in (1, 3))
    return _Tuple(source, destination, number, port)


def _end(family: int, parts: Mapping[int, bytes]) -> int:
    """1, or 0 where it has ended by itself."""
    wanted = _attribute(_TUPLE_ORIG | _NESTED, parts[_TUPLE_ORIG])
    wanted += b"".join(_attribute(kind, parts[kind]) for kind in (_ZONE, _ID) if kind in parts)
    with _opened() as netlink:
        netlink.send(_message(_DELETE, _REQUEST | _ACK, family, wanted))
        return int(_raise(netlink.recv(_PART)[_HEADER.size :], errno.ENOENT) == 0)


def _raise(body: bytes, harmless: int = 0) -> int:
    (number,) = struct.unpack_from("=i", body)
    if number and -number != harmless:
        raise OSError(-number, os.strerror(-number))
    return int(number)


def _opened() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    netlink.settimeout(TIMEOUT_SECONDS)
    netlink.bind((0, 0))
    return netlink


def _message(kind: int, flags: int, family: int, wanted: bytes) -> bytes:
    body = _FAMILY.pack(family, 0, 0) + wanted
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

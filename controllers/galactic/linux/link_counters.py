"""Traffic counters of host ends, from one dump of the kernel's links (rtnetlink(7), RTM_GETLINK).

A dump of links has each device's ``rtnl_link_stats64``; the kernel sends the veth devices alone. Its IPv6 counters are
in /proc/net/dev_snmp6: the dump has them too, as numbers in an order that Linux has changed. The kernel counts a frame
with its Ethernet header, and a packet that segmentation offload has not cut yet as one.

Numbers are a pod's: *sent* came out of the pod (the host end received it), *received* went into the pod.
"""

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from galactic import names
from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace
from galactic.linux.netlink import (
    HEADER,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
)

HEADER_BYTES: Final = 14
"""Of each frame's size: the Ethernet header, which is no part of the IP packet."""
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_STATS64 = 3, 18, 23
_IFLA_INFO_KIND: Final = 1
_NESTED: Final = 0x8000
_STATS: Final = struct.Struct("=8Q")
"""rtnl_link_stats64: packets, bytes, errors and drops, each received and sent."""
_ERROR: Final = struct.Struct("=i")
_ANSWER_SECONDS: Final = 30.0
_PART: Final = 1 << 16
_NET_DEV: Final = Path("/proc/thread-self/net/dev")
_INET6: Final = Path("/proc/thread-self/net/dev_snmp6")
_NO_ROUTE, _TOO_BIG = "Ip6InNoRoutes", "Ip6InTooBigErrors"
_ROUTE_CACHE: Final = Path("/proc/thread-self/net/stat/rt_cache")


class LinkCounters(NamedTuple):
    """Counters of a host end since the device was made.

    ``no_route`` and ``too_big``: IPv6 packets from the pod without a route, and larger than the next device's MTU.
    ``device``: packets that the device itself dropped, for example because the pod's interface is down. ``policy``:
    those that rules of policies dropped, of which the device knows nothing.
    """

    sent_bytes: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    received_packets: int = 0
    no_route: int = 0
    too_big: int = 0
    device: int = 0
    policy: int = 0


class Reading(NamedTuple):
    """A device by its index, which no later device of the same name has, and its counters."""

    ifindex: int
    counters: LinkCounters


def request() -> bytes:
    """A request for all veth devices."""
    kind = _attribute(_IFLA_INFO_KIND, b"veth\0")
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _attribute(_IFLA_LINKINFO | _NESTED, kind)
    return HEADER.pack(HEADER.size + len(body), _RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body


def decode(datagram: bytes, readings: dict[str, Reading]) -> bool:
    """Adds the links in the bytes of one recv(2), by name. Whether the dump has ended. Raises OSError."""
    position = 0
    while position + HEADER.size <= len(datagram):
        length, kind, *_ = HEADER.unpack_from(datagram, position)
        message = datagram[position + HEADER.size : position + length]
        if kind == _RTM_NEWLINK:
            name, reading = _link(message)
            if reading is not None:
                readings[name] = reading
        elif kind in (NLMSG_DONE, NLMSG_ERROR):
            number = -_ERROR.unpack_from(message)[0] if len(message) >= _ERROR.size else 0
            if number > 0:
                raise OSError(number, os.strerror(number))
            return True
        position += length + 3 & ~3
    return False


async def read(namespace: Namespace) -> dict[str, Reading]:
    """The veth devices of a namespace, by name; IPv6 counters of host ends alone. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    readings: dict[str, Reading] = {}
    try:
        with namespace.netlink() as own:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await loop.sock_sendall(own, request())
                while not decode(await loop.sock_recv(own, _PART), readings):
                    pass
                await asyncio.to_thread(namespace.run, lambda: _add_inet6(readings))
    except OSError as error:
        raise Unreachable("kernel", f"reading link counters: {error.strerror or error}") from error
    return readings


def traffic(device: str, table: Path = _NET_DEV) -> LinkCounters | None:
    """Bytes and packets of one device, without the lock that a dump waits for; the rest is 0.

    None: there is no such device (proc_pid_net(5)).
    """
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            columns = list(map(int, numbers.split()))
            return LinkCounters(columns[0], columns[1], columns[8], columns[9])
    return None


def unrouted4(table: Path = _ROUTE_CACHE) -> int | None:
    """IPv4 packets that arrived without a route since the host started, of all its network namespaces.

    The kernel has no such counter of a device (net/ipv4/route.c ``ip_route_input_slow``, ``in_no_route``). None: it
    cannot be read.
    """
    try:
        header, *processors = table.read_text().splitlines()
        column = header.split().index("in_no_route")
        return sum(int(line.split()[column], 16) for line in processors)
    except (OSError, ValueError, IndexError):
        return None


def _link(message: bytes) -> tuple[str, Reading | None]:
    _, _, index, _, _ = _LINK.unpack_from(message)
    parts = dict(attributes(message[_LINK.size :]))
    name = parts.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    if not name or len(parts.get(_IFLA_STATS64, b"")) < _STATS.size:
        return name, None
    in_packets, out_packets, in_bytes, out_bytes, _, _, in_dropped, out_dropped = _STATS.unpack_from(
        parts[_IFLA_STATS64]
    )
    dropped = in_dropped + out_dropped
    counters = LinkCounters(in_bytes, in_packets, out_bytes, out_packets, device=dropped)
    return name, Reading(index, counters)


def _add_inet6(readings: dict[str, Reading]) -> None:
    for device, reading in readings.items():
        interface = names.parse_interface(device)
        if interface is not None and interface[2] == "H":
            no_route, too_big = inet6(device)
            readings[device] = Reading(
                reading.ifindex, reading.counters._replace(no_route=no_route, too_big=too_big)
            )


def inet6(device: str, folder: Path = _INET6) -> tuple[int, int]:
    """IPv6 packets that came in by the device and had no route, and that were too big; 0 where it has no IPv6."""
    try:
        lines = (folder / device).read_text().splitlines()
    except OSError:
        return 0, 0
    counted = dict(line.split() for line in lines)
    return int(counted.get(_NO_ROUTE, 0)), int(counted.get(_TOO_BIG, 0))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

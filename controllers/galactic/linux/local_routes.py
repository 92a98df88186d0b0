"""The kernel's own routes to a host's addresses (type ``local``): without its route an address receives nothing.

The kernel makes them with the address. ``ip route flush table all`` takes them, and the kernel does not put them back.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Set as AbstractSet
from typing import Final

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace
from galactic.linux.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, RTM_NEWROUTE, attributes, dump_request

RTN_LOCAL, RTPROT_KERNEL = 2, 2
_TYPE_AT: Final = 7  # in struct rtmsg
_RTMSG_SIZE: Final = 12
_RTA_DST, _RTA_OIF = 1, 4
_INDEX: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")
_PART: Final = 1 << 16
_TIMEOUT: Final = 30.0
LOOKS: Final = 10
PAUSE_SECONDS: Final = 0.1

Local = tuple[int, bytes]
"""The index of a device, and a packed address."""


async def without_route(namespace: Namespace, addresses: AbstractSet[Local]) -> set[Local]:
    """Those addresses that have no such route at any of several looks. Raises Unreachable.

    The kernel makes an IPv6 address's route a moment after the address, in a work queue (net/ipv6/addrconf.c).
    """
    missing = set(addresses)
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(PAUSE_SECONDS)
        missing -= await local_routes(namespace)
        if not missing:
            break
    return missing


async def local_routes(namespace: Namespace) -> set[Local]:
    """Of all tables. Raises Unreachable."""
    found: set[Local] = set()
    loop = asyncio.get_running_loop()
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            with namespace.netlink() as own:
                own.send(dump_request(family, 1, protocol=RTPROT_KERNEL, kind=RTN_LOCAL))
                async with asyncio.timeout(_TIMEOUT):
                    while not _collect(await loop.sock_recv(own, _PART), found):
                        pass
    except TimeoutError as error:
        raise Unreachable("kernel", f"dumping local routes: no answer within {_TIMEOUT:g} s") from error
    except OSError as error:
        raise Unreachable("kernel", f"dumping local routes: {error.strerror or error}") from error
    return found


def _collect(datagram: bytes, found: set[Local]) -> bool:
    """Whether that was the end."""
    position = 0
    while position + HEADER.size <= len(datagram):
        length, kind, *_ = HEADER.unpack_from(datagram, position)
        body = datagram[position + HEADER.size : position + length]
        if kind == NLMSG_ERROR:
            number = -_ERROR.unpack_from(body)[0]
            if number:
                raise OSError(number, os.strerror(number))
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            return True
        if kind == RTM_NEWROUTE and body[_TYPE_AT] == RTN_LOCAL:
            parts = dict(attributes(body[_RTMSG_SIZE:]))
            if _RTA_DST in parts and _RTA_OIF in parts:
                found.add((_INDEX.unpack(parts[_RTA_OIF])[0], parts[_RTA_DST]))
        position += length + 3 & ~3
    return False

"""The underlay: the interface by which this node's SRv6 packets leave, its MTU, and those that such packets come by."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from pyroute2.iproute.linux import AsyncIPRoute

from galactic.errors import NotYet, Rejected
from galactic.linux.devices import is_galactic, translated
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.netlink import DevicesTowards, dump_request
from galactic.linux.objects import MAIN_TABLE

_ANYWHERE: Final = IPv6Address("2000::1")  # an address that only the default route leads to
_PART: Final = 1 << 16  # more than the largest part of a dump (32 KiB)
_DUMP_SECONDS: Final = 30.0
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Underlay:
    """An interface and its MTU in bytes, and those of its addresses that are ``inside`` the SRv6 space.

    ``others``: further interfaces that SRv6 packets of the underlay come by.
    """

    device: str
    mtu: int
    inside: tuple[IPv6Address, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def uplinks(self) -> tuple[str, ...]:
        return (self.device, *self.others)


async def underlay(
    space: IPv6Network | None,
    *,
    device: str = "",
    known: Sequence[str] = (),
    namespace: Namespace | None = None,
) -> Underlay:
    """The interface with the route to the SRv6 space, else with the IPv6 default route; or ``device`` if given.

    Its ``others`` are all with a route in the main table that overlaps the space, of any metric, a default route
    included; and those of ``known`` that still exist: a link whose routes are away for a moment comes back.

    Raises Rejected if there is no such ``device``, NotYet while there is no route.
    """
    within = namespace or Namespace.own()
    with within.netlink() as names:
        route = AsyncIPRoute(fileno=within.netlink(packed=False).detach())
        try:
            index = device_index(names, device) if device else 0
            if device and not index:
                raise Rejected(f"there is no interface {device!r}", field="underlay_interface")
            last = [space.broadcast_address] if space else []  # the first may be in this node's own locator
            for destination in (*last, _ANYWHERE):
                index = index or await _towards(route, destination)
            if not index:
                raise NotYet(f"no IPv6 route to {space or 'anywhere'}", reason="NoUnderlay")
            with translated():
                (link,) = await route.link("get", index=index)
                inside = [address async for address in _addresses(route, index) if space and address in space]
            chosen = device or device_name(names, index)
            indexes = await _all_towards(within, space) if space else set()
            uplinks = {device_name(names, number) for number in indexes}
            uplinks |= {name for name in known if device_index(names, name)}
            others = sorted(name for name in uplinks - {"", "lo", chosen} if not is_galactic(name))
            return Underlay(chosen, int(link.get("mtu")), tuple(sorted(inside)), tuple(others))
        finally:
            route.close()


async def _addresses(route: AsyncIPRoute, index: int) -> AsyncIterator[IPv6Address]:
    async for message in await route.addr("dump", family=socket.AF_INET6, index=index):
        yield IPv6Address(message.get("address"))


async def _all_towards(namespace: Namespace, space: IPv6Network) -> set[int]:
    """The indexes of the devices of all routes to the space, or a part of it, in the main table."""
    towards = DevicesTowards(space)
    loop = asyncio.get_running_loop()
    with namespace.netlink() as dump, translated():
        dump.send(dump_request(socket.AF_INET6, 1, table=MAIN_TABLE, protocol=0))
        async with asyncio.timeout(_DUMP_SECONDS):
            reply = None
            while reply is None:
                reply = towards.feed(await loop.sock_recv(dump, _PART))
                await asyncio.sleep(0)
        if reply.errno not in (0, errno.ENOENT):
            raise OSError(reply.errno, os.strerror(reply.errno))
    return towards.devices


async def _towards(route: AsyncIPRoute, destination: IPv6Address) -> int:
    """The index of the device of the route to that address, 0 if there is none."""
    with translated(*_NO_ROUTE):
        for answer in await route.route("get", dst=str(destination)):
            if answer["type"] == 1:  # RTN_UNICAST
                return int(answer.get("oif") or 0)
    return 0

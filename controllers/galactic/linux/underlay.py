"""The underlay: the interface by which this node's SRv6 packets leave, and its MTU."""

import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from pyroute2.iproute.linux import AsyncIPRoute

from galactic.errors import NotYet, Rejected
from galactic.linux.devices import translated
from galactic.linux.namespace import Namespace, device_index, device_name

_ANYWHERE: Final = IPv6Address("2000::1")  # an address that only the default route leads to
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Underlay:
    """An interface and its MTU in bytes, and those of its addresses that are ``inside`` the SRv6 space."""

    device: str
    mtu: int
    inside: tuple[IPv6Address, ...] = ()


async def underlay(
    space: IPv6Network | None, *, device: str = "", namespace: Namespace | None = None
) -> Underlay:
    """The interface with the route to the SRv6 space, else with the IPv6 default route; or ``device`` if given.

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
            return Underlay(device or device_name(names, index), int(link.get("mtu")), tuple(sorted(inside)))
        finally:
            route.close()


async def _addresses(route: AsyncIPRoute, index: int) -> AsyncIterator[IPv6Address]:
    async for message in await route.addr("dump", family=socket.AF_INET6, index=index):
        yield IPv6Address(message.get("address"))


async def _towards(route: AsyncIPRoute, destination: IPv6Address) -> int:
    """The index of the device of the route to that address, 0 if there is none."""
    with translated(*_NO_ROUTE):
        for answer in await route.route("get", dst=str(destination)):
            if answer["type"] == 1:  # RTN_UNICAST
                return int(answer.get("oif") or 0)
    return 0

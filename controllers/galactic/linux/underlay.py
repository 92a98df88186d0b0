"""The underlay: the interface by which this node's SRv6 packets leave, its MTU, and those that such packets come by."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from pyroute2.iproute.linux import AsyncIPRoute

from galactic.errors import NotYet, Rejected
from galactic.linux import sysctl
from galactic.linux.devices import is_galactic, translated
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.netlink import DevicesTowards, dump_request
from galactic.linux.objects import MAIN_TABLE

_ANYWHERE: Final = IPv6Address("2000::1")  # an address that only the default route leads to
_EVERYTHING: Final = IPv6Network("::/0")
_IFA_F_PERMANENT: Final = 0x80
_GLOBAL: Final = 0  # RT_SCOPE_UNIVERSE
_PART: Final = 1 << 16  # more than the largest part of a dump (32 KiB)
_DUMP_SECONDS: Final = 30.0
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Underlay:
    """An interface and its MTU in bytes, and those of its addresses that are ``inside`` the SRv6 space.

    ``mtu``: the smallest of the interfaces that share a route with it, by several next hops: a packet may take any.
    ``others``: further interfaces that SRv6 packets of the underlay come by. ``advertised``: interfaces whose routes or
    addresses the kernel takes from router advertisements.
    """

    device: str
    mtu: int
    inside: tuple[IPv6Address, ...] = ()
    others: tuple[str, ...] = ()
    advertised: tuple[str, ...] = ()

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
                addresses = [one async for one in _addresses(route, index)]
            chosen = device or device_name(names, index)
            towards = await _all_towards(within, space or _EVERYTHING)
            uplinks = {device_name(names, number) for number in towards.devices} if space else set()
            uplinks |= {name for name in known if device_index(names, name)}
            others = sorted(name for name in uplinks - {"", "lo", chosen} if not is_galactic(name))
            temporary = {chosen} if any(not permanent for _, permanent in addresses) else set()
            candidates = temporary | {device_name(names, number) for number in towards.advertised}
            return Underlay(
                chosen,
                await _smallest_mtu(route, index, towards.shared),
                tuple(sorted(address for address, _ in addresses if space and address in space)),
                tuple(others),
                accepting(within, chosen, candidates),
            )
        finally:
            route.close()


def accepting(namespace: Namespace, underlay: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """Those of the candidates on which the kernel itself accepts router advertisements, and the underlay if it is to
    accept them although it forwards (2): it had routes or addresses of theirs, or will have.

    Where ``accept_ra`` is 0 a program handles them, systemd-networkd or NetworkManager, and needs no kernel.
    """
    names = {*candidates, underlay} - {""}
    paths = {f"net/ipv6/conf/{name}/accept_ra": name for name in names}
    values = sysctl.values(namespace, paths)
    kept = {
        name
        for path, name in paths.items()
        if values.get(path, "0") == "2" or (name in candidates and values.get(path, "0") != "0")
    }
    return tuple(sorted(kept))


async def advertised(namespace: Namespace | None = None) -> tuple[str, ...]:
    """The interfaces with routes that the kernel has from router advertisements, whether one is the underlay or not."""
    within = namespace or Namespace.own()
    towards = await _all_towards(within, _EVERYTHING)
    with within.netlink() as names:
        return accepting(within, "", {device_name(names, number) for number in towards.advertised})


async def _smallest_mtu(route: AsyncIPRoute, index: int, shared: Iterable[set[int]]) -> int:
    """Of the interface, and of those that share a route with it."""
    indexes = {index}.union(*(group for group in shared if index in group))
    with translated():
        links = [link for number in sorted(indexes) for link in await route.link("get", index=number)]
    return min(int(link.get("mtu")) for link in links)


async def _addresses(route: AsyncIPRoute, index: int) -> AsyncIterator[tuple[IPv6Address, bool]]:
    """Each address of global scope, or of the SRv6 space, and whether it is for good."""
    async for message in await route.addr("dump", family=socket.AF_INET6, index=index):
        flags = message.get("flags") or message["flags"]
        permanent = bool(flags & _IFA_F_PERMANENT) or message["scope"] != _GLOBAL
        yield IPv6Address(message.get("address")), permanent


async def _all_towards(namespace: Namespace, space: IPv6Network) -> DevicesTowards:
    """The devices of all routes to the space, or a part of it, in the main table, and those of advertised routes."""
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
    return towards


async def _towards(route: AsyncIPRoute, destination: IPv6Address) -> int:
    """The index of the device of the route to that address, 0 if there is none."""
    with translated(*_NO_ROUTE):
        for answer in await route.route("get", dst=str(destination)):
            if answer["type"] == 1:  # RTN_UNICAST
                return int(answer.get("oif") or 0)
    return 0

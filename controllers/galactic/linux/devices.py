"""Links, addresses and rules of one network namespace, through pyroute2.

Every error of pyroute2 or the kernel becomes Unreachable or Rejected, without the object's name: the caller adds it.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network, ip_interface
from typing import Any, Final, Self, cast

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from galactic.errors import Rejected, Unreachable
from galactic.linux.fib_rules import pending, read_orders, write_order
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.objects import (
    HOST_ENDS,
    LOOPBACK_DEVICE,
    PROTOCOL,
    Family,
    Interface,
    Link,
    LookupOrder,
    Rule,
)
from galactic.names import parse_interface

_KINDS: Final = frozenset({"vrf", "dummy", "veth"})
_SIOCSIFMTU: Final = 0x8922
_IFREQ_MTU: Final = struct.Struct("16si20x")
_IFF_UP, _IFF_NOARP, _IFF_MULTICAST = 0x1, 0x80, 0x1000
_SKIP_STATS: Final = 0x8  # RTEXT_FILTER_SKIP_STATS
_IFA_F_NODAD: Final = 0x02
_IFA_F_PERMANENT: Final = 0x80
_IFA_F_NOPREFIXROUTE: Final = 0x200
_KERNEL_MADE: Final = frozenset(
    {1, 2, 3}
)  # IFA_PROTO: loopback, router advertisement, link-local (Linux 5.18)


def is_galactic(name: str) -> bool:
    """Whether a device of that name belongs to Galactic."""
    return name == LOOPBACK_DEVICE or parse_interface(name) is not None


class Devices:
    """Devices, addresses and rules of one namespace."""

    def __init__(self, names: socket.socket, requests: socket.socket) -> None:
        """Two sockets made inside: a packed one for names and indexes, an ordinary one for pyroute2. They are closed
        with this.
        """
        self._socket, self._requests = names, requests
        self._made: AsyncIPRoute | None = None

    def close(self) -> None:
        self._socket.close()
        (self._made or self._requests).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _route(self) -> AsyncIPRoute:
        """Made at its first use: pyroute2 does not close a socket that it never used."""
        if self._made is None:
            self._made = AsyncIPRoute(fileno=self._requests.detach())
        return self._made

    def index(self, name: str) -> int:
        """The device's index, 0 if there is none."""
        return device_index(self._socket, name)

    async def links(self) -> dict[str, Link]:
        """Galactic's devices."""
        links = {}
        with translated():
            async for message in await self._route.link("dump", ext_mask=_SKIP_STATS):
                name = str(message.get("ifname"))
                link = self._link(message) if is_galactic(name) else None
                if link:
                    links[name] = link
        return links

    def _link(self, message: Any) -> Link | None:
        kind = message.get(("linkinfo", "kind"))
        if kind not in _KINDS:
            return None
        master = message.get("master")
        return Link(
            kind=kind,
            table=(message.get(("linkinfo", "data", "vrf_table")) or 0) if kind == "vrf" else 0,
            master=device_name(self._socket, master) if master else "",
            mtu=message.get("mtu") or 0,
            # a host end outside the group is not checked for forged sources, and one without ARP or multicast finds no
            # pod: as good as down, so that it is corrected
            up=message["flags"] & _flags_mask(kind) == _flags(kind) and message.get("group") == _group(kind),
            ifindex=message["index"],
            mac=message.get("address") or "",
        )

    async def set_link(self, name: str, link: Link, *, cycle: bool = False) -> None:
        """Creates or corrects the device: enslaved first, then up. ``cycle``: down before, so that the kernel makes its
        own routes of the device again.

        A device of another kind or table is deleted and created again.
        """
        with translated():
            index = self.index(name)
            present = await self._link_at(index) if index else None
            if index and present is None:
                raise Rejected(
                    f"the name is taken by a device that is not {link.kind}", reason="InterfaceTaken"
                )
            if present and (present.kind != link.kind or present.table != link.table):
                await self._route.link("del", index=index)
                present = None
            if present is None:
                await self._make(name, link)
                return
            if present.master != link.master:
                await self._route.link("set", index=index, master=self._master(link))
            if link.mtu and present.mtu != link.mtu:
                await self._route.link("set", index=index, mtu=link.mtu)
                if link.peer and link.peer[0]:
                    _set_mtu(*link.peer, link.mtu)
            if link.mac and present.mac != link.mac:
                await self._route.link("set", index=index, address=link.mac)
            if cycle:
                await self._route.link("set", index=index, state="down")
            if cycle or not present.up:
                flags = {"flags": _flags(link.kind), "change": _flags_mask(link.kind)}
                await self._route.link("set", index=index, group=_group(link.kind), **flags)

    async def _link_at(self, index: int) -> Link | None:
        (message,) = await self._route.link("get", index=index, ext_mask=_SKIP_STATS)
        return self._link(message)

    def _master(self, link: Link) -> int:
        master = self.index(link.master) if link.master else 0
        if link.master and not master:
            raise Unreachable("kernel", f"there is no device {link.master}")
        return master

    async def _make(self, name: str, link: Link) -> None:
        """One message for all attributes: the kernel completes the device before other programs see it."""
        given: dict[str, Any] = {"ifname": name, "kind": link.kind, "group": _group(link.kind), "state": "up"}
        if link.master:
            given["master"] = self._master(link)
        if link.kind == "vrf":
            given["vrf_table"] = link.table
        if link.mtu:
            given["mtu"] = link.mtu
        if (
            link.mac
        ):  # one that is given at creation is not replaced by udev (MACAddressPolicy= of systemd.link(5))
            given["address"] = link.mac
        if link.peer is None:
            await self._route.link("add", **given)
            return
        path, peer_name = link.peer
        peer: dict[str, Any] = {"ifname": peer_name}
        if link.mtu:
            peer["mtu"] = link.mtu
        if not path:
            await self._route.link("add", **given, peer=peer)
            return
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._route.link("add", **given, peer=peer | {"net_ns_fd": fd})
        except NetlinkError as error:
            if error.code == errno.EEXIST and not self.index(name) and _taken(path, peer_name):
                raise Rejected(
                    f"the pod has an interface {peer_name} already: give spec.interface.name another one",
                    reason="InterfaceTaken",
                ) from error
            raise
        finally:
            os.close(fd)

    async def delete_link(self, name: str) -> None:
        """Deletes the device; a missing one is no error."""
        with translated(errno.ENODEV):
            if index := self.index(name):
                await self._route.link("del", index=index)

    async def set_up(self, name: str) -> None:
        """Sets a device up. Raises Unreachable if there is none."""
        with translated():
            if not (index := self.index(name)):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            await self._route.link("set", index=index, state="up")

    async def addresses(self, device: str = "") -> dict[tuple[str, Interface], bool]:
        """(device, address) → noprefixroute.

        Without ``device``: of all of Galactic's, except the kernel's own addresses. With it: of that device, which
        others share, only those that Galactic gave it. Those have its number as their origin; before Linux 5.18, and of
        earlier versions, they are those without a prefix route.
        """
        found: dict[tuple[str, Interface], bool] = {}
        names: dict[int, str] = {}
        with translated():
            async for message in await self._route.addr("dump"):
                index = message["index"]
                if index not in names:
                    names[index] = device_name(self._socket, index)
                name = names[index]
                if name != device if device else not is_galactic(name):
                    continue
                address = ip_interface((message.get("local") or message.get("address"), message["prefixlen"]))
                flags, origin = message.get("flags") or 0, message.get("proto") or 0
                bare = bool(flags & _IFA_F_NOPREFIXROUTE)
                ours = origin == PROTOCOL or (bare and not origin) if device else True
                if ours and self._given(address, flags, origin):
                    found[name, address] = bare
        return found

    def _given(self, address: Interface, flags: int, protocol: int) -> bool:
        """Whether a program configured the address, rather than the kernel or a router advertisement."""
        if protocol in _KERNEL_MADE or not flags & _IFA_F_PERMANENT:
            return False
        # before Linux 5.18 a link-local address has no origin; the kernel's has EUI-64 form (RFC 4291 §2.5.1)
        return not (address.version == 6 and address.is_link_local and address.packed[11:13] == b"\xff\xfe")

    async def set_address(self, device: str, address: Interface, no_prefix_route: bool) -> None:
        """Adds an address to a device; one with other flags is replaced."""
        with translated():
            given = self._address(device, address)
            flags = _IFA_F_NOPREFIXROUTE if no_prefix_route else 0
            if address.version == 6:
                flags |= _IFA_F_NODAD
            try:
                await self._route.addr("add", **given, flags=flags, proto=PROTOCOL)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                await self._route.addr("del", **given)
                await self._route.addr("add", **given, flags=flags, proto=PROTOCOL)

    async def delete_address(self, device: str, address: Interface) -> None:
        """Deletes an address; a missing one is no error."""
        with translated(errno.EADDRNOTAVAIL, errno.ENODEV):
            await self._route.addr("del", **self._address(device, address))

    def _address(self, device: str, address: Interface) -> dict[str, Any]:
        if not (index := self.index(device)):
            raise OSError(errno.ENODEV, f"there is no device {device}")
        return {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}

    async def rules(self) -> dict[Rule, None]:
        """Galactic's IPv6 rules, by their protocol."""
        found: dict[Rule, None] = {}
        with translated():
            async for message in await self._route.rule("dump", family=socket.AF_INET6):
                if message.get("protocol") != PROTOCOL:
                    continue
                destination = IPv6Network((message.get("dst") or "::", message["dst_len"]))
                found[Rule(message.get("priority") or 0, destination, message.get("table") or 0)] = None
        return found

    async def lookups(self) -> dict[Family, LookupOrder]:
        """The order of the policy rules, of families that have rules of ours."""
        with translated():
            return await read_orders(self._route)

    async def pending_lookup(self, family: Family, wanted: LookupOrder) -> list[str]:
        """The commands of ``set_lookup``; empty where nothing is to do."""
        with translated():
            return await pending(self._route, family, wanted)

    async def set_lookup(self, family: Family, wanted: LookupOrder | None) -> None:
        """Puts the policy rules of a family in order; None: as they were before Galactic."""
        with translated(errno.ENOENT):
            await write_order(self._route, family, wanted)

    async def set_rule(self, rule: Rule) -> None:
        """Adds a rule; an existing one is no error."""
        with translated(errno.EEXIST):
            await self._route.rule("add", **_rule(rule))

    async def delete_rule(self, rule: Rule) -> None:
        """Deletes a rule; a missing one is no error."""
        with translated(errno.ENOENT, errno.ESRCH):
            await self._route.rule("del", **_rule(rule))


def _flags(kind: str) -> int:
    return _IFF_UP | _IFF_MULTICAST if kind == "veth" else _IFF_UP


def _flags_mask(kind: str) -> int:
    """The flags that decide: VRFs and dummies have neither ARP nor, in part, multicast."""
    return _IFF_UP | _IFF_NOARP | _IFF_MULTICAST if kind == "veth" else _IFF_UP


def _group(kind: str) -> int:
    return HOST_ENDS if kind == "veth" else 0


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "family": socket.AF_INET6,
        "priority": rule.priority,
        "dst": str(rule.destination.network_address),
        "dst_len": rule.destination.prefixlen,
        "table": rule.table,
        "protocol": PROTOCOL,
    }


def _set_mtu(path: str, device: str, mtu: int) -> None:
    """Sets the other end's MTU too: the host end silently drops packets larger than its own. A missing device is
    no error.
    """
    try:
        with Namespace.at(path) as namespace, namespace.netlink() as within:
            fcntl.ioctl(within, _SIOCSIFMTU, _IFREQ_MTU.pack(device.encode(), mtu))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _taken(path: str, name: str) -> bool:
    with Namespace.at(path) as namespace, namespace.netlink() as inside:
        return bool(device_index(inside, name))


@contextmanager
def translated(*harmless: int) -> Iterator[None]:
    """Translates the errors of pyroute2 and the kernel, except the errno values in ``harmless``."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in harmless:
            raise Unreachable("kernel", os.strerror(cast(int, error.code))) from error
    except OSError as error:
        if error.errno not in harmless:
            where = f": {error.filename}" if error.filename else ""
            raise Unreachable("kernel", f"{error.strerror or error}{where}") from error

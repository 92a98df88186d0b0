"""The sysctls of Galactic's devices: read for all of them with one dump of links, and set where they differ.

The kernel notifies few of them, and opening files for thousands is slow. IPv4's can be set over netlink as well
(IFLA_INET_CONF), so that a read-only /proc/sys does not matter; IPv6's cannot.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Final, NamedTuple

from galactic.errors import Unreachable
from galactic.linux import sysctl
from galactic.linux.namespace import Namespace, device_index
from galactic.linux.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
)

IPV4: Final = {
    "forwarding": 1,
    "proxy_arp": 3,
    "rp_filter": 8,
    "arp_ignore": 19,
    "promote_secondaries": 20,
    "route_localnet": 26,
}
"""By name: its number in IFLA_INET_CONF (linux/ip.h), where the first is 1."""
IPV6: Final = {
    "forwarding": 0,
    "accept_ra": 3,
    "autoconf": 5,
    "disable_ipv6": 26,
    "seg6_enabled": 44,
    "rpl_seg_enabled": 51,
}
"""By name: its index in IFLA_INET6_CONF (linux/ipv6.h)."""
_RTM_NEWLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 18, 19
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_IFLA_IFNAME, _IFLA_AF_SPEC, _IFLA_EXT_MASK = 3, 26, 29
_IFLA_INET_CONF, _IFLA_INET6_CONF = 1, 2
_SKIP_STATS: Final = 0x8  # RTEXT_FILTER_SKIP_STATS
_NESTED: Final = 0x8000
_U32: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")
_FEW: Final = 4
"""Up to so many devices are asked for one by one."""
_PART: Final = 1 << 16
_ANSWER_SECONDS: Final = 30.0
_ADVERTISED: Final = frozenset({"accept_ra", "autoconf"})
_ALWAYS: Final = 2
_REFUSED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Setting(NamedTuple):
    """A sysctl of a device, by the parts of its path net/FAMILY/conf/DEVICE/NAME."""

    family: str
    device: str
    name: str

    @classmethod
    def parse(cls, path: str) -> "Setting | None":
        """None: a path that is not read and written here."""
        parts = path.split("/")
        if len(parts) != 5 or parts[0] != "net" or parts[2] != "conf":
            return None
        known = {"ipv4": IPV4, "ipv6": IPV6}.get(parts[1], {})
        return cls(parts[1], parts[3], parts[4]) if parts[4] in known else None

    def __str__(self) -> str:
        return f"net/{self.family}/conf/{self.device}/{self.name}"


async def read(namespace: Namespace, settings: Collection[Setting]) -> dict[str, str]:
    """The values by path, of devices that exist. Raises Unreachable.

    ``accept_ra`` and ``autoconf`` 1 are returned as 0 where forwarding is on: the kernel accepts router advertisements
    there only where ``accept_ra`` is 2.
    """
    wanted: dict[str, list[Setting]] = {}
    for setting in settings:
        wanted.setdefault(setting.device, []).append(setting)
    values: dict[str, str] = {}
    with namespace.netlink() as own:
        async for device, families in _devices(own, wanted):
            for setting in wanted.get(device, ()):
                value = _value(setting, families.get(setting.family, b""))
                if value is not None:
                    values[str(setting)] = value
    return values


async def write(namespace: Namespace, wanted: Mapping[Setting, str]) -> dict[str, OSError]:
    """Sets those that differ. Returns the failures by path; FileNotFoundError for a device that does not exist."""
    present = await read(namespace, wanted.keys())
    differing = {setting: value for setting, value in wanted.items() if present.get(str(setting)) != value}
    failed = sysctl.write(namespace, {str(setting): value for setting, value in differing.items()})
    refused = {
        setting: value
        for setting, value in differing.items()
        if setting.family == "ipv4"
        and (error := failed.get(str(setting))) is not None
        and error.errno in _REFUSED
    }
    if refused:
        with namespace.netlink() as own:
            for setting, value in refused.items():
                if await _set(own, setting, int(value)) == 0:
                    del failed[str(setting)]
    return failed


async def set_ipv4(namespace: Namespace, device: str, values: Mapping[str, int]) -> None:
    """Sets sysctls of IPv4 over netlink alone. Raises Unreachable."""
    with namespace.netlink() as own:
        for name, value in values.items():
            if number := await _set(own, Setting("ipv4", device, name), value):
                raise Unreachable("kernel", f"net.ipv4.conf.{device}.{name}: {os.strerror(number)}")


def _value(setting: Setting, conf: bytes) -> str | None:
    def number(name: str) -> int | None:
        at = (IPV4[name] - 1 if setting.family == "ipv4" else IPV6[name]) * _U32.size
        return int(_U32.unpack_from(conf, at)[0]) if len(conf) >= at + _U32.size else None

    value = number(setting.name)
    if setting.name in _ADVERTISED and value == 1 and number("forwarding") and number("accept_ra") != _ALWAYS:
        value = 0
    return None if value is None else str(value)


async def _devices(own: socket.socket, names: Collection[str]) -> AsyncIterator[tuple[str, dict[str, bytes]]]:
    """(name, settings by family) of those devices that exist; of others too where many are asked for."""
    if len(names) > _FEW:
        requests = [_LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)]
    else:
        indexes = (device_index(own, name) for name in names)
        requests = [_LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) for index in indexes if index]
    flags = NLM_F_REQUEST | (NLM_F_DUMP if len(names) > _FEW else NLM_F_ACK)
    for request in requests:
        body = request + _attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATS))
        async for message in _answers(own, _RTM_GETLINK, flags, body):
            yield _settings(message)


async def _set(own: socket.socket, setting: Setting, value: int) -> int:
    """Sets one of IPv4. Returns the errno, 0 for success."""
    conf = _attribute(_IFLA_INET_CONF | _NESTED, _attribute(IPV4[setting.name], _U32.pack(value)))
    body = _LINK.pack(socket.AF_UNSPEC, 0, device_index(own, setting.device), 0, 0)
    body += _attribute(_IFLA_AF_SPEC | _NESTED, _attribute(socket.AF_INET | _NESTED, conf))
    try:
        async for _ in _answers(own, _RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, body):
            pass
    except Unreachable as error:
        number = getattr(error.__cause__, "errno", None)
        return number if isinstance(number, int) else errno.EIO
    return 0


async def _answers(own: socket.socket, kind: int, flags: int, body: bytes) -> AsyncIterator[bytes]:
    """The links in the answers to one request. A device that is gone meanwhile has none. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_sendall(own, HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body)
            while True:
                datagram, position = await loop.sock_recv(own, _PART), 0
                while position + HEADER.size <= len(datagram):
                    length, answer, *_ = HEADER.unpack_from(datagram, position)
                    message = datagram[position + HEADER.size : position + length]
                    if answer in (NLMSG_DONE, NLMSG_ERROR):
                        _check(kind, message)
                        return
                    if answer == _RTM_NEWLINK:
                        yield message
                    position += length + 3 & ~3
    except OSError as error:
        raise Unreachable("kernel", f"settings of devices: {error.strerror or error}") from error


def _check(kind: int, answer: bytes) -> None:
    number = -_ERROR.unpack_from(answer)[0] if len(answer) >= _ERROR.size else 0
    if number > 0 and not (number == errno.ENODEV and kind == _RTM_GETLINK):
        raise OSError(number, os.strerror(number))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _settings(message: bytes) -> tuple[str, dict[str, bytes]]:
    """A link's name, and its IPv4 and IPv6 settings as arrays of 32-bit numbers."""
    parts = dict(attributes(message[_LINK.size :]))
    name = parts.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    families = dict(attributes(parts.get(_IFLA_AF_SPEC, b"")))
    four = dict(attributes(families.get(socket.AF_INET, b""))).get(_IFLA_INET_CONF, b"")
    six = dict(attributes(families.get(socket.AF_INET6, b""))).get(_IFLA_INET6_CONF, b"")
    return name, {"ipv4": four, "ipv6": six}

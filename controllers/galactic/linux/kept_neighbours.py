"""Kept neighbours: entries that the kernel resolves as any other, but neither counts nor collects.

So they work while its table is full, which any pod of the node can bring about (docs/design/neighbours.md). They have
the flag ``extern_learn`` (NTF_EXT_LEARNED, net/core/neighbour.c), and Galactic's number as their protocol.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Final

from galactic.linux.namespace import Namespace, device_index
from galactic.linux.neighbours import (
    BURST,
    NTF_USE,
    RTM_DELNEIGH,
    RTM_NEWNEIGH,
    Entry,
    entries_of,
    kept_entry,
    send,
)
from galactic.linux.objects import Address, Neighbour

MOST: Final = 4096
"""Entries that ``keep_next_hops`` keeps: of so many neighbours one node has routes through."""
_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})
_VALID: Final = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE"})


def solicited_node(address: Address) -> list[Address]:
    """The multicast address to which an IPv6 address is solicited (RFC 4291 §2.7.1). It takes an entry as well."""
    if not isinstance(address, IPv6Address):
        return []
    return [IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])]


async def kept(namespace: Namespace, accepts: Callable[[str], bool]) -> dict[Neighbour, None]:
    """The entries that Galactic keeps, on devices whose names ``accepts`` returns True for. Raises Unreachable."""
    with namespace.netlink() as own:
        entries = await entries_of(own, accepts)
    return {neighbour: None for neighbour, entry in entries if entry.ours and entry.kept}


async def keep(
    namespace: Namespace, wanted: Iterable[Neighbour], surplus: Iterable[Neighbour] = ()
) -> dict[Neighbour, str]:
    """Makes entries that are kept, and deletes the surplus. The failures.

    Entries of a device get the MAC that is in a link-local address among them: those of a pod's gateway. A kernel
    without CONFIG_IPV6_ROUTER_PREF takes no route through a gateway that is not resolved where there is a shorter one
    (``rt6_check_neigh``, net/ipv6/route.c). Others have none, and are resolved with the next packet. Raises
    Unreachable.
    """
    wanted = list(wanted)
    macs = {device: mac for device, address in wanted if (mac := embedded_mac(address))}
    deleting = [(RTM_DELNEIGH, neighbour) for neighbour in surplus]
    making = [(RTM_NEWNEIGH, neighbour) for neighbour in wanted]
    return await _write(namespace, [*deleting, *making], macs=macs)


def embedded_mac(address: Address) -> bytes:
    """The MAC of which a link-local address was made (RFC 4291, appendix A); empty for any other address."""
    if not (
        isinstance(address, IPv6Address) and address.is_link_local and address.packed[11:13] == b"\xff\xfe"
    ):
        return b""
    return bytes((address.packed[8] ^ 0x02,)) + address.packed[9:11] + address.packed[13:]


async def keep_next_hops(namespace: Namespace, devices: Iterable[str]) -> int:
    """Keeps the neighbours on those devices that answer this node, and other addresses of the same neighbours.

    A neighbour solicits this node from another address than that of the route, and is answered only where that one has
    an entry. Entries of ours that failed are deleted. State and link-layer address stay. Returns how many are new.
    Raises Unreachable.
    """
    accepted = frozenset(devices)
    with namespace.netlink() as own:
        entries = await entries_of(own, accepted.__contains__)
    answering = {
        (neighbour[0], entry.mac)
        for neighbour, entry in entries
        if entry.mac and (entry.state == "REACHABLE" or (entry.kept and entry.state in _VALID))
    }
    failed = [neighbour for neighbour, entry in entries if entry.ours and entry.state == "FAILED"]
    room = MOST - sum(entry.ours for _, entry in entries) + len(failed)
    new = [neighbour for neighbour, entry in entries if _is_new(neighbour, entry, answering)][: max(0, room)]
    groups = {(device, group): None for device, address in new for group in solicited_node(address)}
    jobs = [*((RTM_DELNEIGH, neighbour) for neighbour in failed), *((RTM_NEWNEIGH, hop) for hop in new)]
    jobs += [(RTM_NEWNEIGH, group) for group in groups]
    failures = await _write(namespace, jobs, NTF_USE)
    return len(new) - len(failures)


def _is_new(neighbour: Neighbour, entry: Entry, answering: set[tuple[str, bytes]]) -> bool:
    return not entry.kept and entry.state in _VALID and (neighbour[0], entry.mac) in answering


async def _write(
    namespace: Namespace,
    jobs: list[tuple[int, Neighbour]],
    flags: int = 0,
    macs: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[Neighbour, str]:
    failures: dict[Neighbour, str] = {}
    with namespace.netlink() as own:
        indexes = {device: device_index(own, device) for _, (device, _) in jobs}
        for start in range(0, len(jobs), BURST):
            part = jobs[start : start + BURST]
            messages = [
                (kind, kept_entry(indexes[device], address, flags, _mac(address, macs.get(device, b""))))
                for kind, (device, address) in part
            ]
            for number, error in (await send(own, messages)).items():
                kind, neighbour = part[number - 1]
                if kind == RTM_NEWNEIGH or error not in _GONE:
                    failures[neighbour] = os.strerror(error)
    return failures


def _mac(address: Address, mac: bytes) -> bytes:
    return b"" if address.is_multicast else mac

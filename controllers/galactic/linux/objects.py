"""Kernel objects as values, in the same form for the plan and for a reading of the kernel.

``galactic.diff`` compares the ``Objects`` of both sides, and ``galactic.linux.kernel`` writes the differences. Devices
have names, never indexes: a plan exists before its devices do.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
from typing import Final, Literal, NamedTuple, Protocol
from zlib import crc32

from galactic.diff import Diff, diff

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

MAIN_TABLE: Final = 254
PROTOCOL: Final = 0x9A
"""The number in ``rtm_protocol`` and ``fra_protocol`` that marks Galactic's routes and rules (rtnetlink(7))."""
HOST_ENDS: Final = 0x9A
"""The device group (``ip link show group 154``) of every host end, by which the packet filter knows them."""
UNREACHABLE_METRIC: Final = 4278198272
"""The metric that the kernel's VRF documentation gives a VRF's default of last resort."""
WAY_OUT_METRIC: Final = 4261412864
"""The metric of a VPC's default route through its gateways: after every route of an attachment, before the last
resort.
"""
LOOPBACK_DEVICE: Final = "lo-galactic"
"""The dummy that carries the node's SRv6 loopback address."""
IPV6_METRIC: Final = 1024
"""The metric that the kernel gives an IPv6 route added with metric 0 (``IP6_RT_PRIO_USER``)."""


EncapMode = Literal["encap.red", "encap"]


class Link(NamedTuple):
    """A device. ``peer`` (network namespace path, name in it) is where a veth's other end is made."""

    kind: Literal["vrf", "dummy", "veth"]
    table: int = 0  # of a VRF
    master: str = ""  # name of the VRF that the device is enslaved to
    mtu: int = 0  # 0: the kernel's default, whatever it is
    peer: tuple[str, str] | None = (
        None  # not compared: where it is cannot be read; path "": in the same namespace
    )
    up: bool = True  # a plan never asks for anything else; reading may find otherwise
    ifindex: int = 0  # not compared: only read; another one means that the device was created again
    mac: str = ""  # empty: whatever it is


class Rule(NamedTuple):
    """``ip -6 rule``: packets to ``destination`` are looked up in ``table``."""

    priority: int
    destination: IPv6Network
    table: int


class LookupOrder(NamedTuple):
    """The order of the policy rules of one family, as far as VPCs depend on it.

    ``vrf_first``: packets of a VRF are looked up in its table before the table ``local``, and a rule leads to ``local``
    (the kernel's Documentation/networking/vrf.rst). ``block``: packets of a VRF to it are looked up in the table main
    instead. ``main``: a rule leads all packets to the table main.
    """

    vrf_first: bool = True
    block: IPv6Network | None = None
    main: bool = True


Family = Literal[4, 6]


class Unreachable(NamedTuple):
    """``unreachable``: an ICMP error instead of a look-up elsewhere."""


class Direct(NamedTuple):
    """``dev DEVICE``: on-link."""

    device: str


class Via(NamedTuple):
    """``via GATEWAY dev DEVICE onlink``. The gateway is packed, 4 or 16 bytes."""

    device: str
    gateway: bytes


class Encap(NamedTuple):
    """``encap seg6 mode MODE segs SEGMENT dev DEVICE`` (H.Encaps.Red or H.Encaps, RFC 8986 §5). Packed, 16 bytes."""

    device: str
    segment: bytes
    mode: EncapMode


class Balanced(NamedTuple):
    """Several ``Encap``, by the hash of a packet's addresses: ``hops`` has each packed segment with its weight (1 to
    256).

    A weight is the width of a part of the hash's range, in the order of ``hops`` (net/ipv4/fib_semantics.c,
    net/ipv6/route.c).
    """

    device: str
    hops: tuple[tuple[bytes, int], ...]
    mode: EncapMode


class EndDT46(NamedTuple):
    """``encap seg6local action End.DT46 vrftable TABLE dev DEVICE`` (RFC 8986 §4.8)."""

    device: str
    table: int


class Other(NamedTuple):
    """A route with Galactic's protocol number that no plan has, e.g. an older version's; only replaced or deleted."""


Neighbour = tuple[str, Address]
"""A device, and an address that is to be found on its link."""
NeighbourState = Literal[
    "NONE", "INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"
]
"""As ``ip neighbour`` prints it; NONE where the kernel has no entry."""

RouteTarget = Unreachable | Direct | Via | Encap | Balanced | EndDT46 | Other
RouteKey = bytes
"""Table, metric, prefix length and packed address: see ``route_key``. Bytes, because there may be 100,000."""

_KEY: Final = struct.Struct(">IIB")
_PLACE: Final = struct.Struct(">II")
LENGTHS: Final = tuple(bytes((length,)) for length in range(129))
"""Prefix lengths as the first byte of a packed network."""

PackedNetwork = bytes
"""Prefix length and packed address: what follows table and metric in a ``RouteKey``."""
EncapSink = Callable[[int, PackedNetwork, int, bytes], None]
"""Receives every route through an encapsulation: table, network, metric, packed segment."""
EncapJob = tuple[RouteKey, bytes, bool]
"""One route through an encapsulation to write: key, packed segment, whether to delete it instead of setting it."""


def packed(network: Network) -> PackedNetwork:
    """The network as it ends a ``RouteKey``."""
    return LENGTHS[network.prefixlen] + network.network_address.packed


def unpacked(network: PackedNetwork) -> Network:
    return ip_network((network[1:], network[0]))


def encap_metric(network: PackedNetwork, segment: bytes) -> int:
    """The metric of the route to ``network`` through ``segment``: 1 to 2^24 by the segment for IPv4, 0 for IPv6.

    The kernel keeps what IPv4 routes share (``fib_info``) in a hash of device, protocol and metric, without the
    encapsulation, and compares each new one with all in its bucket (net/ipv4/fib_semantics.c): with one metric for
    all, 20,000 segments make it five hundred routes a second. IPv6 shares nothing.
    """
    return 1 + (crc32(segment) & 0xFFFFFF) if len(network) == _IPV4_SIZE else 0


def place(table: int, metric: int) -> bytes:
    """The common beginning of the keys of a table's routes with that metric; a packed network completes it."""
    return _PLACE.pack(table, metric)


def encap_key(table: int, network: PackedNetwork, segment: bytes) -> RouteKey:
    """The key of the route to ``network`` through ``segment``."""
    return _PLACE.pack(table, encap_metric(network, segment)) + network


_IPV4_SIZE: Final = 5


def route_key(table: int, network: Network, metric: int = 0) -> RouteKey:
    """The key of a route. Metric 0 is the kernel's default of the family, so IPv6's 1024 is the same as 0."""
    if metric == IPV6_METRIC and network.version == 6:
        metric = 0
    return _KEY.pack(table, metric, network.prefixlen) + network.network_address.packed


def route_of(key: RouteKey) -> tuple[int, Network, int]:
    """(table, network, metric) of a key."""
    table, metric, length = _KEY.unpack_from(key)
    return table, ip_network((key[_KEY.size :], length)), metric


@dataclass(slots=True)
class Objects:
    """Galactic's objects in one network namespace. Mappings, so that both sides compare by key."""

    links: dict[str, Link] = field(default_factory=dict)
    addresses: dict[tuple[str, Interface], bool] = field(default_factory=dict)
    """(device, address with prefix length) → noprefixroute."""
    routes: dict[RouteKey, RouteTarget] = field(default_factory=dict)
    rules: dict[Rule, None] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    """Path below /proc/sys, with slashes → value."""
    lookups: dict[Family, LookupOrder] = field(default_factory=dict)
    """Reading has a family only where it has rules of ours."""
    neighbours: dict[Neighbour, None] = field(default_factory=dict)
    """Kept entries: the kernel resolves them as others, and neither counts nor collects them."""


@dataclass(frozen=True, slots=True)
class Change:
    """The difference of two sets of objects. Sysctls are only set, never unset."""

    links: Diff[str, Link]
    addresses: Diff[tuple[str, Interface], bool]
    routes: Diff[RouteKey, RouteTarget]
    rules: Diff[Rule, None]
    sysctls: Diff[str, str]
    lookups: Diff[Family, LookupOrder]
    neighbours: Diff[Neighbour, None]

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        changes = len(self.links) + len(self.addresses) + len(self.routes) + len(self.neighbours)
        return changes + len(self.rules) + len(self.sysctls.set) + len(self.lookups)


def change(desired: Objects, actual: Objects) -> Change:
    """Desired minus actual. A device that gets another VRF is set down and up by that: its IPv6 addresses, routes and
    neighbours are set again.
    """
    moved = {
        name
        for name, link in desired.links.items()
        if (present := actual.links.get(name)) is not None and present.master != link.master
    }
    if moved:
        actual = _moved(actual, desired, moved)
    links = diff(_comparable(desired.links, actual.links), _comparable(actual.links, {}))
    for name, link in links.set.items():  # whose other end may have to follow
        links.set[name] = link._replace(peer=desired.links[name].peer)
    return Change(
        links=links,
        addresses=diff(desired.addresses, actual.addresses),
        routes=diff(desired.routes, actual.routes),
        rules=diff(desired.rules, actual.rules),
        sysctls=diff(desired.sysctls, actual.sysctls),
        lookups=diff(desired.lookups, actual.lookups),
        neighbours=diff(desired.neighbours, actual.neighbours),
    )


def _moved(actual: Objects, desired: Objects, devices: AbstractSet[str]) -> Objects:
    """The objects that are left when devices were set down; surplus ones as well, which are to be deleted."""

    def lost(target: RouteTarget) -> bool:
        return isinstance(target, Direct | Via) and target.device in devices

    return replace(
        actual,
        addresses={
            key: flag
            for key, flag in actual.addresses.items()
            if not (key[0] in devices and key[1].version == 6 and key in desired.addresses)
        },
        routes={
            key: target
            for key, target in actual.routes.items()
            if not (lost(target) and key in desired.routes)
        },
        neighbours={
            key: None for key in actual.neighbours if not (key[0] in devices and key in desired.neighbours)
        },
    )


def _comparable(links: Mapping[str, Link], actual: Mapping[str, Link]) -> dict[str, Link]:
    """A link without fields that cannot be read or are not planned: the peer of an existing veth, MTU 0, no MAC."""
    result = {}
    for name, link in links.items():
        present = actual.get(name)
        if present is not None and present.kind == link.kind:
            mtu, mac = link.mtu or present.mtu, link.mac or present.mac
            result[name] = link._replace(peer=None, ifindex=0, mtu=mtu, mac=mac)
        else:
            result[name] = link._replace(ifindex=0)
    return result


class Kernel(Protocol):
    """The kernel as the node controller uses it. ``galactic.linux.kernel`` is the real one.

    There may be 100,000 routes through an encapsulation on ``LOOPBACK_DEVICE``. They are read and written one by one
    and never kept as objects; ``Objects`` has all other routes.
    """

    async def objects(self) -> Objects:
        """Galactic's objects (by name, number and protocol) in the host's namespace, except routes."""

    async def sysctls(self) -> dict[str, str]:
        """The values of the sysctls written before: the only objects whose changes the kernel does not notify."""

    async def routes(self, mode: EncapMode, sink: EncapSink) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes; those through ``LOOPBACK_DEVICE`` with that mode go to ``sink`` instead."""

    async def routes_of(self, device: str) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes on one device."""

    async def write(self, wanted: Change) -> None:
        """Applies a change in the order that the kernel needs.

        Raises Unreachable naming the objects that failed; all that do not depend on them are written.
        """

    async def write_encaps(self, mode: EncapMode, jobs: Iterable[EncapJob]) -> None:
        """Sets and deletes routes through ``LOOPBACK_DEVICE``, in that order. Raises Unreachable as ``write``."""

    async def neighbours(self) -> dict[Neighbour, NeighbourState]:
        """The neighbours on Galactic's devices in the host's namespace."""

    async def solicit(self, wanted: Iterable[Neighbour]) -> set[Neighbour]:
        """Makes the kernel ask neighbours of unknown state, as for a packet.

        Returns those that it accepted: not those of a missing device, or of one without that family.
        """

    async def keep_next_hops(self, devices: Iterable[str]) -> int:
        """Keeps the neighbours on other programs' devices that answer this node. Returns how many are new."""

    async def read_pod(self, netns: str, device: str) -> Objects | None:
        """Addresses, main-table routes and kept neighbours of a device in a pod's namespace; None if either is gone."""

    async def write_pod(self, netns: str, wanted: Change) -> None: ...

"""The networks of one VPC that are elsewhere, and the SIDs that lead there.

Packed: there may be 100,000, and a node should not pay more than some 200 bytes for each. A network is its prefix
length and address in one bytes object (``PackedNetwork``), what is known of it an ``Entry``. There is one mapping from
the one to the other, the writer's own; what is in the kernel is not kept at all, because it is that mapping, except for
what is ``pending``.
"""

import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from galactic import names
from galactic.errors import Rejected
from galactic.linux.objects import LENGTHS, PackedNetwork
from galactic.messages import Route, weight

Entry = bytes
"""Packed: SID (16 bytes), epoch (8), weight of the route (8), function (2), whether it is of our own cluster (1)."""

_ENTRY: Final = struct.Struct(">16sQQHB")
_TAG: Final = struct.Struct(">HB")
_TAG_AT: Final = _ENTRY.size - _TAG.size
_EPOCH_AT, _WEIGHT_AT = 16, 24
_NUMBER: Final = struct.Struct(">Q")
_UNKNOWN: Final = bytes(_ENTRY.size - 16)
_HIGHEST: Final = (1 << 64) - 1
_RESERVED: Final = (b"\0\0", b"\xff\xff")


def entry(vpc: int, cluster: str, route: Route) -> tuple[PackedNetwork, Entry]:
    """A route of a table, checked and packed. Raises Rejected: whatever the sender, nothing leads out of the VPC."""
    if len(route.segments) != 1:
        raise Rejected(f"{len(route.segments)} segments, exactly one is understood", field=route.network)
    try:
        segment = socket.inet_pton(socket.AF_INET6, route.segments[0])
    except (OSError, ValueError) as error:
        raise Rejected(f"{route.segments[0]!r} is no IPv6 address", field=route.network) from error
    function = names.parse_function(route.function)
    if segment[8:14] != vpc.to_bytes(6, "big") or segment[14:] in _RESERVED:
        raise Rejected(f"{route.segments[0]} is no SID of VPC {names.vpc_hex(vpc)}", field=route.network)
    if not 0 <= route.epoch <= _HIGHEST:
        raise Rejected(f"{route.epoch} is no epoch", field=route.network)
    packed = _ENTRY.pack(segment, route.epoch, weight(route), function, route.cluster == cluster)
    return pack(route.network), packed


def pack(text: str) -> PackedNetwork:
    """A network in its text form, packed. Raises Rejected on one that is none, or has host bits."""
    address, _, length = text.partition("/")
    try:
        raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        bits = int(length)
        network = LENGTHS[bits] + raw
    except (OSError, ValueError, IndexError) as error:
        raise Rejected(f"{text!r} is no network in CIDR form") from error
    host = 8 * len(raw) - bits
    if host < 0 or bits < 0 or (host and int.from_bytes(raw, "big") & ((1 << host) - 1)):
        raise Rejected(f"{text!r} is no network in CIDR form")
    return network


def weight_of(packed: Entry) -> int:
    """The route's summand of the table's digest."""
    return int(_NUMBER.unpack_from(packed, _WEIGHT_AT)[0])


def epoch_of(packed: Entry) -> int:
    return int(_NUMBER.unpack_from(packed, _EPOCH_AT)[0])


def holder_of(packed: Entry) -> tuple[int, bool]:
    """The function of the attachment that announces it, and whether it is one of our own cluster."""
    function, own = _TAG.unpack_from(packed, _TAG_AT)
    return function, bool(own)


class Writer(IntEnum):
    """Who tells of a whole table; of two with the same revision the later one here is believed."""

    KERNEL = 0  # what was there when we started: stays until one of the others knows
    KUBERNETES = 1
    MQTT = 2


class View(NamedTuple):
    """A VPC's whole table as one writer knows it. The mapping is the writer's and may change."""

    revision: int
    routes: Mapping[PackedNetwork, Entry]


class RemoteRoutes:
    """One VPC's networks elsewhere: what is wanted by now, and what of it is not in the kernel yet.

    ``own`` are the networks announced here, with the number of those who announce them; ``here`` is how SIDs of this
    node begin. Neither is ever routed elsewhere.
    """

    def __init__(self, here: bytes = b"") -> None:
        self._views: dict[Writer, View] = {}
        self._routes: Mapping[PackedNetwork, Entry] = {}
        self._own: dict[PackedNetwork, int] = {}
        self._here = here
        self.pending: dict[PackedNetwork, bytes | None] = {}
        """Networks that may differ from the kernel → the segment that the kernel has for them, None without."""

    @property
    def complete(self) -> bool:
        """Whether somebody told of the whole table."""
        return any(writer is not Writer.KERNEL for writer in self._views)

    @property
    def adopting(self) -> bool:
        """Whether what the kernel has is still to be taken over: until it was looked at, or MQTT has told."""
        return Writer.KERNEL not in self._views and Writer.MQTT not in self._views

    def wanted(self, network: PackedNetwork) -> bytes | None:
        """The segment that leads there; None where no route is wanted."""
        return self._usable(network, self._routes.get(network))

    def __iter__(self) -> Iterator[PackedNetwork]:
        """All that are routed elsewhere. Not to be used across an await: the table may change."""
        return (network for network, known in self._routes.items() if self._usable(network, known))

    def tell(
        self,
        writer: Writer,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> None:
        """The table of that revision. ``before``: what changed in the same mapping, and what was there."""
        self._views[writer] = View(revision, routes)
        if writer is Writer.MQTT:
            self._views.pop(Writer.KERNEL, None)
        if before is not None and self._newest() is routes is self._routes:
            for network, known in before.items():
                self._mark(network, known)
        else:
            self._choose()

    def view(self, writer: Writer) -> View | None:
        return self._views.get(writer)

    def forget(self, writer: Writer) -> None:
        """That writer does not know any more. What was in force stays so until there is another view."""
        if view := self._views.pop(writer, None):
            if not self._views:
                self._views[Writer.KERNEL] = View(-1, view.routes)
            self._choose()

    def clear(self) -> None:
        """Nothing of the VPC is wanted here any more."""
        self._views.clear()
        self._replace({})

    def found(self, segments: Mapping[PackedNetwork, bytes]) -> None:
        """What the kernel has, whatever was thought before. It stays as it is while MQTT's table is not known."""
        if Writer.MQTT not in self._views:
            routes = {network: segment + _UNKNOWN for network, segment in segments.items()}
            self._views[Writer.KERNEL] = View(-1, routes)
            self._choose()
        self.pending = {
            network: segment for network, segment in segments.items() if self.wanted(network) != segment
        } | {network: None for network in self if network not in segments}

    def announce(self, networks: Collection[PackedNetwork]) -> None:
        """These are here from now on."""
        for network in networks:
            self._mark(network, self._routes.get(network))
            self._own[network] = self._own.get(network, 0) + 1

    def withdraw(self, networks: Collection[PackedNetwork]) -> None:
        """One who announced these is gone."""
        for network in networks:
            self._mark(network, self._routes.get(network))
            self._own[network] = self._own.get(network, 0) - 1
            if self._own[network] <= 0:
                del self._own[network]

    def locate(self, here: bytes) -> None:
        """How the SIDs of this node begin from now on."""
        if here != self._here:
            for network, known in self._routes.items():
                if known.startswith((here, self._here or here)):
                    self._mark(network, known)
            self._here = here

    def take_pending(self) -> dict[PackedNetwork, bytes | None]:
        """What may differ from the kernel; whoever takes it sees to it, ``write`` for ``write``."""
        pending, self.pending = self.pending, {}
        return pending

    def write(self, network: PackedNetwork) -> bytes | None:
        """The segment that is wanted there now. The caller puts it into the kernel, whatever was wanted meanwhile."""
        segment = self.wanted(network)
        if network in self.pending:
            self.pending[network] = segment
        return segment

    def epochs(self, function: int) -> list[int]:
        """The epochs with which others of our cluster are told to hold that function."""
        tag = _TAG.pack(function, 1)
        return [
            epoch_of(known)
            for view in self._views.values()
            for known in view.routes.values()
            if known[_TAG_AT:] == tag and not self._is_here(known)
        ]

    def _is_here(self, known: Entry) -> bool:
        return bool(self._here) and known.startswith(self._here)

    def _usable(self, network: PackedNetwork, known: Entry | None) -> bytes | None:
        if known is None or network in self._own or self._is_here(known):
            return None
        return known[:16]

    def _mark(self, network: PackedNetwork, known: Entry | None) -> None:
        """To be called while own networks and the like are still what they were."""
        if network not in self.pending:
            self.pending[network] = self._usable(network, known)

    def _newest(self) -> Mapping[PackedNetwork, Entry]:
        """The newest view's. Kubernetes lags, and knows no other cluster: what was adopted stays below its view."""
        if not self._views:
            return {}
        _, writer, routes = max(
            ((view.revision, writer, view.routes) for writer, view in self._views.items()),
            key=lambda each: each[:2],
        )
        if writer is Writer.KUBERNETES and (found := self._views.get(Writer.KERNEL)):
            return {**found.routes, **routes}
        return routes

    def _choose(self) -> None:
        self._replace(self._newest())

    def _replace(self, routes: Mapping[PackedNetwork, Entry]) -> None:
        before, self._routes = self._routes, routes
        if routes is before:
            return
        for network, known in before.items():
            new = routes.get(network)
            if new is None or new[:16] != known[:16]:
                self._mark(network, known)
        for network in routes:
            if network not in before:
                self._mark(network, None)

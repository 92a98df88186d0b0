"""The remote routes of one VPC: networks on other nodes, and the SIDs that lead there.

Packed: there may be 100,000, at some 200 bytes each. A network is its prefix length and address in one bytes object
(``PackedNetwork``), its route an ``Entry``. One mapping from the one to the other exists, the source's own; a delta
tracker keeps only where the kernel differs from it.
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
from galactic.node.state.attachment import PATH_ID
from galactic.node.state.tracker import DeltaTracker

Entry = bytes
"""Packed: SID (16 bytes), epoch (8), weight of the route (8), function (2), whose it is (1; see ``_OWN``)."""

_ENTRY: Final = struct.Struct(">16sQQHB")
_TAG: Final = struct.Struct(">HB")
_TAG_AT: Final = _ENTRY.size - _TAG.size
_EPOCH_AT, _WEIGHT_AT = 16, 24
_NUMBER: Final = struct.Struct(">Q")
_UNKNOWN: Final = bytes(_ENTRY.size - 17)
_OTHER, _OWN, _IMPORTED = 0, 1, 2
"""An entry's last byte: of another cluster or of our own; beside that, whether of another VPC."""
_HIGHEST: Final = (1 << 64) - 1
_RESERVED: Final = (b"\0\0", b"\xff\xff")
_RESERVED_VPCS: Final = (bytes(6), b"\xff" * 6)


def entry(vpc: int, cluster: str, route: Route) -> tuple[PackedNetwork, Entry]:
    """A route of a table, checked and packed. Raises Rejected.

    A route may lead to another VPC, as its SID has it: it counts while that VPC is a peer (``RemoteRoutes``).
    """
    if len(route.segments) != 1:
        raise Rejected(f"{len(route.segments)} segments, exactly one is understood", field=route.network)
    try:
        segment = socket.inet_pton(socket.AF_INET6, route.segments[0])
    except (OSError, ValueError) as error:
        raise Rejected(f"{route.segments[0]!r} is no IPv6 address", field=route.network) from error
    function = names.parse_function(route.function)
    leads_to = segment[8:14]
    if leads_to in _RESERVED_VPCS or segment[14:] in _RESERVED:
        raise Rejected(f"{route.segments[0]} is no SID of a VPC", field=route.network)
    if not 0 <= route.epoch <= _HIGHEST:
        raise Rejected(f"{route.epoch} is not an epoch", field=route.network)
    whose = _OWN if route.cluster == cluster else _OTHER
    if leads_to != vpc.to_bytes(6, "big"):
        whose |= _IMPORTED
    packed = _ENTRY.pack(segment, route.epoch, weight(route), function, whose)
    return pack(route.network), packed


def pack(text: str) -> PackedNetwork:
    """A network in its text form, packed. Raises Rejected on one that is none, or has host bits."""
    address, _, length = text.partition("/")
    try:
        raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        bits = int(length)
        network = LENGTHS[bits] + raw
    except (OSError, ValueError, IndexError) as error:
        raise Rejected(f"{text!r} is not a network in CIDR form") from error
    host = 8 * len(raw) - bits
    if host < 0 or bits < 0 or (host and int.from_bytes(raw, "big") & ((1 << host) - 1)):
        raise Rejected(f"{text!r} is not a network in CIDR form")
    return network


Ranges = tuple[PackedNetwork, ...]
"""Networks of a VPC."""


def inside(network: PackedNetwork, ranges: Ranges) -> bool:
    """Whether a network lies inside one of these."""
    for around in ranges:
        length = around[0]
        if len(around) == len(network) and length <= network[0]:
            rest = 8 * (len(around) - 1) - length
            if int.from_bytes(network[1:], "big") >> rest == int.from_bytes(around[1:], "big") >> rest:
                return True
    return False


def weight_of(packed: Entry) -> int:
    """The route's summand of the table's digest."""
    return int(_NUMBER.unpack_from(packed, _WEIGHT_AT)[0])


def epoch_of(packed: Entry) -> int:
    return int(_NUMBER.unpack_from(packed, _EPOCH_AT)[0])


def holder_of(packed: Entry) -> tuple[int, bool]:
    """The function of the attachment that announces it, and whether it is one of our own cluster and the VPC."""
    function, whose = _TAG.unpack_from(packed, _TAG_AT)
    return function, whose == _OWN


def is_imported(packed: Entry) -> bool:
    """Whether it leads to an attachment of another VPC."""
    return bool(packed[-1] & _IMPORTED)


def vpc_of(packed: Entry) -> int:
    """The VPC of the attachment that it leads to, as its SID has it."""
    return int.from_bytes(packed[8:14], "big")


def of_cluster(packed: Entry) -> bool:
    """Whether that attachment is one of our own cluster."""
    return bool(packed[-1] & _OWN)


class Source(IntEnum):
    """Where a whole table comes from; of two with the same revision the later one here counts."""

    KERNEL = 0  # what the kernel had at start: in force until one of the others has a table
    KUBERNETES = 1
    MQTT = 2


class View(NamedTuple):
    """A VPC's whole table as one source has it. The mapping is the source's and may change."""

    revision: int
    routes: Mapping[PackedNetwork, Entry]


class RemoteRoutes:
    """One VPC's remote routes. ``tracker`` has the segments of those that are not in the kernel yet.

    ``own`` are the networks announced here, with the paths that announce them; ``here`` is how SIDs of this node begin.
    Neither is routed elsewhere, but for a network whose paths here have all lost it (docs/design/holder.md).

    Routes to other VPCs count while those are ``peers``, inside their networks (docs/design/peering.md). Those to pods
    of this node are no exception: their SIDs are local, and the kernel goes on by them.

    Routes of other clusters count while the table has one of our own: a router that does not admit our cluster to the
    VPC publishes none of ours (docs/design/joining.md).
    """

    def __init__(self, here: bytes = b"", vpc: int | None = None) -> None:
        """``vpc``: which one this is; None: every route is its own."""
        self._vpc = None if vpc is None else vpc.to_bytes(6, "big")
        self.peers: Mapping[int, Ranges] = {}
        self._views: dict[Source, View] = {}
        self._routes: Mapping[PackedNetwork, Entry] = {}
        self._own: dict[PackedNetwork, frozenset[bytes]] = {}
        self._lost: dict[PackedNetwork, frozenset[bytes]] = {}  # own paths that do not hold the network
        self._contested: set[PackedNetwork] = set()  # own networks to be judged
        self._here = here
        self._ours = 0  # routes of our own cluster in the table in force
        self._foreign = False  # whether it has routes of other clusters only
        self.tracker: DeltaTracker[PackedNetwork, bytes] = DeltaTracker(self.segment)

    @property
    def complete(self) -> bool:
        """Whether a source other than the kernel has the whole table."""
        return any(source is not Source.KERNEL for source in self._views)

    @property
    def adopting(self) -> bool:
        """Whether the kernel's routes are still to be adopted: until it was read, or MQTT has a table."""
        return Source.KERNEL not in self._views and Source.MQTT not in self._views

    def segment(self, network: PackedNetwork) -> bytes | None:
        """The desired segment: the SID that leads there; None where no route is desired."""
        return self._segment(network, self._routes.get(network))

    def __iter__(self) -> Iterator[PackedNetwork]:
        """The networks with a desired segment. Not to be used across an await: the table may change."""
        return (network for network, entry in self._routes.items() if self._segment(network, entry))

    def set_table(
        self,
        source: Source,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> None:
        """The table of that revision. ``before``: what changed in the same mapping, with the entries that it had."""
        self._views[source] = View(revision, routes)
        if source is Source.MQTT:
            self._views.pop(Source.KERNEL, None)
        if before is not None and self._newest() is routes is self._routes:
            ours = self._ours
            for network, entry in before.items():
                self._changing(network, entry)
                ours += _ours(routes.get(network)) - _ours(entry)
            self._contested |= before.keys() & self._own.keys()
            self._admit(ours)
        else:
            self._choose()

    def view(self, source: Source) -> View | None:
        return self._views.get(source)

    def drop_source(self, source: Source) -> None:
        """The source has no table any more. The one in force stays so until there is another view."""
        if view := self._views.pop(source, None):
            if not self._views:
                self._views[Source.KERNEL] = View(-1, view.routes)
            self._choose()

    def clear(self) -> None:
        """No route of the VPC is desired here any more."""
        self._views.clear()
        self._replace({})

    def adopt(self, segments: Mapping[PackedNetwork, bytes]) -> None:
        """The kernel has exactly these routes. They are a view, in force until MQTT has a table."""
        if Source.MQTT not in self._views:
            routes = {network: self._adopted(segment) for network, segment in segments.items()}
            self._views[Source.KERNEL] = View(-1, routes)
            self._choose()
        self.tracker.resync(segments, self)

    def _adopted(self, segment: bytes) -> Entry:
        """A route that the kernel has."""
        own = self._vpc in (None, segment[8:14])
        return segment + _UNKNOWN + bytes((_OTHER if own else _OTHER | _IMPORTED,))

    def set_peers(self, peers: Mapping[int, Ranges]) -> bool:
        """The VPCs that routes may lead to besides this one, and their networks. Whether that is a change."""
        if peers == self.peers:
            return False
        changed = {vpc for vpc in peers.keys() | self.peers.keys() if peers.get(vpc) != self.peers.get(vpc)}
        for network, entry in self._routes.items():
            if is_imported(entry) and vpc_of(entry) in changed:
                self._changing(network, entry)
        self.peers = peers
        return True

    def announce(self, networks: Collection[PackedNetwork], path: bytes) -> None:
        """A path here (``Attachment.path_id``) announces these from now on."""
        for network in networks:
            self._changing(network, self._routes.get(network))
            self._own[network] = self._own.get(network, frozenset()) | {path}
        self._contested.update(networks)

    def withdraw(self, networks: Collection[PackedNetwork], path: bytes) -> None:
        """A path that announced these is gone."""
        for network in networks:
            self._changing(network, self._routes.get(network))
            if left := self._own.pop(network, frozenset()) - {path}:
                self._own[network] = left
        self._contested.update(networks)

    def lost(self, network: PackedNetwork) -> frozenset[bytes]:
        """The paths here that announce the network and do not hold it, as of the last ``judge``."""
        return self._lost.get(network, frozenset())

    def judge(self) -> list[PackedNetwork]:
        """Takes over which paths here have lost their networks. The networks for which that has changed.

        Not done as tables arrive: during a round the plan of local routes stays the one that it began with.
        """
        contested, self._contested = self._contested, set()
        changed = []
        for network in contested:
            entry = self._routes.get(network)
            lost = self._losing(network, entry)
            if lost != self.lost(network):
                self._changing(network, entry)
                self._lost.pop(network, None)
                if lost:
                    self._lost[network] = lost
                changed.append(network)
        return changed

    def _losing(self, network: PackedNetwork, entry: Entry | None) -> frozenset[bytes]:
        """The paths here that the holder in the table has beaten; none where the table is behind."""
        own = self._own.get(network, frozenset())
        if entry is None or not own or entry[16:-1] == _UNKNOWN or self._foreign or is_imported(entry):
            return frozenset()
        function, own_cluster = holder_of(entry)
        paths = {path: PATH_ID.unpack(path) for path in own}
        if self._is_here(entry):
            holders = {path for path, (own_function, _) in paths.items() if own_function == function}
            return own - holders if holders else frozenset()  # without: it was here and is gone
        moved_here = {
            path
            for path, (own_function, epoch) in paths.items()
            if own_cluster and own_function == function and epoch >= epoch_of(entry)
        }
        return own - moved_here

    def locate(self, here: bytes) -> None:
        """How the SIDs of this node begin from now on."""
        if here != self._here:
            for network, entry in self._routes.items():
                if entry.startswith((here, self._here or here)):
                    self._changing(network, entry)
            self._here = here
            self._contested |= self._own.keys()

    def epochs(self, function: int) -> list[int]:
        """The epochs with which other nodes of our cluster have that function, by all views."""
        tag = _TAG.pack(function, 1)
        return [
            epoch_of(entry)
            for view in self._views.values()
            for entry in view.routes.values()
            if entry[_TAG_AT:] == tag and not self._is_here(entry)
        ]

    def _is_here(self, entry: Entry) -> bool:
        return bool(self._here) and entry.startswith(self._here)

    def _segment(self, network: PackedNetwork, entry: Entry | None) -> bytes | None:
        if entry is None or (self._foreign and entry[16:-1] != _UNKNOWN):
            return None
        if is_imported(entry):
            allowed = inside(network, self.peers.get(vpc_of(entry), ()))
            return entry[:16] if allowed and network not in self._own else None
        if self._is_here(entry):
            return None
        own = self._own.get(network)
        return entry[:16] if not own or own <= self.lost(network) else None

    def _changing(self, network: PackedNetwork, before: Entry | None) -> None:
        """To be called while own networks and the like are still what they were."""
        self.tracker.changing(network, self._segment(network, before))

    def _newest(self) -> Mapping[PackedNetwork, Entry]:
        """The newest view's. Kubernetes lags, and knows no other cluster: what was adopted stays below its view."""
        if not self._views:
            return {}
        source, view = max(self._views.items(), key=lambda item: (item[1].revision, item[0]))
        if source is Source.KUBERNETES and (adopted := self._views.get(Source.KERNEL)):
            return {**adopted.routes, **view.routes}
        return view.routes

    def _choose(self) -> None:
        self._replace(self._newest())

    def _replace(self, routes: Mapping[PackedNetwork, Entry]) -> None:
        before, self._routes = self._routes, routes
        if routes is before:
            return
        self._contested |= self._own.keys()
        ours = sum(map(_ours, routes.values()))
        foreign = not ours and _is_foreign(routes)
        for network, entry in before.items():
            after = routes.get(network)
            if foreign or self._foreign or after is None or after[:16] != entry[:16]:
                self._changing(network, entry)
        for network in routes:
            if network not in before:
                self._changing(network, None)
        self._ours, self._foreign = ours, foreign

    def _admit(self, ours: int) -> None:
        """The table in force has so many routes of our own cluster by now."""
        foreign = not ours and _is_foreign(self._routes)
        if foreign != self._foreign:
            self._contested |= self._own.keys()
            for network, entry in self._routes.items():
                self._changing(network, entry)
        self._ours, self._foreign = ours, foreign


def _ours(packed: Entry | None) -> int:
    """1 for a route of the VPC and our own cluster."""
    return int(packed is not None and packed[-1] == _OWN)


def _is_foreign(routes: Mapping[PackedNetwork, Entry]) -> bool:
    """Whether one of these, of which none is of our own cluster, is of another: what the kernel had is of none."""
    return any(entry[16:-1] != _UNKNOWN and not is_imported(entry) for entry in routes.values())

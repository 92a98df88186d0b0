"""A VPC's table cut into shards of at most 256 routes, for the retained messages.

A network stays in the shard it was put into, so that a change rewrites one shard; new ones go where the first room is.
Every shard carries their number (``of``), so changing that rewrites them all: it grows by a quarter more
than needed and shrinks when less than half is, and so changes rarely.

Where a broker takes payloads that 256 routes may exceed, a shard ends at that many bytes as well. A route that grows
then moves to another shard.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from galactic.messages import MAX_PAYLOAD, SHARD_ROUTES, Route, weight
from galactic.router.rib.networks import Network

_SLACK: Final = 4  # one shard to spare in so many
_ENVELOPE: Final = 256  # bytes of a message around its routes, more than enough


class Shards:
    """The routes of one table, by shard. ``dirty`` are those that changed since the last pack."""

    def __init__(self, largest: int = MAX_PAYLOAD) -> None:
        self._room_bytes = largest - _ENVELOPE  # of the routes of a shard
        self._shards: list[dict[Network, Route]] = []
        self._sizes: list[int] = []  # bytes of their routes
        self._where: dict[Network, int] = {}
        self._first = 0  # no shard below has room
        self.total = 0  # the sum of the routes' weights
        self.dirty: set[int] = set()

    def __len__(self) -> int:
        """How many shards there are; none for an empty table."""
        return len(self._shards)

    @property
    def count(self) -> int:
        """How many routes there are."""
        return len(self._where)

    def __iter__(self) -> Iterator[Network]:
        return iter(self._where)

    def get(self, network: Network) -> Route | None:
        """The route to that network."""
        where = self._where.get(network)
        return None if where is None else self._shards[where][network]

    def shard(self, number: int) -> tuple[Route, ...]:
        """The routes of one shard."""
        return tuple(self._shards[number].values())

    def adopt(self, shards: Mapping[int, Collection[Route]], of: int) -> None:
        """Adopts the layout in the broker; nothing is dirty after. For an empty table only."""
        self._shards, self._sizes = [{} for _ in range(of)], [0] * of
        for number, routes in shards.items():
            for route in routes:
                network = Network(route.network)
                if network not in self._where and len(self._shards[number]) < SHARD_ROUTES:
                    self._enter(network, route, number)
                    self.total += weight(route)
        self.dirty = set()

    def put(self, route: Route) -> None:
        """Adds a route, or replaces the one to that network."""
        network, size = Network(route.network), _size(route)
        where = self._where.get(network)
        if where is not None:
            before = self._shards[where][network]
            self.total -= weight(before)
            if self._sizes[where] - _size(before) + size > self._room_bytes and len(self._shards[where]) > 1:
                self._leave(network)
                where = None
        self._enter(network, route, self._room(size) if where is None else where)
        self.total += weight(route)

    def remove(self, network: Network) -> None:
        """Removes the route to that network."""
        self.total -= weight(self._leave(network))

    def limit(self, largest: int) -> None:
        """The broker takes payloads of so many bytes: shards that are larger are cut again."""
        room, self._room_bytes = self._room_bytes, largest - _ENVELOPE
        if room > self._room_bytes and any(
            size > self._room_bytes and len(shard) > 1
            for size, shard in zip(self._sizes, self._shards, strict=True)
        ):
            self._repack(0)

    def tidy(self) -> None:
        """Removes shards when less than half of them are needed. Before a pack."""
        needed = max(-(-self.count // SHARD_ROUTES), -(-sum(self._sizes) // self._room_bytes))
        if needed * 2 < len(self._shards):
            self._repack(needed + needed // _SLACK)

    def _repack(self, of: int) -> None:
        """Keeps that many shards, and puts the routes of the others where there is room."""
        displaced = [route for shard in self._shards[of:] for route in shard.values()]
        del self._shards[of:], self._sizes[of:]
        self._first = 0
        for route in displaced:
            self._enter(Network(route.network), route, self._room(_size(route)))
        self.dirty = set(range(len(self._shards)))

    def _enter(self, network: Network, route: Route, where: int) -> None:
        if (before := self._shards[where].get(network)) is not None:
            self._sizes[where] -= _size(before)
        self._shards[where][network] = route
        self._sizes[where] += _size(route)
        self._where[network] = where
        self.dirty.add(where)

    def _leave(self, network: Network) -> Route:
        where = self._where.pop(network)
        route = self._shards[where].pop(network)
        self._sizes[where] -= _size(route)
        self.dirty.add(where)
        self._first = min(self._first, where)
        return route

    def _room(self, size: int) -> int:
        while self._first < len(self._shards) and not self._fits(self._first, size):
            self._first += 1
        if self._first == len(self._shards):
            spare = 1 + len(self._shards) // _SLACK
            self._shards += ({} for _ in range(spare))
            self._sizes += [0] * spare
            self.dirty = set(range(len(self._shards)))
        return self._first

    def _fits(self, number: int, size: int) -> bool:
        """An empty shard takes a route of any size: the broker then refuses that one message."""
        shard = self._shards[number]
        return not shard or (len(shard) < SHARD_ROUTES and self._sizes[number] + size <= self._room_bytes)


def _size(route: Route) -> int:
    """Bytes in a message, with the comma behind it."""
    return len(_encoder.encode(route)) + 1


_encoder: Final = msgspec.json.Encoder()

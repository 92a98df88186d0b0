"""A VPC's table cut into shards of at most 256 routes, for the retained messages.

A network stays in the shard it was put into, so that a change rewrites one shard; new ones go where the first room is.
Every shard carries their number (``of``), so changing that rewrites them all: it grows by a quarter more
than needed and shrinks when less than half is, and so changes rarely.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from galactic.messages import SHARD_ROUTES, Route, weight
from galactic.router.rib.networks import Network

_SLACK: Final = 4  # one shard to spare in so many


class Shards:
    """The routes of one table, by shard. ``dirty`` are those that changed since the last pack."""

    def __init__(self) -> None:
        self._shards: list[dict[Network, Route]] = []
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
        self._shards = [{} for _ in range(of)]
        for number, routes in shards.items():
            for route in routes:
                network = Network(route.network)
                if network not in self._where and len(self._shards[number]) < SHARD_ROUTES:
                    self._shards[number][network] = route
                    self._where[network] = number
                    self.total += weight(route)

    def put(self, route: Route) -> None:
        """Adds a route, or replaces the one to that network."""
        network = Network(route.network)
        where = self._where.get(network)
        if where is None:
            where = self._where[network] = self._room()
        else:
            self.total -= weight(self._shards[where][network])
        self._shards[where][network] = route
        self.total += weight(route)
        self.dirty.add(where)

    def remove(self, network: Network) -> None:
        """Removes the route to that network."""
        where = self._where.pop(network)
        self.total -= weight(self._shards[where].pop(network))
        self.dirty.add(where)
        self._first = min(self._first, where)

    def tidy(self) -> None:
        """Removes shards when less than half of them are needed. Before a pack."""
        needed = -(-self.count // SHARD_ROUTES)
        if needed * 2 < len(self._shards):
            of = needed + needed // _SLACK
            displaced = [route for shard in self._shards[of:] for route in shard.values()]
            del self._shards[of:]
            self._first = 0
            for route in displaced:
                self._where[Network(route.network)] = where = self._room()
                self._shards[where][Network(route.network)] = route
            self.dirty = set(range(len(self._shards)))

    def _room(self) -> int:
        while self._first < len(self._shards) and len(self._shards[self._first]) >= SHARD_ROUTES:
            self._first += 1
        if self._first == len(self._shards):
            self._shards += ({} for _ in range(1 + len(self._shards) // _SLACK))
            self.dirty = set(range(len(self._shards)))
        return self._first

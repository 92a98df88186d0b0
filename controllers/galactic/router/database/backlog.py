"""The changes that are not written yet, in order and bounded; and what one transaction writes of them. No I/O.

A ``HistoryEntry`` is what one commit of the tables changed. Entries are strictly later than each other: a network that
changes hands twice within one microsecond still has two periods. A backlog that grows past its limit is given up. The
tables are then compared with the database (``transactions.compare``); only the steps in between are lost.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from galactic.messages import Route
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Identity

LIMIT: Final = 200_000
"""Items kept while the database is unreachable: some 60 MB."""
BATCH: Final = 5_000
"""Items of one transaction; more only if one entry has more."""
EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
TICK: Final = timedelta(microseconds=1)
"""The resolution of PostgreSQL's timestamps."""


class VpcNetwork(NamedTuple):
    """A network in its VPC."""

    vpc: int
    network: Network


class NetworkOwner(NamedTuple):
    """The attachment that holds a network."""

    cluster: str
    function: int
    node: str
    attachment: str
    sid: str
    epoch: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One commit of the tables: the new owners of networks (None: none), and endpoints that came, moved or went."""

    at: datetime
    owners: Mapping[VpcNetwork, NetworkOwner | None]
    endpoints: Mapping[Identity, EndpointPath | None]

    def __len__(self) -> int:
        return len(self.owners) + len(self.endpoints)


class Period(NamedTuple):
    """An attachment held a network from ``since`` until ``until`` (None: it still does)."""

    key: VpcNetwork
    owner: NetworkOwner
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries as one transaction: ends of open periods, periods to add, endpoints as they are after the last entry."""

    ends: dict[VpcNetwork, datetime]
    periods: list[Period]
    endpoints: dict[Identity, tuple[EndpointPath | None, datetime]]
    last: datetime


def owner_of(route: Route, attachment: str) -> NetworkOwner:
    """The owner of a route's network."""
    name = legible(attachment)
    function = int(route.function, 16)
    return NetworkOwner(route.cluster, function, route.node, name, route.segments[0], route.epoch)


def legible(text: str) -> str:
    """The text as PostgreSQL can store it. Outside Kubernetes a node may give an attachment any name."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def batch(entries: Sequence[HistoryEntry], after: datetime | None = None) -> Batch:
    """The batch of these entries, at least one and in order; all of it is later than ``after``.

    The clock that the entries were stamped with may be behind that of the router that wrote before; then all of them
    are shifted alike.
    """
    shift = max(timedelta(), after + TICK - entries[0].at) if after else timedelta()
    ends: dict[VpcNetwork, datetime] = {}
    periods: list[Period] = []
    endpoints: dict[Identity, tuple[EndpointPath | None, datetime]] = {}
    latest: dict[VpcNetwork, int | None] = {}  # the position of the open period; None: there is none
    for entry in entries:
        at = entry.at + shift
        for key, owner in entry.owners.items():
            position = latest.get(key)
            if position is not None:
                periods[position] = periods[position]._replace(until=at)
            elif key not in latest:
                ends[key] = at
            latest[key] = None
            if owner is not None:
                latest[key] = len(periods)
                periods.append(Period(key, owner, at, None))
        endpoints.update({identity: (path, at) for identity, path in entry.endpoints.items()})
    return Batch(ends, periods, endpoints, entries[-1].at + shift)


@dataclass(slots=True)
class Backlog:
    """The entries that are not written yet."""

    limit: int = LIMIT
    items: int = 0
    _entries: deque[HistoryEntry] = field(default_factory=deque)
    _latest: datetime = EARLIEST

    @property
    def oldest(self) -> datetime | None:
        return self._entries[0].at if self._entries else None

    def now(self) -> datetime:
        """The time, later than any that was returned before."""
        self._latest = max(datetime.now(UTC), self._latest + TICK)
        return self._latest

    def put(self, entry: HistoryEntry) -> int:
        """Appends an entry. Returns how many items were given up: none, or all because of the limit."""
        self._entries.append(entry)
        self.items += len(entry)
        if self.items <= self.limit:
            return 0
        lost = self.items
        self.clear()
        return lost

    def clear(self) -> None:
        self._entries.clear()
        self.items = 0

    def first(self, at_most: int = BATCH) -> list[HistoryEntry]:
        """The oldest entries, one at least if there are any. They stay until ``done``."""
        oldest: list[HistoryEntry] = []
        items = 0
        for entry in self._entries:
            items += len(entry)
            if oldest and items > at_most:
                break
            oldest.append(entry)
        return oldest

    def done(self, entries: list[HistoryEntry]) -> None:
        """Removes the oldest entries, which are written; those that were given up meanwhile are gone already."""
        for entry in entries:
            if self._entries and self._entries[0] is entry:
                self._entries.popleft()
                self.items -= len(entry)

"""What is due to be written, in order and bounded; and what one transaction makes of it. No I/O.

A ``HistoryEntry`` is what one commit of the table changed. Entries are strictly later than each other, so that a
network which changes hands twice in one microsecond still has two periods. When more is due than may be kept, all of
it is given up: the table itself knows how things stand, and is compared with the database instead
(``writer.compare``). What is lost then is how they came to stand so.
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
"""Items kept while the database is away: some 60 MB."""
BATCH: Final = 5_000
"""Items of one transaction, more only if one moment has more."""
EVER: Final = datetime.min.replace(tzinfo=UTC)
TICK: Final = timedelta(microseconds=1)
"""What PostgreSQL can tell apart."""


class Key(NamedTuple):
    """A network in its VPC."""

    vpc: int
    network: Network


class Held(NamedTuple):
    """Who has a network."""

    cluster: str
    function: int
    node: str
    attachment: str
    sid: str
    epoch: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One commit of the table: networks that changed hands (None: nobody's now), endpoints that came, moved or went."""

    at: datetime
    held: Mapping[Key, Held | None]
    endpoints: Mapping[Identity, EndpointPath | None]

    def __len__(self) -> int:
        return len(self.held) + len(self.endpoints)


class Period(NamedTuple):
    """Somebody had a network from ``since`` until ``until`` (None: still)."""

    key: Key
    held: Held
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Moments as one transaction: whose open period ends when, periods to add, endpoints as they are in the end."""

    ends: dict[Key, datetime]
    periods: list[Period]
    endpoints: dict[Identity, tuple[EndpointPath | None, datetime]]
    last: datetime


def held_by(route: Route, attachment: str) -> Held:
    """Who has the network of that route."""
    name = legible(attachment)
    return Held(route.cluster, int(route.function, 16), route.node, name, route.segments[0], route.epoch)


def legible(text: str) -> str:
    """What PostgreSQL can hold of it. Outside Kubernetes an attachment is called whatever its node says."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def batch(moments: Sequence[HistoryEntry], after: datetime | None = None) -> Batch:
    """What these moments, at least one and in order, amount to; all of them later than ``after``.

    The clock that they were taken from may be behind that of the router that wrote before; then all are shifted alike.
    """
    shift = max(timedelta(), after + TICK - moments[0].at) if after else timedelta()
    ends: dict[Key, datetime] = {}
    periods: list[Period] = []
    endpoints: dict[Identity, tuple[EndpointPath | None, datetime]] = {}
    latest: dict[Key, int | None] = {}  # the position of the period that is open; None: none is
    for moment in moments:
        at = moment.at + shift
        for key, held in moment.held.items():
            position = latest.get(key)
            if position is not None:
                periods[position] = periods[position]._replace(until=at)
            elif key not in latest:
                ends[key] = at
            latest[key] = None
            if held is not None:
                latest[key] = len(periods)
                periods.append(Period(key, held, at, None))
        endpoints.update({identity: (claim, at) for identity, claim in moment.endpoints.items()})
    return Batch(ends, periods, endpoints, moments[-1].at + shift)


@dataclass(slots=True)
class Backlog:
    """Moments that are due."""

    limit: int = LIMIT
    items: int = 0
    _moments: deque[HistoryEntry] = field(default_factory=deque)
    _latest: datetime = EVER

    @property
    def oldest(self) -> datetime | None:
        return self._moments[0].at if self._moments else None

    def now(self) -> datetime:
        """The time, later than any told before."""
        self._latest = max(datetime.now(UTC), self._latest + TICK)
        return self._latest

    def put(self, moment: HistoryEntry) -> int:
        """It is due as well. How many items were given up for that: none, or all."""
        self._moments.append(moment)
        self.items += len(moment)
        if self.items <= self.limit:
            return 0
        lost = self.items
        self.clear()
        return lost

    def clear(self) -> None:
        """Nothing is due."""
        self._moments.clear()
        self.items = 0

    def first(self, at_most: int = BATCH) -> list[HistoryEntry]:
        """The oldest moments, one at least if there is any. They stay due until ``done``."""
        some: list[HistoryEntry] = []
        items = 0
        for moment in self._moments:
            items += len(moment)
            if some and items > at_most:
                break
            some.append(moment)
        return some

    def done(self, moments: list[HistoryEntry]) -> None:
        """These, the oldest, are written. What was given up meanwhile is no longer there to be done with."""
        for moment in moments:
            if self._moments and self._moments[0] is moment:
                self._moments.popleft()
                self.items -= len(moment)

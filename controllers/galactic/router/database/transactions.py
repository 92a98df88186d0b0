"""The transactions that write. Each locks the row ``writer`` first, which gives three guarantees:

- *serial*: two routers never interleave, and a transaction of an abandoned connection ends before the next one reads;
- *fenced*: a router whose (term, name) is lower than the row's is refused (``Deposed``);
- *once*: the row has the number of the last batch, which shows a router whose connection broke if its commit arrived.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

from galactic.errors import Unreachable
from galactic.router.database.backlog import (
    TICK,
    HistoryEntry,
    NetworkOwner,
    Period,
    VpcNetwork,
    batch,
    legible,
)
from galactic.router.database.restore import open_periods, recorded_endpoints
from galactic.router.database.session import Connection
from galactic.router.rib.path import EndpointPath, Identity

T = TypeVar("T")
CHUNK: Final = 300
"""Rows of one statement: some milliseconds of this process, between which other tasks run."""
Revision = Callable[[int], int]
"""The last published revision of a VPC's table."""


class Deposed(Unreachable):
    """The database has seen a router with a higher term, or another one with this term."""

    def __init__(self, term: int, leader: str) -> None:
        super().__init__("postgres", f"router {leader!r} writes there, with term {term}")
        self.term = term


class Outdated(Exception):
    """The row ``writer`` is not as this router left it: the database was restored, or another program wrote."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The router that writes, and the term in which it leads."""

    term: int
    replica: str


@dataclass(frozen=True, slots=True)
class BatchId:
    """The leader, and the number of a batch: one more for each batch of that leader with other contents."""

    leader: Leader
    sequence: int


@dataclass(frozen=True, slots=True)
class TableState:
    """The contents of all tables at one time."""

    owners: Mapping[VpcNetwork, NetworkOwner]
    endpoints: Mapping[Identity, EndpointPath]
    at: datetime


@dataclass(frozen=True, slots=True)
class _Precision:
    """How well the time of a change is known: exactly, or only that it was later than ``after`` (None: unknown)."""

    exactly: bool
    after: datetime | None = None


async def write(
    connection: Connection, own: BatchId, entries: Sequence[HistoryEntry], revision: Revision
) -> None:
    """Writes the entries, exactly once however often this is called. Raises Deposed, Outdated, psycopg's."""
    async with connection.transaction():
        leader, last, latest = await locked(connection, own.leader)
        if leader != own.leader or last not in (own.sequence - 1, own.sequence):
            raise Outdated
        if last == own.sequence:
            return
        changes = batch(entries, latest)
        exactly = _Precision(exactly=True)
        await _end(connection, changes.ends, exactly)
        await _begin(connection, changes.periods, revision, exactly)
        await _endpoints(connection, changes.endpoints, revision)
        await _note(connection, own, changes.last)


async def compare(connection: Connection, own: BatchId, state: TableState, revision: Revision) -> int:
    """Makes the database equal to ``state``, with ``own`` as its writer. Returns how many networks differed.

    One transaction. The exact times of these changes are unknown: periods that begin or end here are marked so, with
    the earliest time possible. Raises Deposed, psycopg's.
    """
    async with connection.transaction():
        *_, latest = await locked(connection, own.leader)
        at = max(state.at, latest + TICK) if latest else state.at
        inexactly = _Precision(exactly=False, after=latest)
        missing, ends = dict(state.owners), dict[VpcNetwork, datetime]()
        async for key, owner in open_periods(connection):
            if missing.get(key) == owner:
                del missing[key]
            else:
                ends[key] = at
        await _end(connection, ends, inexactly)
        periods = (Period(key, owner, at, None) for key, owner in missing.items())
        await _begin(connection, periods, revision, inexactly)
        changed: dict[Identity, EndpointPath | None] = dict(state.endpoints)
        async for recorded in recorded_endpoints(connection):
            path = changed.get(recorded.identity)
            if path is None:
                changed[recorded.identity] = None
            elif recorded.equals(path):
                del changed[recorded.identity]
        await _endpoints(connection, {identity: (path, at) for identity, path in changed.items()}, revision)
        await _note(connection, own, at)
        return len(ends.keys() | missing.keys())


async def locked(connection: Connection, own: Leader) -> tuple[Leader, int, datetime | None]:
    """The row ``writer``, locked: its leader, the number and the time of the last batch."""
    cursor = await connection.execute("SELECT term, leader, sequence, moment FROM galactic.writer FOR UPDATE")
    row = await cursor.fetchone()
    if row is None:
        raise Outdated
    term, replica, sequence, latest = row
    # Of equal terms the higher name wins, as it does at the broker.
    if (term, replica) > (own.term, own.replica):
        raise Deposed(term, replica)
    return Leader(term, replica), sequence, latest


async def _note(connection: Connection, own: BatchId, at: datetime) -> None:
    await connection.execute(
        "UPDATE galactic.writer SET term = %s, leader = %s, sequence = %s, moment = %s",
        (own.leader.term, own.leader.replica, own.sequence, at),
    )


async def _end(connection: Connection, ends: Mapping[VpcNetwork, datetime], known: _Precision) -> None:
    for chunk in _chunks(ends.items()):
        rows = ((key.vpc, key.network, at) for key, at in chunk)
        await connection.execute(
            """
            UPDATE galactic.period
            SET during = tstzrange(lower(during), changed.at), ended_exactly = %s, ended_after = %s
            FROM unnest(%s::bigint[], %s::cidr[], %s::timestamptz[]) AS changed (vpc, network, at)
            WHERE period.vpc = changed.vpc AND period.network = changed.network AND upper_inf(during)
            """,
            (known.exactly, known.after, *_columns(rows)),
        )


async def _begin(
    connection: Connection, periods: Iterable[Period], revision: Revision, known: _Precision
) -> None:
    for chunk in _chunks(periods):
        rows = (
            (*period.key, period.since, period.until, *period.owner, revision(period.key.vpc))
            for period in chunk
        )
        await connection.execute(
            """
            INSERT INTO galactic.period (vpc, network, during, cluster, function, node, attachment, sid, epoch,
                revision, began_exactly, began_after)
            SELECT vpc, network, tstzrange(since, until), cluster, function, node, attachment, sid, epoch,
                revision, %s, %s
            FROM unnest(%s::bigint[], %s::cidr[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::integer[],
                %s::text[], %s::text[], %s::inet[], %s::bigint[], %s::bigint[])
                AS changed (vpc, network, since, until, cluster, function, node, attachment, sid, epoch, revision)
            """,
            (known.exactly, known.after, *_columns(rows)),
        )


async def _endpoints(
    connection: Connection,
    changed: Mapping[Identity, tuple[EndpointPath | None, datetime]],
    revision: Revision,
) -> None:
    removed = [identity for identity, (path, _) in changed.items() if path is None]
    for chunk in _chunks(removed):
        await connection.execute(
            """
            DELETE FROM galactic.endpoint
            USING unnest(%s::text[], %s::bigint[], %s::integer[]) AS changed (cluster, vpc, function)
            WHERE endpoint.vpc = changed.vpc AND endpoint.cluster = changed.cluster
                AND endpoint.function = changed.function
            """,
            (*_columns(chunk),),
        )
    present = [(identity, path, at) for identity, (path, at) in changed.items() if path is not None]
    for present_chunk in _chunks(present):
        rows = (
            (
                *identity,
                path.origin.node,
                legible(path.attachment),
                path.sid,
                "{" + ",".join(path.networks) + "}",  # an array cannot have arrays of different lengths
                path.epoch,
                revision(identity.vpc),
                at,
            )
            for identity, path, at in present_chunk
        )
        await connection.execute(
            """
            INSERT INTO galactic.endpoint (cluster, vpc, function, node, attachment, sid, networks, epoch, revision,
                since)
            SELECT cluster, vpc, function, node, attachment, sid, networks::cidr[], epoch, revision, since
            FROM unnest(%s::text[], %s::bigint[], %s::integer[], %s::text[], %s::text[], %s::inet[], %s::text[],
                %s::bigint[], %s::bigint[], %s::timestamptz[])
                AS changed (cluster, vpc, function, node, attachment, sid, networks, epoch, revision, since)
            ON CONFLICT (vpc, cluster, function) DO UPDATE SET
                node = excluded.node, attachment = excluded.attachment, sid = excluded.sid,
                networks = excluded.networks, epoch = excluded.epoch, revision = excluded.revision,
                since = CASE WHEN (endpoint.node, endpoint.epoch) = (excluded.node, excluded.epoch)
                    THEN endpoint.since ELSE excluded.since END
            """,
            (*_columns(rows),),
        )


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]

"""The transactions. Each locks the row ``writer`` first, which makes three promises:

- *one after the other*: two routers never interleave, and what a connection that was given up may still have under way
  is over before anything else is looked at;
- *fenced*: a router whose (term, name) is lower than the row's is refused (``Deposed``);
- *once*: the row has the sequence of the last batch. Whether a commit arrived before the connection broke is read off
  it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

from galactic.errors import Unreachable
from galactic.router.database.backlog import TICK, Held, HistoryEntry, Key, Period, batch, legible
from galactic.router.database.recall import endpoints_recorded, periods_open
from galactic.router.database.session import Connection
from galactic.router.rib.path import EndpointPath, Identity

T = TypeVar("T")
CHUNK: Final = 300
"""Rows of one statement: some milliseconds of this process, between which it does other things."""
Revision = Callable[[int], int]
"""The revision that subscribers of a VPC were told last."""


class Deposed(Unreachable):
    """The database has seen a router with a higher term, or another one with this term."""

    def __init__(self, term: int, leader: str) -> None:
        super().__init__("postgres", f"router {leader!r} writes there, with term {term}")
        self.term = term


class Outdated(Exception):
    """The database is not where this writer left it: it was restored, or somebody else wrote."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes. ``term`` is the leader's."""

    term: int
    leader: str


@dataclass(frozen=True, slots=True)
class State:
    """How things stand: all that the table says, at one time."""

    held: Mapping[Key, Held]
    endpoints: Mapping[Identity, EndpointPath]


async def write(
    connection: Connection, own: Writer, sequence: int, moments: Sequence[HistoryEntry], revision: Revision
) -> None:
    """The moments are written, exactly once however often this is called. Raises Deposed, Outdated, psycopg's.

    ``sequence`` is one more for each call with other moments.
    """
    async with connection.transaction():
        term, leader, last, moment = await _locked(connection, own)
        if (term, leader) != (own.term, own.leader) or last not in (sequence - 1, sequence):
            raise Outdated
        if last == sequence:
            return
        due = batch(moments, moment)
        await _end(connection, due.ends, exactly=True, after=None)
        await _begin(connection, due.periods, revision, exactly=True, after=None)
        await _endpoints(connection, due.endpoints, revision)
        await _note(connection, own, sequence, due.last)


async def compare(  # noqa: PLR0917
    connection: Connection, own: Writer, sequence: int, state: State, at: datetime, revision: Revision
) -> int:
    """The database says what ``state`` says, and ``own`` is its writer. Returns how many networks differed.

    One transaction. When exactly it became so nobody knows: periods that begin or end here say so, and what the
    earliest moment is. Raises Deposed, psycopg's.
    """
    async with connection.transaction():
        *_, moment = await _locked(connection, own)
        at = max(at, moment + TICK) if moment else at
        missing, ends = dict(state.held), dict[Key, datetime]()
        async for key, held in periods_open(connection):
            if missing.get(key) == held:
                del missing[key]
            else:
                ends[key] = at
        await _end(connection, ends, exactly=False, after=moment)
        periods = (Period(key, held, at, None) for key, held in missing.items())
        await _begin(connection, periods, revision, exactly=False, after=moment)
        absent: dict[Identity, EndpointPath | None] = dict(state.endpoints)
        async for found in endpoints_recorded(connection):
            claim = absent.get(found.identity)
            if claim is None:
                absent[found.identity] = None
            elif found.says(claim):
                del absent[found.identity]
        await _endpoints(connection, {identity: (claim, at) for identity, claim in absent.items()}, revision)
        await _note(connection, own, sequence, at)
        return len(ends.keys() | missing.keys())


async def _locked(connection: Connection, own: Writer) -> tuple[int, str, int, datetime | None]:
    found = await connection.execute("SELECT term, leader, sequence, moment FROM galactic.writer FOR UPDATE")
    row = await found.fetchone()
    if row is None:
        raise Outdated
    term, leader, sequence, moment = row
    if (term, leader) > (
        own.term,
        own.leader,
    ):  # of equal terms the higher name counts, as it does at the broker
        raise Deposed(term, leader)
    return term, leader, sequence, moment


async def _note(connection: Connection, own: Writer, sequence: int, at: datetime) -> None:
    await connection.execute(
        "UPDATE galactic.writer SET term = %s, leader = %s, sequence = %s, moment = %s",
        (own.term, own.leader, sequence, at),
    )


async def _end(
    connection: Connection, ends: Mapping[Key, datetime], *, exactly: bool, after: datetime | None
) -> None:
    for some in _chunks(ends.items()):
        rows = ((key.vpc, key.network, at) for key, at in some)
        await connection.execute(
            """
            UPDATE galactic.period
            SET during = tstzrange(lower(during), due.at), ended_exactly = %s, ended_after = %s
            FROM unnest(%s::bigint[], %s::cidr[], %s::timestamptz[]) AS due (vpc, network, at)
            WHERE period.vpc = due.vpc AND period.network = due.network AND upper_inf(during)
            """,
            (exactly, after, *_columns(rows)),
        )


async def _begin(
    connection: Connection,
    periods: Iterable[Period],
    revision: Revision,
    *,
    exactly: bool,
    after: datetime | None,
) -> None:
    for some in _chunks(periods):
        rows = ((*it.key, it.since, it.until, *it.held, revision(it.key.vpc)) for it in some)
        await connection.execute(
            """
            INSERT INTO galactic.period (vpc, network, during, cluster, function, node, attachment, sid, epoch,
                revision, began_exactly, began_after)
            SELECT vpc, network, tstzrange(since, until), cluster, function, node, attachment, sid, epoch,
                revision, %s, %s
            FROM unnest(%s::bigint[], %s::cidr[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::integer[],
                %s::text[], %s::text[], %s::inet[], %s::bigint[], %s::bigint[])
                AS due (vpc, network, since, until, cluster, function, node, attachment, sid, epoch, revision)
            """,
            (exactly, after, *_columns(rows)),
        )


async def _endpoints(
    connection: Connection,
    changed: Mapping[Identity, tuple[EndpointPath | None, datetime]],
    revision: Revision,
) -> None:
    gone = [identity for identity, (claim, _) in changed.items() if claim is None]
    for some in _chunks(gone):
        await connection.execute(
            """
            DELETE FROM galactic.endpoint
            USING unnest(%s::text[], %s::bigint[], %s::integer[]) AS due (cluster, vpc, function)
            WHERE endpoint.vpc = due.vpc AND endpoint.cluster = due.cluster AND endpoint.function = due.function
            """,
            (*_columns(some),),
        )
    here = [(identity, claim, at) for identity, (claim, at) in changed.items() if claim is not None]
    for some_here in _chunks(here):
        rows = (
            (
                *identity,
                claim.origin.node,
                legible(claim.attachment),
                claim.sid,
                "{" + ",".join(claim.networks) + "}",  # an array cannot have arrays of different lengths
                claim.epoch,
                revision(identity.vpc),
                at,
            )
            for identity, claim, at in some_here
        )
        await connection.execute(
            """
            INSERT INTO galactic.endpoint (cluster, vpc, function, node, attachment, sid, networks, epoch, revision,
                since)
            SELECT cluster, vpc, function, node, attachment, sid, networks::cidr[], epoch, revision, since
            FROM unnest(%s::text[], %s::bigint[], %s::integer[], %s::text[], %s::text[], %s::inet[], %s::text[],
                %s::bigint[], %s::bigint[], %s::timestamptz[])
                AS due (cluster, vpc, function, node, attachment, sid, networks, epoch, revision, since)
            ON CONFLICT (vpc, cluster, function) DO UPDATE SET
                node = excluded.node, attachment = excluded.attachment, sid = excluded.sid,
                networks = excluded.networks, epoch = excluded.epoch, revision = excluded.revision,
                since = CASE WHEN (endpoint.node, endpoint.epoch) = (excluded.node, excluded.epoch)
                    THEN endpoint.since ELSE excluded.since END
            """,
            (*_columns(rows),),
        )


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    left = iter(rows)
    while some := list(islice(left, CHUNK)):
        yield some


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]

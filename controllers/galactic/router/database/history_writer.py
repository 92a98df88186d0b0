"""The task that keeps the database equal to the table, with its history, for as long as this router leads.

``due`` notes what a commit of the table changed and returns; ``run`` writes it, in order, a batch a transaction. While
the database is away the backlog grows up to its limit. Where there is nothing to continue from (a router that begins to
lead, a backlog that was given up, a database that was restored) the table is compared with the database instead.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.router.database.backlog import BATCH as BATCH_ITEMS
from galactic.router.database.backlog import Backlog, Held, HistoryEntry, Key, held_by
from galactic.router.database.metrics import DatabaseMetrics
from galactic.router.database.migration import migrate
from galactic.router.database.recall import Recall, recall
from galactic.router.database.retention import BATCH, retire
from galactic.router.database.session import Session, session
from galactic.router.database.writer import Deposed, Outdated, State, Writer, compare, write
from galactic.router.rib.path import EndpointPath, Holder, Identity
from galactic.router.rib.store import Commit
from galactic.router.rib.table import VpcTable

log = structlog.get_logger(__name__)
LINGER_SECONDS: Final = 0.1
"""From a change to its transaction: what happens meanwhile shares it."""
BACKOFF_SECONDS: Final = (0.2, 10.0)
IDLE_SECONDS: Final = 10.0
"""A connection that nothing is written to is asked that often whether it is still there."""
RETIRE_SECONDS: Final = 3600.0
TRANSACTION_SECONDS: Final = 60.0
COMPARISON_SECONDS: Final = 600.0
TURN: Final = 2_000
"""Networks looked at before the rest of the process gets a turn."""


class Table(Protocol):
    """What is to be written down; ``galactic.router.rib.store.Store`` has it."""

    def tables(self) -> Mapping[int, VpcTable]: ...

    def endpoint(self, identity: Identity) -> EndpointPath | None: ...


class HistoryWriter:
    """One router's half of the database. Nothing but ``run`` and ``recall`` ever waits."""

    def __init__(
        self,
        url: str,
        replica: str,
        table: Table,
        metrics: DatabaseMetrics,
        *,
        revision: Callable[[int], int],
        problem: Callable[[str | None], None],
        retention: float = 0,
        backlog: Backlog | None = None,
        linger: float = LINGER_SECONDS,
        backoff: tuple[float, float] = BACKOFF_SECONDS,
        seconds: float = TRANSACTION_SECONDS,
        idle: float = IDLE_SECONDS,
    ) -> None:
        """``retention`` in days, 0: for ever. ``problem`` is told what is wrong with the database, or None."""
        self._url, self._replica, self._table, self._metrics = url, replica, table, metrics
        self._revision, self._problem, self._retention = revision, problem, retention
        self.outranked: Callable[[int], None] = lambda _term: None
        """Told a term that the database has seen, and which that of this router is not above."""
        self._backlog = backlog or Backlog()
        self._linger, self._backoff, self._seconds, self._pausing = linger, backoff, seconds, idle
        self._writer: Writer | None = None
        self._compare = True
        self._behind: datetime | None = None  # since when a comparison is due or under way
        self._missed = 0
        self._flight: list[HistoryEntry] = []
        self._sequence = 0
        self._wake = asyncio.Event()
        self._retire_at, self._pause = 0.0, backoff[0]
        metrics.lag(self._lag_seconds, self._lag_items)

    # -- what the controller says ------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """From now on what the table says is written: its router leads, with that term."""
        if self._writer != Writer(term, self._replica):
            self._writer = Writer(term, self._replica)
            self._start_over()

    def resign(self) -> None:
        """Another leads: nothing is written any more."""
        self._writer = None
        self._start_over()

    def due(self, commit: Commit) -> None:
        """The table changed."""
        if self._writer is None or not (commit.routes or commit.touched):
            return
        if self._compare:
            self._missed += len(commit.touched) + sum(map(len, commit.routes.values()))
            return  # the comparison will see it in the table
        held: dict[Key, Held | None] = {}
        for vpc, changed in commit.routes.items():
            for network, route in changed.set.items():
                claim = self._table.endpoint(Identity(route.cluster, vpc, int(route.function, 16)))
                held[Key(vpc, network)] = held_by(route, claim.attachment if claim else "")
            held.update({Key(vpc, network): None for network in changed.delete})
        endpoints = {identity: self._table.endpoint(identity) for identity in commit.touched}
        oldest = self._backlog.oldest
        if lost := self._backlog.put(HistoryEntry(self._backlog.now(), held, endpoints)):
            self._metrics.lost.inc(lost)
            log.error(
                "too much is due for the database: its history will have a gap", lost=lost, since=oldest
            )
            self._start_over(oldest)
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not (self._compare or self._behind or self._flight or self._backlog.items)

    # -- a router that starts ----------------------------------------------------------------------------------------

    async def recall(self, patience: float) -> Recall:
        """What is recorded. Raises Unreachable if the database stays away for so many seconds; Rejected."""
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        async with session(self._url, self._seconds) as it:
                            await migrate(it)
                            return await it.do(recall(it.connection))
                    except Unreachable as error:
                        self._failed(error)
                    await asyncio.sleep(self._backoff[0])
        except TimeoutError as error:
            raise Unreachable("postgres", f"nothing could be read in {patience:g} s") from error

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes for ever."""
        while True:
            while self._writer is None:
                await self._woken()
            try:
                async with session(self._url, self._seconds) as it:
                    await migrate(it)
                    await self._follow(it)
            except GalacticError as error:
                self._failed(error)
            finally:
                self._metrics.connected.set(0)
            await asyncio.sleep(self._pause * random.uniform(0.7, 1.3))
            self._pause = min(self._pause * 2, self._backoff[1])

    async def _follow(self, it: Session) -> None:
        """Writes what is due, until something fails."""
        while True:
            writer = self._writer
            if writer is None:
                await self._woken()
            elif self._compare:
                await self._compared(it, writer)
            elif self._flight or self._backlog.items:
                await self._written(it, writer)
            elif not await self._woken(self._pausing):
                await self._idled(it)

    def _succeeded(self) -> None:
        self._pause = self._backoff[0]
        self._problem(None)
        self._metrics.connected.set(1)

    async def _written(self, it: Session, writer: Writer) -> None:
        if not self._flight:
            if self._backlog.items < BATCH_ITEMS:
                await asyncio.sleep(self._linger)
            self._flight = self._backlog.first()
            if not self._flight:
                return
            self._sequence += 1
        flight = self._flight
        try:
            await it.do(write(it.connection, writer, self._sequence, flight, self._revision))
        except Outdated:
            log.warning("the database is not as it was left, comparing it")
            self._start_over()
            return
        except Deposed:
            self._start_over()
            raise
        self._succeeded()
        self._metrics.commits.inc()
        self._metrics.items.inc(sum(map(len, flight)))
        if self._flight is flight:
            self._backlog.done(flight)
            self._flight = []

    async def _compared(self, it: Session, writer: Writer) -> None:
        tables = self._table.tables()
        at = self._backlog.now()
        self._compare = False  # from here on changes are noted again
        self._backlog.clear()
        self._flight, self._missed = [], 0
        try:
            state = await _state(tables)
            self._sequence += 1
            request = compare(it.connection, writer, self._sequence, state, at, self._revision)
            differed = await it.do(request, COMPARISON_SECONDS)
        except BaseException:
            self._start_over()
            raise
        if not self._compare:
            self._behind = None
        self._succeeded()
        self._metrics.commits.inc()
        self._metrics.comparisons.inc()
        self._metrics.corrections.inc(differed)
        log.info("database compared", networks=len(state.held), differed=differed, term=writer.term)

    async def _idled(self, it: Session) -> None:
        if self._retention and time.monotonic() >= self._retire_at:
            gone = await it.do(retire(it.connection, self._retention))
            self._metrics.retired.inc(gone)
            if gone < BATCH:
                self._retire_at = time.monotonic() + RETIRE_SECONDS
            else:
                self._wake.set()
            return
        await it.do(_alive(it))
        self._succeeded()

    def _start_over(self, behind: datetime | None = None) -> None:
        """There is nothing to continue from."""
        self._compare = True
        self._behind = self._behind or behind or self._backlog.oldest or datetime.now(UTC)
        self._missed += self._backlog.items
        self._backlog.clear()
        self._flight = []
        self._wake.set()

    def _failed(self, error: GalacticError) -> None:
        if isinstance(error, Deposed):
            self.outranked(error.term)
        reason = type(error).__name__ if not isinstance(error, Rejected) else error.reason
        self._metrics.failures.labels(reason).inc()
        self._problem(str(error))
        log.warning("not written to the database", error=str(error), items=self._lag_items())

    async def _woken(self, seconds: float | None = None) -> bool:
        """Waits for something to do, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _lag_seconds(self) -> float:
        since = self._behind or self._backlog.oldest
        if self._writer is None or since is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - since).total_seconds())

    def _lag_items(self) -> float:
        return float(self._missed if self._compare else self._backlog.items)


async def _state(tables: Mapping[int, VpcTable]) -> State:
    """The tables, network by network. They are as they were when asked for, however long this takes."""
    held: dict[Key, Held] = {}
    endpoints: dict[Identity, EndpointPath] = {}
    for vpc, table in tables.items():
        for who, claim in table.endpoints.items():
            endpoints[Identity(who.cluster, vpc, who.function)] = claim
            if len(endpoints) % TURN == 0:
                await asyncio.sleep(0)
        for network, route in table.routes.items():
            has = table.endpoints.get(Holder(route.cluster, int(route.function, 16)))
            held[Key(vpc, network)] = held_by(route, has.attachment if has else "")
            if len(held) % TURN == 0:
                await asyncio.sleep(0)
    return State(held, endpoints)


async def _alive(it: Session) -> None:
    await it.connection.execute("SELECT 1")

"""The task that keeps the database equal to the tables, with their history, while this router leads.

``committed`` notes what a commit of the tables changed and returns; ``run`` writes it, in order, a batch a
transaction. While the database is unreachable the backlog grows up to its limit. Where there is nothing to continue
from (a router that begins to lead, a backlog that was given up, a restored database) the tables are compared with the
database instead.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.router.database.backlog import BATCH as BATCH_ITEMS
from galactic.router.database.backlog import (
    LIMIT,
    Backlog,
    HistoryEntry,
    NetworkOwner,
    VpcNetwork,
    owner_of,
)
from galactic.router.database.metrics import DatabaseMetrics
from galactic.router.database.migration import migrate
from galactic.router.database.restore import RecordedState, recorded_state
from galactic.router.database.retention import BATCH, delete_old
from galactic.router.database.session import Session, session
from galactic.router.database.transactions import (
    BatchId,
    Deposed,
    Leader,
    Outdated,
    TableState,
    compare,
    write,
)
from galactic.router.rib.path import EndpointPath, Holder, Identity
from galactic.router.rib.table import VpcTable
from galactic.router.rib.vpc_tables import Commit

log = structlog.get_logger(__name__)
RETENTION_SECONDS: Final = 3600.0
"""Time between two rounds of deleting old periods."""
RESTORE_PAUSE_SECONDS: Final = 1.0
"""The longest pause between two attempts to read what a starting router waits for."""
COMPARISON_SECONDS: Final = 600.0
TURN: Final = 2_000
"""Networks handled before other tasks of the process get a turn."""


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """The database, the name under which a router writes, and how. Times are in seconds."""

    url: str
    replica: str
    retention_days: float = 0
    """0: for ever."""
    usage_days: float = 0
    """For which the usage of a day is kept; 0: for ever."""
    backlog: int = LIMIT
    """Items kept while the database is unreachable."""
    linger: float = 0.1
    """From a change to its transaction, which further changes within this time share."""
    backoff: tuple[float, float] = (0.2, 10.0)
    """The shortest and the longest pause between two attempts."""
    transaction: float = 60.0
    """The longest time of one transaction."""
    idle: float = 10.0
    """Time between two checks of an idle connection."""


class TableSource(Protocol):
    """The tables to write down; ``galactic.router.rib.vpc_tables.VpcTables``."""

    def snapshot(self) -> Mapping[int, VpcTable]: ...

    def best_path(self, attachment: Identity) -> EndpointPath | None: ...


class HistoryWriter:
    """One router's side of the database. Only ``run`` and ``recorded_state`` wait."""

    def __init__(
        self,
        settings: HistorySettings,
        source: TableSource,
        metrics: DatabaseMetrics,
        revision: Callable[[int], int],
        report: Callable[[str | None], None],
    ) -> None:
        """``revision`` of a VPC's table as published. ``report`` is called with a problem of the database, or None."""
        self._settings, self._source, self._metrics = settings, source, metrics
        self._revision, self._report = revision, report
        self.outranked: Callable[[int], None] = lambda _term: None
        """Called with a term that the database has seen and this router's term is not above."""
        self._backlog = Backlog(settings.backlog)
        self._backoff = Backoff(*settings.backoff)
        self._leader: Leader | None = None
        self._compare = True
        self._behind: datetime | None = None  # since when a comparison is pending or under way
        self._missed = 0
        self._inflight: list[HistoryEntry] = []
        self._sequence = 0
        self._wake = asyncio.Event()
        self._retention_at = 0.0
        metrics.lag(self._lag_seconds, self._lag_items)

    # -- calls of the router -----------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """The router leads from now on, in that term: its tables are written."""
        leader = Leader(term, self._settings.replica)
        if self._leader != leader:
            self._leader = leader
            self._start_over()

    def resign(self) -> None:
        """The router leads no more: nothing is written."""
        self._leader = None
        self._start_over()

    def committed(self, commit: Commit) -> None:
        """The tables changed."""
        if self._leader is None or not (commit.routes or commit.touched):
            return
        if self._compare:
            self._missed += len(commit.touched) + sum(map(len, commit.routes.values()))
            return  # the comparison will find it in the tables
        owners: dict[VpcNetwork, NetworkOwner | None] = {}
        for vpc, changed in commit.routes.items():
            for network, route in changed.set.items():
                path = self._source.best_path(Identity(route.cluster, vpc, int(route.function, 16)))
                owners[VpcNetwork(vpc, network)] = owner_of(route, path.attachment if path else "")
            owners.update({VpcNetwork(vpc, network): None for network in changed.delete})
        endpoints = {identity: self._source.best_path(identity) for identity in commit.touched}
        oldest = self._backlog.oldest
        if lost := self._backlog.put(HistoryEntry(self._backlog.now(), owners, endpoints)):
            self._metrics.lost.inc(lost)
            log.error("backlog of the database full, the history gets a gap", lost=lost, since=oldest)
            self._start_over(oldest)
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not (self._compare or self._behind or self._inflight or self._backlog.items)

    async def recorded_state(self, patience: float) -> RecordedState:
        """The state that the database has. Raises Unreachable if it stays unreachable for ``patience`` seconds;
        Rejected.
        """
        backoff = Backoff(self._settings.backoff[0], RESTORE_PAUSE_SECONDS)
        try:
            async with asyncio.timeout(patience):
                while True:
                    try:
                        async with session(self._settings.url, self._settings.transaction) as database:
                            await migrate(database)
                            return await database.do(recorded_state(database.connection))
                    except Unreachable as error:
                        self._failed(error)
                    await asyncio.sleep(backoff.pause())
        except TimeoutError as error:
            raise Unreachable("postgres", f"nothing could be read in {patience:g} s") from error

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            while self._leader is None:
                await self._woken()
            try:
                async with session(self._settings.url, self._settings.transaction) as database:
                    await migrate(database)
                    await self._follow(database)
            except GalacticError as error:
                self._failed(error)
            finally:
                self._metrics.connected.set(0)
            await asyncio.sleep(self._backoff.pause())

    async def _follow(self, database: Session) -> None:
        """Writes over one connection, until something fails."""
        while True:
            leader = self._leader
            if leader is None:
                await self._woken()
            elif self._compare:
                await self._compare_tables(database, leader)
            elif self._inflight or self._backlog.items:
                await self._write_batch(database, leader)
            elif not await self._woken(self._settings.idle):
                await self._idle_round(database)

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        self._report(None)
        self._metrics.connected.set(1)

    async def _write_batch(self, database: Session, leader: Leader) -> None:
        if not self._inflight:
            if self._backlog.items < BATCH_ITEMS:
                await asyncio.sleep(self._settings.linger)
            self._inflight = self._backlog.first()
            if not self._inflight:
                return
            self._sequence += 1
        inflight = self._inflight
        own = BatchId(leader, self._sequence)
        try:
            await database.do(write(database.connection, own, inflight, self._revision))
        except Outdated:
            log.warning("database is not as this router left it, comparing tables")
            self._start_over()
            return
        except Deposed:
            self._start_over()
            raise
        self._succeeded()
        self._metrics.commits.inc()
        self._metrics.items.inc(sum(map(len, inflight)))
        if self._inflight is inflight:
            self._backlog.done(inflight)
            self._inflight = []

    async def _compare_tables(self, database: Session, leader: Leader) -> None:
        tables = self._source.snapshot()
        at = self._backlog.now()
        self._compare = False  # from here on changes are noted again
        self._backlog.clear()
        self._inflight, self._missed = [], 0
        try:
            state = await _state(tables, at)
            self._sequence += 1
            own = BatchId(leader, self._sequence)
            request = compare(database.connection, own, state, self._revision)
            differed = await database.do(request, COMPARISON_SECONDS)
        except BaseException:
            self._start_over()
            raise
        if not self._compare:
            self._behind = None
        self._succeeded()
        self._metrics.commits.inc()
        self._metrics.comparisons.inc()
        self._metrics.corrections.inc(differed)
        log.info("database compared", networks=len(state.owners), differed=differed, term=leader.term)

    async def _idle_round(self, database: Session) -> None:
        """Deletes old periods from time to time, and checks the connection."""
        if self._settings.retention_days and time.monotonic() >= self._retention_at:
            deleted = await database.do(delete_old(database.connection, self._settings.retention_days))
            self._metrics.retired.inc(deleted)
            if deleted < BATCH:
                self._retention_at = time.monotonic() + RETENTION_SECONDS
            else:
                self._wake.set()
            return
        await database.do(_ping(database))
        self._succeeded()

    def _start_over(self, behind: datetime | None = None) -> None:
        """Discards what is queued: the next transaction compares the database with the tables."""
        self._compare = True
        self._behind = self._behind or behind or self._backlog.oldest or datetime.now(UTC)
        self._missed += self._backlog.items
        self._backlog.clear()
        self._inflight = []
        self._wake.set()

    def _failed(self, error: GalacticError) -> None:
        if isinstance(error, Deposed):
            self.outranked(error.term)
        reason = type(error).__name__ if not isinstance(error, Rejected) else error.reason
        self._metrics.failures.labels(reason).inc()
        self._report(str(error))
        log.warning("database write failed", error=str(error), items=self._lag_items())

    async def _woken(self, seconds: float | None = None) -> bool:
        """Waits for something to do. False after ``seconds`` without."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _lag_seconds(self) -> float:
        since = self._behind or self._backlog.oldest
        if self._leader is None or since is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - since).total_seconds())

    def _lag_items(self) -> float:
        return float(self._missed if self._compare else self._backlog.items)


async def _state(tables: Mapping[int, VpcTable], at: datetime) -> TableState:
    """The tables, network by network. ``tables`` does not change meanwhile, however long this takes."""
    owners: dict[VpcNetwork, NetworkOwner] = {}
    endpoints: dict[Identity, EndpointPath] = {}
    for vpc, table in tables.items():
        for holder, path in table.endpoints.items():
            endpoints[Identity(holder.cluster, vpc, holder.function)] = path
            if len(endpoints) % TURN == 0:
                await asyncio.sleep(0)
        for network, route in table.routes.items():
            holding = table.endpoints.get(Holder(route.cluster, int(route.function, 16)))
            owners[VpcNetwork(vpc, network)] = owner_of(route, holding.attachment if holding else "")
            if len(owners) % TURN == 0:
                await asyncio.sleep(0)
    return TableState(owners, endpoints, at)


async def _ping(database: Session) -> None:
    await database.connection.execute("SELECT 1")

"""Carries out the state machine of leadership (``state_machine``): events in, actions done, in order and at once.

An action that only sets something (the gate, the phase) is done before the next message is handled. Publishing the
claim, adopting the tables and leading are tasks of one claim, and end with it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine
from typing import Final, NamedTuple

import structlog

from galactic.backoff import Backoff
from galactic.errors import Rejected
from galactic.messages import Leader, decode
from galactic.router.egress.retained import Retained
from galactic.router.egress.revisions import milliseconds, plausible
from galactic.router.ingress.snapshot_reader import SnapshotReader
from galactic.router.leader.election import Election
from galactic.router.leader.gate import Gate
from galactic.router.leader.reign import Reign
from galactic.router.leader.state_machine import (
    Action,
    AdoptTables,
    AskElectionAgain,
    BrokerRead,
    ClaimConfirmed,
    CloseGate,
    DatabaseAhead,
    Elected,
    Event,
    LeaderPublished,
    NotElected,
    OpenGate,
    Phase,
    PublishClaim,
    ReadBroker,
    ReportRival,
    Rested,
    SessionBegan,
    SessionEnded,
    StandDown,
    State,
    TablesAdopted,
    TermKnown,
    transition,
)
from galactic.router.rib.vpc_tables import Commit

log = structlog.get_logger(__name__)
CONTESTED_SECONDS: Final = (0.5, 60.0)
"""Pauses of a router that its election chooses and that another one deposes each time: the routers of two clusters
that share a broker by mistake."""
LASTING_SECONDS: Final = 60.0
"""A claim that lasted longer was not contested."""


class TableMessage(NamedTuple):
    """A message about a table, by the levels of its topic below the base."""

    parts: tuple[str, ...]
    payload: bytes


class Leadership:
    """Of one router among several."""

    def __init__(
        self, replica: str, election: Election, gate: Gate, reader: SnapshotReader, reign: Reign
    ) -> None:
        self.state = State(replica)
        self._election, self._gate, self._reader, self._reign = election, gate, reader, reign
        self._backoff = Backoff(*CONTESTED_SECONDS)
        self._first_read: asyncio.Queue[Retained] = asyncio.Queue(1)
        self._retained: Retained | None = None  # the last snapshot, until the tables are adopted from it
        self._deferred: list[
            TableMessage | Retained
        ] = []  # messages that arrive while the tables are being adopted
        self._events: deque[Event] = deque()
        self._handling = False
        self._tasks: asyncio.TaskGroup | None = None
        self._work: set[asyncio.Task[None]] = set()  # of the claim
        self._unpublished = asyncio.Event()
        self._claimed_at = 0.0

    async def run(self) -> None:
        """For ever: stands by, claims, leads. A leader that is cancelled publishes that it has gone."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._election.run(self._chosen), name="election")
        finally:
            await self._go()

    @property
    def leads(self) -> bool:
        """Whether the tables in force are this router's."""
        return self.state.phase is Phase.LEADING

    @property
    def term(self) -> int:
        """The term in which this router leads; 0: it stands by."""
        return self.state.term if self.leads else 0

    async def first_read(self) -> Retained:
        """The snapshot that was read from the broker first. For one caller."""
        return await self._first_read.get()

    def committed(self, commit: Commit) -> None:
        """The tables changed: a leader publishes that."""
        if self.leads:
            self._reign.committed(commit)

    async def _go(self) -> None:
        """The broker publishes no Last Will after a clean end: nodes learn by this that no router leads."""
        if self.state.claim is not None:
            await self._gate.leave(self.state.replica)

    # -- events ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Advances the state machine and carries out the actions. An event that one of them causes comes after them."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self.state, actions = transition(self.state, self._events.popleft())
                for action in actions:
                    self._do(action)
        finally:
            self._handling = False

    def session_began(self) -> None:
        """The broker accepted a connection."""
        self._gate.session_began()
        self.handle(SessionBegan())

    def session_ended(self, reason: str) -> None:
        """The connection to the broker broke, or none can be made."""
        self._gate.session_ended(reason)
        self._reader.end()
        self.handle(SessionEnded())

    def arrived(self, parts: tuple[str, ...], payload: bytes, *, retained: bool) -> None:
        """A message on a topic that only routers write, this one's own included. Raises Rejected."""
        if not retained and parts == ("router", "leader"):
            self._leader_arrived(payload)
        elif not retained and parts[:1] == ("vpcs",) and len(parts) > 2:
            self._table_arrived(TableMessage(parts, payload))
        self._reader.arrived(parts, payload)

    def term_known(self, term: int) -> None:
        """Some router had this term: claims are above it."""
        if plausible(term):
            self.handle(TermKnown(term))

    def database_ahead(self, term: int) -> None:
        """The database refuses what this router writes, because it has seen this term."""
        if plausible(term):
            self.handle(DatabaseAhead(term, time.monotonic()))

    def _chosen(self, may: bool) -> None:
        self.handle(Elected(milliseconds(), self._election.owner) if may else NotElected())

    def _leader_arrived(self, payload: bytes) -> None:
        leader = None
        if payload:
            try:
                leader = decode(Leader, payload)
            except Rejected as error:
                log.warning("claim cannot be decoded", error=str(error))
        self.handle(LeaderPublished(leader if leader and plausible(leader.term) else None))

    def _table_arrived(self, message: TableMessage) -> None:
        match self.state.phase:
            case Phase.ADOPTING:
                self._deferred.append(message)
            case Phase.LEADING:
                self._reign.received(*message)
            case _:
                self._reign.overheard(*message)

    def _broker_read(self, retained: Retained) -> None:
        log.info("broker read", vpcs=len(retained.tables))
        if not self._first_read.full():
            self._first_read.put_nowait(retained)
        self._compare(retained)
        self._retained = retained
        self.handle(BrokerRead(retained.leader))
        if self.state.phase is Phase.STANDBY and self.state.elected:
            self._chosen(True)  # with a cluster, a claim waits for this
        if self.state.phase is not Phase.CLAIMING:
            self._retained = None  # large, and needed no more

    def _compare(self, retained: Retained) -> None:
        if self.state.phase is Phase.ADOPTING:
            self._deferred.append(retained)
        elif self.leads:
            self._reign.compare(retained)

    # -- actions -----------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        match action:
            case PublishClaim(claim):
                self._unpublished.set()
                if not self._work:
                    log.info("claiming to lead", term=claim.term)
                    self._claimed_at = time.monotonic()
                    self._start(self._publish(claim))
            case ReadBroker():
                self._reader.read(self._broker_read)
            case AdoptTables(claim):
                assert self._retained is not None
                self._start(self._lead(claim, self._retained))
            case OpenGate():
                self._gate.open()
            case CloseGate():
                self._gate.close()
            case ReportRival(rival):
                self._gate.report(rival)
            case StandDown():
                self._stand_down(action)
            case AskElectionAgain():
                self._election.deposed()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        assert self._tasks is not None  # one that does not run is not elected
        self._work.add(self._tasks.create_task(work))

    async def _publish(self, claim: Leader) -> None:
        """Publishes the claim whenever the broker does not have it."""
        while True:
            await self._unpublished.wait()
            self._unpublished.clear()
            await self._gate.publish(claim)
            self.handle(ClaimConfirmed(claim))

    async def _lead(self, claim: Leader, retained: Retained) -> None:
        log.info("adopting the tables", term=claim.term)
        async with self._reign.adopted(retained):
            self._reign.begin(claim.term)
            self.handle(TablesAdopted(claim))
            self._replay()
        del retained  # large, and needed no more
        log.info("leading", term=claim.term)
        await self._reign.lead()

    def _replay(self) -> None:
        """Handles the messages that arrived while the tables were being adopted, as if they arrived now."""
        deferred, self._deferred = self._deferred, []
        for item in deferred:
            if isinstance(item, Retained):
                self._compare(item)
                continue
            with contextlib.suppress(Rejected):  # counted, and overwritten, all the same
                self._table_arrived(item)

    def _stand_down(self, action: StandDown) -> None:
        leader = action.leader
        other = {"leader": leader.id, "leader_term": leader.term} if leader else {}
        log.warning(action.cause.value, term=action.claim.term, **other)
        work, self._work = self._work, set()
        for task in work:
            task.cancel()
        self._reign.end()
        self._replay()
        if time.monotonic() - self._claimed_at > LASTING_SECONDS:
            self._backoff.succeeded()
        assert self._tasks is not None
        self._tasks.create_task(self._rest(work))

    async def _rest(self, work: set[asyncio.Task[None]]) -> None:
        """Waits for the work of the last claim to end, and then for a while."""
        await asyncio.wait(work)
        await asyncio.sleep(self._backoff.pause())
        self.handle(Rested(milliseconds()))

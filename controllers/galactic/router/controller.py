"""The router as one coroutine: starts its parts, and decides when the view is complete enough to act on.

Until the API server's lists are in (in Kubernetes) and the broker has replayed what it retains, nothing is published:
what has not been seen yet must not be withdrawn. From then on every change of the store is committed at once.

Of several replicas one leads (``leadership``). A standby does all that the leader does but publish, record and
announce: it commits what it hears, so that its tables are warm, and keeps what the leader told and has not packed.
When it comes to lead, the tables in force are not its own but what is retained, and the difference is what it tells.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import IPv6Network
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.diff import Diff
from galactic.errors import GalacticError, Rejected
from galactic.kube.client import Kube
from galactic.launch import Health
from galactic.messages import Leader, Route, Topics
from galactic.router.database.history_writer import HistoryWriter
from galactic.router.database.recall import placed
from galactic.router.egress.fanout import Fanout
from galactic.router.egress.retained import Retained, Told
from galactic.router.ingress.inbox import Inbox
from galactic.router.ingress.liveness import Silence
from galactic.router.ingress.rejections import RejectionLog
from galactic.router.kubernetes.attachment_events import AttachmentEvents
from galactic.router.kubernetes.reflectors import Reflectors
from galactic.router.kubernetes.status_writer import StatusWriter, sentence
from galactic.router.leader.election import Alone, Election
from galactic.router.leader.leadership import Leadership
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.import_policy import OPEN, AdmissionsFile, Policy
from galactic.router.rib.networks import Network
from galactic.router.rib.path import Identity, NodeRef, Rejection
from galactic.router.rib.store import Commit, Store
from galactic.settings import RouterSettings
from galactic.srv6 import parse_sid

log = structlog.get_logger(__name__)
HORIZON_NS: Final = 24 * 3600 * 1_000_000_000
"""How far ahead of our clock a new epoch is believed."""
RECALL_SECONDS: Final = 30.0
"""How long a router that finds an empty broker waits for the database before it starts from nothing."""
TAKE_IN: Final = 200
"""Endpoints that are checked in one turn of the loop, or those of one node: some 10 ms."""
SETTLE: Final = 300
"""Attachments and networks that a commit looks at in one turn of the loop, and tells of."""
TICK_SECONDS: Final = 30.0
"""An epoch that was too far ahead is looked at again that often."""


class Controller:
    """One router. ``kube`` None: standalone."""

    def __init__(
        self,
        settings: RouterSettings,
        bus: Bus,
        kube: Kube | None,
        *,
        replica: str,
        metrics: RouterMetrics,
        health: Health,
        admissions: AdmissionsFile | None = None,
        election: Election | None = None,
        database: Callable[[Store, Callable[[int], int]], HistoryWriter] | None = None,
    ) -> None:
        """``election`` None: there are no other replicas. ``database`` is given the store and a VPC's revision."""
        self._bus, self._replica, self._metrics, self._health = bus, replica, metrics, health
        self._topics = Topics(settings.mqtt_base)
        self._complete = False  # whether the tables that were told are taken over: this router leads
        self._aside: list[Callable[[], None]] | None = None  # what was heard while they are being taken over
        self._dirty = asyncio.Event()
        self._table = asyncio.Lock()  # held from the first part of a commit to the last
        self._read = asyncio.Event()
        self._retained, self._told = Retained(), Told()
        self._admissions, self._rejections = admissions, RejectionLog()
        policy = admissions.policy if admissions else OPEN if kube is not None else Policy()
        self.store = Store(self._dirty.set, checked=kube is not None, policy=policy)
        metrics.admissions(valid=True)
        metrics.counting(lambda: self.store.counts)
        self.fanout = Fanout(bus, self._topics, metrics)
        self._chronicle = database(self.store, self.fanout.revision) if database else None
        self._inbox = Inbox(
            bus,
            self._topics,
            replica,
            self.store,
            metrics,
            view=self._view,
            connection=self._broker,
            prefixes=kube is None,
            space=settings.srv6_block,
            own=self._heard,
            state=self._state,
        )
        self._leadership = Leadership(
            election or Alone(),
            replica,
            metrics,
            publish=self._claim,
            read=self._inbox.reread,
            gate=self.fanout.open,
            begins=self._waits,
            reign=self._reign,
        )
        self._silence = Silence(settings.withdraw_after, self.store.silence, self.store.absent)
        self._watching: Reflectors | None = None
        if kube is not None:
            self._watching = Reflectors(
                kube,
                settings.cluster,
                self.store,
                metrics,
                changed=self._attachment_changed,
                connection=lambda problem: health.set("kube-apiserver", problem),
            )
            self._recorder = StatusWriter(
                kube, self._watching, self.store, metrics, revision=self.fanout.revision
            )
            self._announcer = AttachmentEvents(kube, self._watching)
        if self._chronicle is not None:
            self._chronicle.outranked = self._leadership.outranked
        health.set("view", "waiting for what is retained and listed")

    async def run(self) -> None:
        """Routes for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._inbox.run(), name="inbox")
            if self._watching is not None:
                tasks.create_task(self._watching.run(), name="watching")
            if self._admissions is not None:
                changes = self._admissions.run(
                    self.store.admit, lambda problem: self._metrics.admissions(valid=problem is None)
                )
                tasks.create_task(changes, name="admissions")
            await self._seen()
            await self._hold(
                await self._recalled()
                or {vpc: found.routes() for vpc, found in self._retained.tables.items()}
            )
            await self._take_in()  # not before: who holds a prefix decides who is given it
            self._retained = Retained()
            self._health.set("view", None)
            tasks.create_task(self._leadership.run(), name="leadership")
            tasks.create_task(self._silence.run(), name="silence")
            if self._chronicle is not None:
                tasks.create_task(self._chronicle.run(), name="chronicle")
            await self._commits()

    @property
    def term(self) -> int:
        """The term in which this router leads; 0: it stands by."""
        return self._leadership.term if self._complete else 0

    def told(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC: as they are told, or (revision 0) as a standby would."""
        return self.fanout.told(vpc) if self._complete else (0, self.store.routes(vpc))

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that there may be a table of."""
        return self.fanout.vpcs if self._complete else self.store.vpcs

    @property
    def idle(self) -> bool:
        """Whether this router leads and everything that is known is told, packed and confirmed."""
        return self._complete and not self._dirty.is_set() and not self._table.locked() and self.fanout.idle

    # -- the first view ----------------------------------------------------------------------------------------------

    async def _seen(self) -> None:
        if self._watching is not None:
            await self._watching.synced()
        await self._read.wait()

    async def _recalled(self) -> Mapping[int, Mapping[Network, Route]]:
        """An empty broker knows of no table: the database does, and what nodes said that have not spoken yet."""
        if self._watching or self._chronicle is None or self._retained.tables or self._retained.leader:
            return {}
        self._health.set("view", "the broker is empty; waiting for the database")
        try:
            found = await self._chronicle.recall(RECALL_SECONDS)
        except GalacticError as error:
            log.warning("starting from nothing: the broker is empty, and the database away", error=str(error))
            return {}
        placed(self.store, found)
        self._leadership.above(found.term)
        log.info("recalled from the database", nodes=len(found.endpoints), vpcs=len(found.routes))
        return found.routes

    async def _hold(self, told: Mapping[int, Mapping[Network, Route]]) -> dict[int, Diff[Network, Route]]:
        """The tables in force: as they were told, and where the broker knows nothing, as they are recorded.

        Returns the latter, which nobody was told.
        """
        held = {vpc: dict(routes) for vpc, routes in told.items()}
        untold: dict[int, Diff[Network, Route]] = {}
        if self._watching is not None:
            for number, (vpc, route) in enumerate(self._watching.recorded()):
                network, known = Network(route.network), held.setdefault(vpc, {})
                if network not in known:
                    known[network] = route
                    untold.setdefault(vpc, Diff({}, {})).set[network] = route
                if number % SETTLE == SETTLE - 1:
                    await asyncio.sleep(0)
        elif self._inbox.unplaced:
            self._place(held)
        for _ in self.store.resuming(held):
            await asyncio.sleep(0)
        return untold

    def _place(self, held: Mapping[int, Mapping[Network, Route]]) -> None:
        """A node that is offline does not say its prefix (its Last Will cannot): the routes in force do."""
        for routes in held.values():
            for route in routes.values():
                origin = NodeRef(route.cluster, route.node)
                if origin in self._inbox.unplaced and route.segments:
                    try:
                        locator = parse_sid(route.segments[0]).locator << 64
                    except Rejected:
                        continue
                    self._inbox.unplaced.discard(origin)
                    self.store.prefixed(origin, IPv6Network((locator, 64)))

    def _view(self, retained: Retained) -> None:
        """A session began, or is read again, and this is what the broker retains."""
        log.info("read what the broker retains", vpcs=len(retained.tables))
        if not self._read.is_set():
            self._retained = retained
            self._read.set()
        if self._aside is not None:
            self._aside.append(lambda: self._compare(retained))
        else:
            self._compare(retained)
        self._leadership.viewed(retained)

    def _compare(self, retained: Retained) -> None:
        if self._complete:
            self.fanout.compare(retained)

    def _heard(self, parts: tuple[str, ...], payload: bytes) -> None:
        """Somebody published on a router's topic."""
        if parts == ("router", "leader"):
            self._leadership.heard(payload)
        elif parts[:1] == ("vpcs",) and len(parts) > 2:
            if self._aside is not None:
                self._aside.append(lambda: self._heard(parts, payload))
            else:
                (self.fanout.heard if self._complete else self._told.take)(parts, payload)

    def _state(self, origin: NodeRef, online: bool) -> None:
        self._silence.said(origin, online)

    def _broker(self, problem: str | None) -> None:
        self.fanout.connected(problem is None)
        if problem is not None:
            self._leadership.lost()
        self._health.set("mqtt", problem)

    # -- leading -----------------------------------------------------------------------------------------------------

    async def _claim(self, leader: Leader) -> None:
        await self.fanout.publish(self._topics.leader, leader, retain=True)

    async def _reign(self, retained: Retained) -> None:
        """Tells, packs, records and announces, for as long as this router leads."""
        try:
            await self._adopt(retained)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.fanout.run(), name="fanout")
                if self._watching is not None:
                    tasks.create_task(self._recorder.run(), name="recorder")
                    tasks.create_task(self._announcer.run(), name="announcer")
        finally:
            self._complete = False
            if self._chronicle is not None:
                self._chronicle.resign()

    async def _adopt(self, retained: Retained) -> None:
        """From the tables as they were told by whoever led before to those that follow from what the nodes say.

        Others get their turns meanwhile, but nothing is told yet, nothing else committed, and what is heard on the
        router's topics since they were read waits until it is over: as if it had arrived then.
        """
        try:
            async with self._table:
                told = self.fanout.adopt(retained, self._told)
                changed = await self._hold(told)
                self.fanout.due(changed)
                count = sum(map(len, changed.values()))
                async for commit in self._settled():
                    self.fanout.due(commit.routes)
                    count += sum(map(len, commit.routes.values()))
                self._told, self._complete = Told(), True
                if self._chronicle is not None:
                    self._chronicle.lead(self.term)
                if self._watching is not None:
                    self._announcer.due(self.store.rejections())
                    self._recorder.restart(self._watching.names())
                log.info("view complete", vpcs=len(told.keys() | self.store.vpcs), changed=count)
        finally:
            self._waits(False)

    def _waits(self, waits: bool) -> None:
        """Whether what is heard on the router's topics is to wait. When it need not any more, it is dealt with."""
        aside, self._aside = self._aside, [] if waits else None
        for heard in aside or ():
            with contextlib.suppress(Rejected):  # counted, and put right, as if it had just been said
                heard()

    def _attachment_changed(self, name: str) -> None:
        if self._complete:
            self._recorder.seen(name)

    # -- commits -----------------------------------------------------------------------------------------------------

    async def _commits(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._dirty.wait()
            except TimeoutError:
                pass
            async with self._table:
                async for commit in self._settled():
                    if self._complete:
                        self.fanout.due(commit.routes, more=commit.more)
                        self._record(commit)
                        if self._chronicle is not None:
                            self._chronicle.due(commit)

    async def _take_in(self) -> None:
        """Most of the work of a commit after which much is new, with turns for others in between."""
        while self.store.take_in(TAKE_IN):  # noqa: ASYNC110 - a turn, not an event
            await asyncio.sleep(0)

    async def _settled(self) -> AsyncIterator[Commit]:
        """What follows from what has been said by now, in parts that are right each, with turns in between."""
        await self._take_in()
        self._dirty.clear()
        more, seconds = True, 0.0
        rejections: list[Rejection] = []
        while more:
            started = time.perf_counter()
            commit = self.store.commit(time.time_ns() + HORIZON_NS, SETTLE)
            seconds += time.perf_counter() - started
            rejections += commit.rejections
            yield commit
            if more := commit.more:
                await asyncio.sleep(0)
        self._metrics.committed(seconds, rejections)
        if self.store.unsettled:  # what was said meanwhile, or before somebody else's commit was broken off
            self._dirty.set()

    def _record(self, commit: Commit) -> None:
        if self._watching is None:
            self._rejections.note((*commit.rejections, *self._conflicts(commit.touched)))
            return
        names = [name for identity in commit.touched if (name := self._watching.name(identity))]
        self._recorder.due(names)
        self._announcer.due((*commit.rejections, *self._conflicts(commit.touched)))

    def _conflicts(self, touched: frozenset[Identity]) -> list[Rejection]:
        claims = [claim for identity in touched if (claim := self.store.endpoint(identity))]
        return [
            Rejection(claim.origin, claim.attachment, "Conflict", sentence(conflict))
            for claim in claims
            for conflict in self.store.conflicts(claim)
        ]

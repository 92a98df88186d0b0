"""The router as one coroutine: starts its parts, and decides when the view is complete enough to act on.

Until the API server's lists are in (in Kubernetes) and the broker has replayed what it retains, nothing is published:
what has not been seen yet must not be withdrawn. From then on every change of the store is committed at once.

Replicas: this publishes as soon as it sees, as the only router. An election (a Lease, or an advisory lock in Postgres)
belongs into ``_lead``: a standby keeps the store but not ``Fanout.due``, and ``adopt``s what is retained when chosen.
"""

import asyncio
import time
from ipaddress import IPv6Network
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.diff import diff
from galactic.errors import Rejected
from galactic.kube.client import Kube
from galactic.launch import Health
from galactic.messages import Leader, Topics
from galactic.router.admissions import OPEN, AdmissionsFile, Policy
from galactic.router.announcer import Announcer
from galactic.router.claims import Identity, Origin, Rejection
from galactic.router.fanout import Fanout, milliseconds
from galactic.router.inbox import Inbox
from galactic.router.metrics import RouterMetrics
from galactic.router.recorder import Recorder, sentence
from galactic.router.retained import Retained
from galactic.router.store import Commit, Store
from galactic.router.watching import Watching
from galactic.settings import RouterSettings
from galactic.srv6 import parse_sid

log = structlog.get_logger(__name__)
HORIZON_NS: Final = 24 * 3600 * 1_000_000_000
"""How far ahead of our clock a new epoch is believed."""
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
    ) -> None:
        self._bus, self._replica, self._metrics, self._health = bus, replica, metrics, health
        self._topics = Topics(settings.mqtt_base)
        self._dirty = asyncio.Event()
        self._read = asyncio.Event()
        self._retained = Retained()
        self._leader: Leader | None = None
        self._claim = asyncio.Event()
        self._complete = False
        self._admissions = admissions
        policy = admissions.policy if admissions else OPEN if kube is not None else Policy()
        self.store = Store(self._dirty.set, checked=kube is not None, policy=policy)
        metrics.admissions(valid=True)
        metrics.counting(lambda: self.store.counts)
        self.fanout = Fanout(bus, self._topics, metrics)
        self._inbox = Inbox(
            bus,
            self._topics,
            replica,
            self.store,
            metrics,
            view=self._view,
            connection=self._broker,
            prefixes=kube is None,
            space=settings.srv6_space,
        )
        self._watching: Watching | None = None
        if kube is not None:
            self._watching = Watching(
                kube,
                settings.cluster,
                self.store,
                metrics,
                changed=self._attachment_changed,
                connection=lambda problem: health.set("kube-apiserver", problem),
            )
            self._recorder = Recorder(
                kube, self._watching, self.store, metrics, revision=self.fanout.revision
            )
            self._announcer = Announcer(kube, self._watching)
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
            tasks.create_task(self.fanout.run(), name="fanout")
            self._start()
            if self._watching is not None:
                tasks.create_task(self._recorder.run(), name="recorder")
                tasks.create_task(self._announcer.run(), name="announcer")
            tasks.create_task(self._lead(), name="leader")
            await self._commits()

    @property
    def idle(self) -> bool:
        """Whether everything that is known is told, packed and confirmed."""
        return self._complete and not self._dirty.is_set() and self.fanout.idle

    # -- the first view ----------------------------------------------------------------------------------------------

    async def _seen(self) -> None:
        if self._watching is not None:
            await self._watching.synced()
        await self._read.wait()

    def _start(self) -> None:
        """The first tables, and of what is retained only the difference to them."""
        self.fanout.adopt(self._retained)
        for vpc, found in self._retained.tables.items():
            self.store.hold(vpc, found.routes())
        if self._watching is not None:
            for vpc, routes in self._watching.recorded().items():
                self.store.hold(vpc, routes)
        else:
            self._place()
        vpcs = set(self._retained.tables)
        commit = self._commit()
        vpcs |= commit.routes.keys() | self.store.tables().keys()
        told = {vpc: found.routes() for vpc, found in self._retained.tables.items()}
        wanted = {vpc: diff(self.store.routes(vpc), told.get(vpc, {})) for vpc in vpcs}
        self.fanout.due({vpc: changed for vpc, changed in wanted.items() if changed})
        self._record(commit)
        self._retained, self._complete = Retained(), True
        self._health.set("view", None)
        log.info("view complete", vpcs=len(vpcs), changed=sum(map(len, wanted.values())))

    def _place(self) -> None:
        """A node that is offline does not say its prefix (its Last Will cannot): the routes in force do."""
        for found in self._retained.tables.values():
            for route in found.routes().values():
                origin = Origin(route.cluster, route.node)
                if origin in self._inbox.unplaced and route.segments:
                    try:
                        locator = parse_sid(route.segments[0]).locator << 64
                    except Rejected:
                        continue
                    self._inbox.unplaced.discard(origin)
                    self.store.prefixed(origin, IPv6Network((locator, 64)))

    def _view(self, retained: Retained) -> None:
        """A session began, and this is what the broker retains."""
        log.info("read what the broker retains", vpcs=len(retained.tables))
        term = retained.leader.term if retained.leader else 0
        if not self._complete:
            self._retained = retained
            self._leader = Leader(self._replica, max(term + 1, milliseconds()))
            self._read.set()
            return
        self.fanout.compare(retained)
        if self._leader is not None and term > self._leader.term:
            log.error("another router leads", leader=retained.leader)
        elif retained.leader != self._leader:
            self._claim.set()

    def _broker(self, problem: str | None) -> None:
        self.fanout.connected(problem is None)
        self._health.set("mqtt", problem)

    async def _lead(self) -> None:
        """Says who publishes; says it again to a broker that came back without knowing."""
        self._metrics.leading(True)
        while self._leader is not None:
            await self.fanout.publish(self._topics.leader, self._leader, retain=True)
            await self._claim.wait()
            self._claim.clear()

    def _attachment_changed(self, name: str) -> None:
        self._recorder.seen(name)

    # -- commits -----------------------------------------------------------------------------------------------------

    async def _commits(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._dirty.wait()
            except TimeoutError:
                pass
            commit = self._commit()
            self.fanout.due(commit.routes)
            self._record(commit)

    def _commit(self) -> Commit:
        self._dirty.clear()
        started = time.perf_counter()
        commit = self.store.commit(time.time_ns() + HORIZON_NS)
        self._metrics.committed(time.perf_counter() - started, commit.rejections)
        return commit

    def _record(self, commit: Commit) -> None:
        if self._watching is None:
            for rejection in commit.rejections:
                log.warning(
                    "rejected", reason=rejection.reason, node=rejection.origin.node, error=rejection.message
                )
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

"""Publishes the pending changes of all Adj-RIBs-Out until the broker confirms them.

Per VPC one task publishes changes, one after the other, and one packs the retained table; both end when there is
nothing left. While a publish is under way further changes of that VPC are pending in the Adj-RIB-Out, where newer ones
replace older ones, and are the next message: that is debounce, back-pressure and bound on memory in one, and the first
change of an idle VPC is published without delay.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from galactic.diff import Diff
from galactic.errors import Rejected
from galactic.messages import Changes, Route, Topics, encode
from galactic.names import parse_vpc, vpc_hex
from galactic.router.egress.adj_rib_out import AdjRibOut
from galactic.router.egress.change_log import ChangeLog
from galactic.router.egress.foreign import overwritten
from galactic.router.egress.publisher import Publisher
from galactic.router.egress.retained import Retained
from galactic.router.egress.revisions import milliseconds
from galactic.router.log_throttle import LogThrottle
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.networks import Network

log = structlog.get_logger(__name__)
PACK_SECONDS: Final = 0.5
"""From a change to its retained shards. The design allows a second."""
URGENT: Final = 64
"""Changes under way at once, one a VPC."""
BULK: Final = 32
"""Shards under way at once. Separate from the changes, which never wait for them."""
MANY: Final = 100
"""A change that withdraws as many routes, and half of the table with them, is logged."""


class Fanout:
    """The Adj-RIBs-Out of all VPCs. ``run`` publishes; the other methods note changes and never wait."""

    def __init__(
        self,
        publisher: Publisher,
        topics: Topics,
        metrics: RouterMetrics,
        *,
        now: Callable[[], int] = milliseconds,
        pack_seconds: float = PACK_SECONDS,
    ) -> None:
        self._topics, self._metrics, self._now = topics, metrics, now
        self._publisher, self._throttle = publisher, LogThrottle()
        self._pack_seconds = pack_seconds
        self._adj_ribs_out: dict[int, AdjRibOut] = {}
        self._since: dict[int, float] = {}  # when the first pending change came
        self._underway: dict[int, float] = {}  # the same of what is published and not confirmed
        self._publishing: set[int] = set()
        self._packing: set[int] = set()
        self._together: set[int] = set()  # VPCs of changes that more follows
        self._strays: set[tuple[str, ...]] = set()
        self._clearing = False
        self._floor = 0  # the latest revision of a table that is no more
        self._urgent, self._bulk = asyncio.Semaphore(URGENT), asyncio.Semaphore(BULK)
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Publishes for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._wake_all()
                try:
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None  # it takes no more: later changes wait for the next leader
        finally:
            self._tasks, self._clearing = None, False
            self._publishing.clear()
            self._packing.clear()
            self._underway.clear()
            self._metrics.revisions({})

    def enqueue(self, changes: Mapping[int, Diff[Network, Route]], *, more: bool = False) -> None:
        """These routes changed. ``more``: others follow at once, and are published with them."""
        now = self._now()
        for vpc, changed in changes.items():
            self._adj_ribs_out.setdefault(vpc, self._new(vpc)).put(changed, now)
            self._since.setdefault(vpc, time.perf_counter())
        self._together |= changes.keys()
        if not more:
            together, self._together = self._together, set()
            for vpc in together & self._adj_ribs_out.keys():
                self._wake(vpc)
        self._metrics.queued(len(self._since))

    def adopt(self, retained: Retained, changes: ChangeLog) -> dict[int, dict[Network, Route]]:
        """Starts from what the broker retains and the changes since, with nothing pending. Returns the tables so."""
        self._adj_ribs_out = {vpc: AdjRibOut(vpc, table) for vpc, table in retained.tables.items()}
        self._since.clear()
        for vpc, adj_rib_out in self._adj_ribs_out.items():
            adj_rib_out.replay(changes.since(vpc))
        self._strays |= retained.stray
        self._metrics.revisions(
            {adj_rib_out.vpc: adj_rib_out.revision for adj_rib_out in self._adj_ribs_out.values()}
        )
        return {vpc: adj_rib_out.routes() for vpc, adj_rib_out in self._adj_ribs_out.items()}

    def compare(self, retained: Retained) -> None:
        """A broker came back: whatever it does not retain as advertised is published again."""
        for vpc in retained.tables.keys() | self._adj_ribs_out.keys():
            self._adj_ribs_out.setdefault(vpc, self._new(vpc)).compare(retained.tables.get(vpc))
        self._strays |= retained.stray
        self._wake_all()

    def received(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A message below ``vpcs/``: the router's own, or another writer's, which is overwritten. Raises Rejected."""
        topic = "/".join((self._topics.base, *parts))
        if self._publisher.is_own(topic, payload):
            return
        vpc = _vpc(parts[1])
        adj_rib_out = None if vpc is None else self._adj_ribs_out.get(vpc) or self._new(vpc)
        if (
            vpc is None
            or adj_rib_out is None
            or not overwritten(adj_rib_out, parts[2:], payload, self._metrics)
        ):
            if payload:
                self._strays.add(parts)
                self._wake_all()
            raise Rejected(topic, reason="UnknownTopic")
        if times := self._throttle.count(topic):
            log.warning(
                "another writer published on a router topic, overwriting it", topic=topic, times=times
            )
        self._metrics.foreign()
        self._adj_ribs_out.setdefault(vpc, adj_rib_out)
        self._wake(vpc)

    def revision(self, vpc: int) -> int:
        """The revision at which all changes of a VPC so far are advertised, or were; 0: there are none."""
        adj_rib_out = self._adj_ribs_out.get(vpc)
        return adj_rib_out.pending_revision if adj_rib_out else 0

    def advertised(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC as advertised."""
        adj_rib_out = self._adj_ribs_out.get(vpc)
        return (adj_rib_out.revision, adj_rib_out.routes()) if adj_rib_out else (0, {})

    @property
    def vpcs(self) -> frozenset[int]:
        """Those with a table, or with changes of one."""
        return frozenset(self._adj_ribs_out)

    @property
    def idle(self) -> bool:
        """Whether everything is published, packed and confirmed."""
        busy = self._publishing or self._packing or self._strays or self._clearing
        return not (busy or any(not adj_rib_out.idle for adj_rib_out in self._adj_ribs_out.values()))

    def oldest(self) -> float:
        """Seconds since the oldest change came that is not confirmed."""
        waiting = (*self._since.values(), *self._underway.values())
        return time.perf_counter() - min(waiting) if waiting else 0.0

    def _new(self, vpc: int) -> AdjRibOut:
        return AdjRibOut(vpc, floor=self._floor)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        for vpc in self._adj_ribs_out:
            self._wake(vpc)
        if self._tasks is not None and self._strays and not self._clearing:
            self._clearing = True
            self._tasks.create_task(self._clear_strays(), name="strays")

    def _wake(self, vpc: int) -> None:
        if self._tasks is None or self._adj_ribs_out[vpc].idle:
            return
        adj_rib_out = self._adj_ribs_out[vpc]
        # Only a task with work: one without would wake the other again, and both would spin until that is done.
        for wanted, busy, work in (
            (adj_rib_out.pending, self._publishing, self._publish),
            (not adj_rib_out.packed, self._packing, self._pack),
        ):
            if wanted and vpc not in busy:
                busy.add(vpc)
                self._tasks.create_task(self._work(busy, work, vpc), name=f"{work.__name__} {vpc_hex(vpc)}")

    async def _work(self, busy: set[int], work: Callable[[int], Awaitable[None]], vpc: int) -> None:
        try:
            await work(vpc)
        finally:
            busy.discard(vpc)
        if self._adj_ribs_out[vpc].idle and not self._adj_ribs_out[vpc].count:
            if vpc not in self._publishing | self._packing:
                self._floor = max(self._floor, self._adj_ribs_out.pop(vpc).floor)
        else:
            self._wake(vpc)

    async def _publish(self, vpc: int) -> None:
        adj_rib_out, topic = self._adj_ribs_out[vpc], self._topics.changes(vpc_hex(vpc))
        while messages := adj_rib_out.changes(self._now(), self._publisher.largest):
            since = self._since.pop(vpc, None)
            if since is not None:
                self._underway[vpc] = since
            for message in messages:
                _log(adj_rib_out, message)
                await self._publisher.publish(topic, encode(message), False, self._urgent, echoed=False)
                self._metrics.published(adj_rib_out.vpc, message)
            if since is not None:
                self._metrics.converged(time.perf_counter() - since)
            self._underway.pop(vpc, None)
        self._since.pop(vpc, None)
        self._metrics.queued(len(self._since))

    async def _pack(self, vpc: int) -> None:
        adj_rib_out = self._adj_ribs_out[vpc]
        while not adj_rib_out.packed:
            # At once where nothing is retained: a node cannot join the VPC yet, and the table is small.
            await asyncio.sleep(self._pack_seconds if adj_rib_out.retained else 0)
            if (pack := adj_rib_out.pack(self._publisher.largest)) is not None:
                await self._publisher.pack(self._topics, vpc_hex(vpc), pack, bulk=self._bulk)
                adj_rib_out.confirmed(pack)
                self._metrics.packed(adj_rib_out.vpc, adj_rib_out.count, len(pack.shards))

    async def _clear_strays(self) -> None:
        while self._strays:
            parts = self._strays.pop()  # first: a message that arrives meanwhile is cleared as well
            await self._publisher.publish("/".join((self._topics.base, *parts)), b"", True, self._bulk)
        self._clearing = False


def _log(adj_rib_out: AdjRibOut, message: Changes) -> None:
    """Each change at level DEBUG, and one that withdraws much of a table at level INFO."""
    gone = len(message.delete)
    unusual = gone >= MANY and gone >= adj_rib_out.count
    if not unusual and not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        return  # building the line takes longer than the rest of the Adj-RIB-Out's work
    (log.info if unusual else log.debug)(
        "many routes are withdrawn" if unusual else "change",
        vpc=adj_rib_out.vpc,
        revision=message.revision,
        previous=message.previous,
        set=len(message.set),
        delete=gone,
        left=adj_rib_out.count,
    )


def _vpc(text: str) -> int | None:
    try:
        return parse_vpc(text)
    except Rejected:
        return None

"""Publishes what the Adj-RIBs-Out say, confirmed, for as long as it takes.

Per VPC one task tells changes, one after the other, and one packs the retained table; both end when there is nothing
left. While a publish is under way everything that becomes due for that VPC waits in the Adj-RIB-Out, where newer
replaces older, and goes out as one message next: that is the debounce, the back-pressure and the bound on memory in
one, and an idle VPC is told its first change without any delay.
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
"""From a change to its retained shards: design says within a second."""
URGENT: Final = 64
"""Changes under way at once, one a VPC."""
BULK: Final = 32
"""Shards under way at once. Separate from the changes, which never wait for them."""
MANY: Final = 100
"""A change that withdraws as many routes, and half of the table with them, is told of."""


class Fanout:
    """The Adj-RIBs-Out of all VPCs. ``run`` publishes; the other methods only note what is due and never wait."""

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
        self._publisher, self._repeats = publisher, LogThrottle()
        self._pack_seconds = pack_seconds
        self._adj_ribs_out: dict[int, AdjRibOut] = {}
        self._since: dict[int, float] = {}  # when the first change came that is due
        self._underway: dict[int, float] = {}  # the same of what is published and not confirmed
        self._telling: set[int] = set()
        self._packing: set[int] = set()
        self._together: set[int] = set()  # VPCs of changes that more follows
        self._stray: set[tuple[str, ...]] = set()
        self._wiping = False
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
                    self._tasks = None  # it takes no more: what is due from now on waits for the next leader
        finally:
            self._tasks, self._wiping = None, False
            self._telling.clear()
            self._packing.clear()
            self._underway.clear()
            self._metrics.revisions({})

    def due(self, changes: Mapping[int, Diff[Network, Route]], *, more: bool = False) -> None:
        """These routes changed: to be told. ``more``: with what follows at once, so that it is one change for all."""
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
        """Starts from what the broker retains and was told since, with nothing due. Returns the tables as told."""
        self._adj_ribs_out = {vpc: AdjRibOut(vpc, found) for vpc, found in retained.tables.items()}
        self._since.clear()
        for vpc, adj_rib_out in self._adj_ribs_out.items():
            adj_rib_out.replay(changes.since(vpc))
        self._stray |= retained.stray
        self._metrics.revisions(
            {adj_rib_out.vpc: adj_rib_out.revision for adj_rib_out in self._adj_ribs_out.values()}
        )
        return {vpc: adj_rib_out.routes() for vpc, adj_rib_out in self._adj_ribs_out.items()}

    def compare(self, retained: Retained) -> None:
        """A broker came back: whatever it does not retain as it was told is published again."""
        for vpc in retained.tables.keys() | self._adj_ribs_out.keys():
            self._adj_ribs_out.setdefault(vpc, self._new(vpc)).compare(retained.tables.get(vpc))
        self._stray |= retained.stray
        self._wake_all()

    def heard(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A message below ``vpcs/``: ours comes back, or somebody else's, which is undone. Raises Rejected."""
        topic = "/".join((self._topics.base, *parts))
        if self._publisher.own(topic, payload):
            return
        vpc = _vpc(parts[1])
        adj_rib_out = None if vpc is None else self._adj_ribs_out.get(vpc) or self._new(vpc)
        if (
            vpc is None
            or adj_rib_out is None
            or not overwritten(adj_rib_out, parts[2:], payload, self._metrics)
        ):
            if payload:
                self._stray.add(parts)
                self._wake_all()
            raise Rejected(topic, reason="UnknownTopic")
        if times := self._repeats.count(topic):
            log.warning("somebody else wrote on a router's topic, putting it right", topic=topic, times=times)
        self._metrics.foreign()
        self._adj_ribs_out.setdefault(vpc, adj_rib_out)
        self._wake(vpc)

    def revision(self, vpc: int) -> int:
        """The revision at which subscribers of a VPC are told all that is due by now, or were; 0: nothing."""
        adj_rib_out = self._adj_ribs_out.get(vpc)
        return adj_rib_out.revision_due if adj_rib_out else 0

    def told(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC as subscribers were told."""
        adj_rib_out = self._adj_ribs_out.get(vpc)
        return (adj_rib_out.revision, adj_rib_out.routes()) if adj_rib_out else (0, {})

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that subscribers were told something of."""
        return frozenset(self._adj_ribs_out)

    @property
    def idle(self) -> bool:
        """Whether everything is told, packed and confirmed."""
        busy = self._telling or self._packing or self._stray or self._wiping
        return not (busy or any(not it.idle for it in self._adj_ribs_out.values()))

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
        if self._tasks is not None and self._stray and not self._wiping:
            self._wiping = True
            self._tasks.create_task(self._wipe(), name="wipe")

    def _wake(self, vpc: int) -> None:
        if self._tasks is None or self._adj_ribs_out[vpc].idle:
            return
        adj_rib_out = self._adj_ribs_out[vpc]
        # Only what has something to do: one that finds nothing and wakes the other again would spin until that is done.
        for wanted, busy, work in (
            (adj_rib_out.untold, self._telling, self._tell),
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
            if vpc not in self._telling | self._packing:
                self._floor = max(self._floor, self._adj_ribs_out.pop(vpc).floor)
        else:
            self._wake(vpc)

    async def _tell(self, vpc: int) -> None:
        adj_rib_out, topic = self._adj_ribs_out[vpc], self._topics.changes(vpc_hex(vpc))
        while messages := adj_rib_out.changes(self._now()):
            since = self._since.pop(vpc, None)
            if since is not None:
                self._underway[vpc] = since
            for message in messages:
                _log(adj_rib_out, message)
                await self._publisher.confirmed(topic, encode(message), False, self._urgent, heard=False)
                self._metrics.told(adj_rib_out.vpc, message)
            if since is not None:
                self._metrics.converged(time.perf_counter() - since)
            self._underway.pop(vpc, None)
        self._since.pop(vpc, None)
        self._metrics.queued(len(self._since))

    async def _pack(self, vpc: int) -> None:
        adj_rib_out = self._adj_ribs_out[vpc]
        while not adj_rib_out.packed:
            # Where nothing is retained a node cannot take part at all, and what there is is small: at once.
            await asyncio.sleep(self._pack_seconds if adj_rib_out.retained else 0)
            if (pack := adj_rib_out.pack()) is not None:
                await self._publisher.pack(self._topics, vpc_hex(vpc), pack, bulk=self._bulk)
                adj_rib_out.confirmed(pack)
                self._metrics.packed(adj_rib_out.vpc, adj_rib_out.count, pack)

    async def _wipe(self) -> None:
        while self._stray:
            parts = self._stray.pop()  # now: what is written there while it is wiped is wiped once more
            await self._publisher.confirmed("/".join((self._topics.base, *parts)), b"", True, self._bulk)
        self._wiping = False


def _log(adj_rib_out: AdjRibOut, message: Changes) -> None:
    """Each change for who looks for it, and what takes much of a table away for everybody."""
    gone = len(message.delete)
    unusual = gone >= MANY and gone >= adj_rib_out.count
    if not unusual and not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        return  # a line that nobody sees takes longer than the rest of the Adj-RIB-Out's work
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

"""The task that keeps the kernel as the store desires it: desired minus actual, debounced.

A round is a *delta* of what changed in the store, or a *resync*, which reads the whole kernel: at start, after a
failure, when drift is reported, and every two minutes or less often. In between the task *verifies* everything but the
routes, which is little: the kernel reports every route that another program touches. A verification that finds a
difference makes the next round a resync. When the task stops, everything stays in the kernel.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet, Unreachable
from galactic.linux.events import EVERYTHING, Changed
from galactic.linux.objects import Kernel
from galactic.node.dataplane.dataplane import Dataplane
from galactic.node.dataplane.drift import Drift
from galactic.node.dataplane.plan import Host
from galactic.node.metrics import Metrics
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.dirty import Dirty
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
GATHER_SECONDS: Final = 0.002
"""At least between the beginnings of two rounds: changes in between are written together. The first never waits."""
VERIFY_SECONDS: Final = 8.0
"""Between verifications: drift is put back within 10 s even where no event reports it."""
VERIFY_SHARE: Final = 200
"""Verifications without an event take half a percent of the time at most; sysctls are always verified."""
RESYNC_SECONDS: Final = 120.0
RESYNC_SHARE: Final = 300
EVENT_SECONDS: Final = 1.0
"""From an event to the round that follows it: our own changes cause events too, and come in bursts."""
OWN_SECONDS: Final = 0.5
"""After a round of ours events may still be about its own changes."""
EVENT_SHARE: Final = 3
"""Rounds that follow events take a third of the time at most."""
BACKOFF_SECONDS: Final = (0.2, 5.0)
GONE_ROUNDS: Final = 2
"""Resyncs after which a pod whose namespace has disappeared is detached without a DEL."""


@dataclass(slots=True, eq=False)
class _Waiter:
    key: Key
    applied: asyncio.Future[None]


class Sync:
    """Applies the store to the kernel. ``host``: the facts that the plan depends on, None while they are not known."""

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        host: Callable[[], Host | None],
        metrics: Metrics,
        dataplane: Dataplane | None = None,
    ) -> None:
        self._store, self._host, self._metrics = store, host, metrics
        self._dataplane = dataplane or Dataplane(kernel, store)
        self._waiting: list[_Waiter] = []
        self._resync, self._verify = _Schedule(), _Schedule()
        self._sysctls, self._retry = _Schedule(), _Schedule()
        self._failing: dict[Key, str] = {}
        self._began = 0.0
        self._own_until = 0.0
        self.problem: str | None = "the kernel was not read yet"
        self.ready = asyncio.Event()
        """Set after the first round that went well."""

    async def run(self) -> None:
        """For ever. Failures are logged, counted and tried again."""
        backoff = Backoff(*BACKOFF_SECONDS, spread=0.0)
        while True:
            await self._wake()
            try:
                await self._round()
            except NotYet as error:
                self.problem = str(error)
                # one left due would be tried without a pause
                for schedule in (self._resync, self._verify, self._sysctls, self._retry):
                    schedule.done(0.0, VERIFY_SECONDS, RESYNC_SHARE)
            except GalacticError as error:
                self._metrics.sync_failures.inc()
                self._dataplane.forget()
                self._resync.now()
                self.problem = str(error)
                pause = backoff.pause()
                log.warning("kernel not in sync, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
            else:
                backoff.succeeded()
                self.problem = "; ".join(self._failing.values()) or None
                self.ready.set()

    @property
    def routes(self) -> int:
        """The number of routes to other nodes in the kernel."""
        return self._dataplane.routes

    def led_out(self) -> frozenset[int] | None:
        """The VPCs whose way out of this node is in the kernel; None before it was read."""
        return self._dataplane.led_out

    def on_external_change(self, changed: Changed = EVERYTHING) -> None:
        """Another program may have changed objects of ours: a round follows within EVENT_SECONDS.

        Events do not name their author. During our own writes and shortly after, an event of links or addresses is
        most likely our own: the next verification is soon enough.
        """
        now = time.monotonic()
        ours = now < self._own_until and Changed.ROUTES not in changed
        soon = now + (VERIFY_SECONDS if ours else EVENT_SECONDS)
        if (self._resync if Changed.ROUTES in changed else self._verify).by(soon):
            self._store.dirty.wake.set()

    async def wait_applied(self, key: Key) -> None:
        """Returns when the desired state of that attachment is in the kernel. Raises NotYet or Unreachable when the
        next round does not get there; the task goes on trying.
        """
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._store.dirty.wake.set()
        try:
            await waiter.applied
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def missing(self, attachment: Attachment) -> list[str]:
        """The objects of an attachment that the kernel does not have, in words; empty when it has all."""
        return await self._dataplane.missing(self._host(), attachment)

    async def _wake(self) -> None:
        """Returns when a step is due or the store is dirty."""
        schedules = (self._resync, self._verify, self._sysctls, self._retry)
        left = min(schedule.at for schedule in schedules) - time.monotonic()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._store.dirty.wake.wait()
            except TimeoutError:
                return
            if not self._waiting:
                await asyncio.sleep(max(0.0, self._began + GATHER_SECONDS - time.monotonic()))

    async def _round(self) -> None:
        if self._failing and self._retry.is_due():
            self._store.dirty.restore(Dirty(attachments=set(self._failing)))
        dirty = self._store.drain_dirty()
        waiting, self._waiting = self._waiting, []
        self._began = time.monotonic()
        resync = not self._dataplane.known or dirty.everything or self._resync.is_due()
        written = self._dataplane.written
        self._own_until = math.inf if resync or dirty else 0.0
        try:
            problems = await self._apply(dirty, resync=resync)
            if not resync and not waiting:
                await self._verify_what_is_due()
        except GalacticError as error:
            await self._fail(waiting, error)
            raise
        except asyncio.CancelledError:
            for waiter in waiting:
                waiter.applied.cancel()
            raise
        finally:
            self._own_until = time.monotonic() + OWN_SECONDS if self._dataplane.written != written else 0.0
        self._measure(self._dataplane.written - written)
        if resync:
            self._after_resync(time.monotonic() - self._began)
        for waiter in waiting:
            if waiter.applied.done():
                continue
            if problem := problems.get(waiter.key) or self._gone(waiter.key):
                waiter.applied.set_exception(Unreachable("kernel", problem))
            else:
                waiter.applied.set_result(None)
        self._retry_later(problems, None if resync else dirty.attachments)

    def _retry_later(self, problems: dict[Key, str], tried: set[Key] | None) -> None:
        """Pods that failed wait for their turn, the others do not wait for them. ``tried``: None for all."""
        present = self._store.attachments
        left = {key: why for key, why in self._failing.items() if tried is not None and key not in tried}
        self._failing = {key: why for key, why in (left | problems).items() if key in present}
        if problems:
            self._metrics.sync_failures.inc()
            log.warning("pods not in sync, trying again", error="; ".join(problems.values()))
            self._retry.done(0.0, BACKOFF_SECONDS[1], 0)
        elif not self._failing:
            self._retry.never()

    def _measure(self, written: int) -> None:
        if written:
            self._metrics.batch.observe(written)
        self._metrics.endpoints.set(len(self._store.attachments))
        self._metrics.vpcs.set(len(self._store.attachments.hosted))
        self._metrics.routes.set(self._dataplane.routes)

    async def _apply(self, dirty: Dirty, *, resync: bool) -> dict[Key, str]:
        """The failures, by attachment."""
        host = self._host()
        if host is None:
            self._store.dirty.restore(dirty)
            raise NotYet("the node does not know its SRv6 prefix yet", reason="NoPrefix")
        if not resync and not dirty:
            return {}
        started = time.monotonic()
        if resync:
            problems = await self._dataplane.resync(host)
        else:
            problems = await self._dataplane.apply(host, dirty)
        kind = "full" if resync else "delta"
        self._metrics.sync_seconds.labels(kind).observe(time.monotonic() - started)
        return problems

    async def _verify_what_is_due(self) -> None:
        """A difference is followed by a resync."""
        in_place = True
        if self._sysctls.is_due():
            in_place = await self._dataplane.verify_sysctls()
            self._sysctls.done(0.0, VERIFY_SECONDS, 0)
        if self._verify.is_due():
            started = time.monotonic()
            in_place &= await self._dataplane.verify()
            seconds = time.monotonic() - started
            self._metrics.sync_seconds.labels("look").observe(seconds)
            self._verify.done(seconds, VERIFY_SECONDS, VERIFY_SHARE)
            self._report_drift()
        if not in_place:
            self._resync.now()

    async def _fail(self, waiting: list[_Waiter], error: GalacticError) -> None:
        """A round failed. Attachments whose own objects are in the kernel nevertheless have succeeded."""
        for waiter in waiting:
            failure: GalacticError | None = error
            attachment = self._store.attachments.get(waiter.key)
            if attachment and not isinstance(error, NotYet):
                try:
                    failure = error if await self.missing(attachment) else None
                except GalacticError as unreadable:
                    failure = unreadable
            if not waiter.applied.done():
                waiter.applied.set_exception(failure) if failure else waiter.applied.set_result(None)

    def _gone(self, key: Key) -> str | None:
        attachment = self._store.attachments.get(key)
        if attachment and self._dataplane.gone(attachment):
            return f"network namespace {attachment.netns} does not exist"
        return None

    def _after_resync(self, seconds: float) -> None:
        self._resync.done(seconds, RESYNC_SECONDS, RESYNC_SHARE)
        self._verify.done(0.0, VERIFY_SECONDS, 0)  # which finds pods again whose namespace is gone
        self._sysctls.done(0.0, VERIFY_SECONDS, 0)
        self._metrics.full_sync.set_to_current_time()
        self._report_drift()
        for key, attachment in list(self._store.attachments.items()):
            if self._dataplane.gone(attachment) >= GONE_ROUNDS:
                log.warning(
                    "pod's network namespace gone without a DEL, detaching", attachment=attachment.name
                )
                try:
                    self._store.detach(key)
                except GalacticError as error:
                    log.warning("pod not detached yet", attachment=attachment.name, error=str(error))

    def _report_drift(self) -> None:
        drift = self._dataplane.drift
        if drift.objects:
            self._metrics.drift.inc(drift.objects)
            log.warning(
                "kernel objects changed by another program were put back",
                objects=drift.objects,
                first=drift.first,
            )
            self._dataplane.drift = Drift()


class _Schedule:
    """The next time of a recurring step, by the monotonic clock, and the earliest that it may be. Due at first."""

    def __init__(self) -> None:
        self.at = 0.0
        self._earliest = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.at

    def now(self) -> None:
        self.at = 0.0

    def never(self) -> None:
        self.at = math.inf

    def by(self, moment: float) -> bool:
        """At that moment at the latest. Whether that is sooner than before."""
        moment = max(moment, self._earliest)
        sooner = moment < self.at
        self.at = min(self.at, moment)
        return sooner

    def done(self, seconds: float, interval: float, share: int) -> None:
        """It took that long: next in ``interval`` seconds, or ``share`` times as long if that is later."""
        now = time.monotonic()
        self.at = now + max(interval, seconds * share)
        self._earliest = now + seconds * EVENT_SHARE

"""The task that keeps the kernel as the store wants it: desired minus actual, debounced.

A round is a *delta* of what changed in the store, or *full*: it reads the whole kernel, at start, after a failure, when
drift is reported, and now and then. In between there are *looks* at all but the routes, which are few: the kernel tells
of every route that somebody else touches, and a look that finds anything different makes the next round a full one.
Nothing is torn down because this stops.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from galactic.errors import GalacticError, NotYet, Unreachable
from galactic.linux.events import EVERYTHING, Changed
from galactic.linux.objects import Kernel
from galactic.node.dataplane.dataplane import Dataplane
from galactic.node.dataplane.drift import Drift
from galactic.node.dataplane.plan import Host
from galactic.node.metrics import Metrics
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.store import Dirty, Store

log = structlog.get_logger(__name__)
GATHER_SECONDS: Final = 0.002
"""At least between the beginnings of two rounds: what changes meanwhile is written together. The first never waits."""
LOOK_SECONDS: Final = 8.0
"""Between looks: drift is put back within 10 s even where no event tells of it."""
LOOK_SHARE: Final = 200
"""At most half a percent of the time goes into looks that nothing gave a reason for; sysctls are looked at always."""
FULL_SECONDS: Final = 120.0
FULL_SHARE: Final = 300
SUSPECT_SECONDS: Final = 1.0
"""From an event to the round that looks into it: our own changes cause events too, and come in bursts."""
OWN_SECONDS: Final = 0.5
"""After a round of ours events may still be about what it did."""
SUSPECT_SHARE: Final = 3
"""With a reason to look, at most a third of the time."""
BACKOFF_SECONDS: Final = (0.2, 5.0)
GONE_ROUNDS: Final = 2
"""Full rounds after which a pod whose namespace has disappeared is forgotten without a DEL."""


@dataclass(slots=True, eq=False)
class _Waiter:
    key: Key
    done: asyncio.Future[None]


class Sync:
    """Applies the store to the kernel. ``host`` answers what the plan depends on, None while that is not yet known."""

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        host: Callable[[], Host | None],
        metrics: Metrics,
        applied: Dataplane | None = None,
    ) -> None:
        self._store, self._host, self._metrics = store, host, metrics
        self._applied = applied or Dataplane(kernel, store)
        self._waiting: list[_Waiter] = []
        self._full, self._look = _Due(), _Due()
        self._sysctls, self._retry = _Due(), _Due()
        self._failing: dict[Key, str] = {}
        self._began = 0.0
        self._own_until = 0.0
        self.problem: str | None = "the kernel was not read yet"
        self.ready = asyncio.Event()
        """Set after the first round that went well."""

    async def run(self) -> None:
        """For ever. Failures are logged, counted and tried again."""
        backoff = BACKOFF_SECONDS[0]
        while True:
            await self._wake()
            try:
                await self._round()
            except NotYet as error:
                self.problem = str(error)
                # one left due would be tried without a pause
                for due in (self._full, self._look, self._sysctls, self._retry):
                    due.done(0.0, LOOK_SECONDS, FULL_SHARE)
            except GalacticError as error:
                self._metrics.sync_failures.inc()
                self._applied.forget()
                self._full.now()
                self.problem = str(error)
                log.warning("kernel not as wanted, trying again", error=str(error), seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS[1])
            else:
                backoff = BACKOFF_SECONDS[0]
                self.problem = "; ".join(self._failing.values()) or None
                self.ready.set()

    @property
    def routes(self) -> int:
        """Remote routes in the kernel."""
        return self._applied.routes()

    def suspect(self, changed: Changed = EVERYTHING) -> None:
        """Somebody else may have changed something of ours: it is looked into, soon.

        Of links and the like nobody tells who changed them: while we write, or just did, that was most likely us, and
        the next look will do.
        """
        now = time.monotonic()
        ours = now < self._own_until and Changed.ROUTES not in changed
        soon = now + (LOOK_SECONDS if ours else SUSPECT_SECONDS)
        if (self._full if Changed.ROUTES in changed else self._look).expect(soon):
            self._store.wake.set()

    async def settle(self, key: Key) -> None:
        """Returns when what the store wants of that attachment by now is in the kernel. Raises NotYet or Unreachable
        when the next round does not get there; the task goes on trying.
        """
        waiter = _Waiter(key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._store.wake.set()
        try:
            await waiter.done
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def lacking(self, attachment: Attachment) -> list[str]:
        """What of an attachment the kernel does not have, in words; empty when all is there."""
        return await self._applied.lacking(self._host(), attachment)

    async def _wake(self) -> None:
        """Returns when there is something to do."""
        left = min(self._full.at, self._look.at, self._sysctls.at, self._retry.at) - time.monotonic()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._store.wake.wait()
            except TimeoutError:
                return
            if not self._waiting:
                await asyncio.sleep(max(0.0, self._began + GATHER_SECONDS - time.monotonic()))

    async def _round(self) -> None:
        if self._failing and self._retry.is_due():
            self._store.give_back(Dirty(attachments=set(self._failing)))
        dirty = self._store.take_dirty()
        waiting, self._waiting = self._waiting, []
        self._began = time.monotonic()
        full = not self._applied.known or dirty.everything or self._full.is_due()
        written = self._applied.written
        self._own_until = math.inf if full or dirty else 0.0
        try:
            problems = await self._apply(full, dirty)
            if not full and not waiting:
                await self._looks()
        except GalacticError as error:
            await self._judge(waiting, error)
            raise
        except asyncio.CancelledError:
            for waiter in waiting:
                waiter.done.cancel()
            raise
        finally:
            self._own_until = time.monotonic() + OWN_SECONDS if self._applied.written != written else 0.0
        self._measure(self._applied.written - written)
        if full:
            self._after_full(time.monotonic() - self._began)
        for waiter in waiting:
            if waiter.done.done():
                continue
            if problem := problems.get(waiter.key) or self._gone(waiter.key):
                waiter.done.set_exception(Unreachable("kernel", problem))
            else:
                waiter.done.set_result(None)
        self._try_again_with(problems, None if full else dirty.attachments)

    def _try_again_with(self, problems: dict[Key, str], tried: set[Key] | None) -> None:
        """Pods that failed wait for their turn, the others do not wait for them. ``tried``: None for all."""
        present = self._store.attachments
        left = {key: why for key, why in self._failing.items() if tried is not None and key not in tried}
        self._failing = {key: why for key, why in (left | problems).items() if key in present}
        if problems:
            self._metrics.sync_failures.inc()
            log.warning("pods not as wanted, trying again", error="; ".join(problems.values()))
            self._retry.done(0.0, BACKOFF_SECONDS[1], 0)
        elif not self._failing:
            self._retry.never()

    def _measure(self, written: int) -> None:
        if written:
            self._metrics.batch.observe(written)
        self._metrics.endpoints.set(len(self._store.attachments))
        self._metrics.vpcs.set(len(self._store.hosted))
        self._metrics.routes.set(self._applied.routes())

    async def _apply(self, full: bool, dirty: Dirty) -> dict[Key, str]:
        host = self._host()
        if host is None:
            self._store.give_back(dirty)
            raise NotYet("the node does not know its SRv6 prefix yet", reason="NoPrefix")
        if not full and not dirty:
            return {}
        started = time.monotonic()
        problems = await (self._applied.full(host) if full else self._applied.delta(host, dirty))
        kind = "full" if full else "delta"
        self._metrics.sync_seconds.labels(kind).observe(time.monotonic() - started)
        return problems

    async def _looks(self) -> None:
        """What is due of them. One that finds something is followed by a full round."""
        fine = True
        if self._sysctls.is_due():
            fine = await self._applied.sysctls()
            self._sysctls.done(0.0, LOOK_SECONDS, 0)
        if self._look.is_due():
            started = time.monotonic()
            fine &= await self._applied.look()
            seconds = time.monotonic() - started
            self._metrics.sync_seconds.labels("look").observe(seconds)
            self._look.done(seconds, LOOK_SECONDS, LOOK_SHARE)
            self._tell_drift()
        if not fine:
            self._full.now()

    async def _judge(self, waiting: list[_Waiter], error: GalacticError) -> None:
        """A round failed: those whose own objects are there nevertheless are none the worse for it."""
        for waiter in waiting:
            verdict: GalacticError | None = error
            attachment = self._store.attachments.get(waiter.key)
            if attachment and not isinstance(error, NotYet):
                try:
                    missing = await self.lacking(attachment)
                    verdict = error if missing else None
                except GalacticError as failure:
                    verdict = failure
            if not waiter.done.done():
                waiter.done.set_exception(verdict) if verdict else waiter.done.set_result(None)

    def _gone(self, key: Key) -> str | None:
        attachment = self._store.attachments.get(key)
        if attachment and self._applied.gone(attachment):
            return f"network namespace {attachment.netns} does not exist"
        return None

    def _after_full(self, seconds: float) -> None:
        self._full.done(seconds, FULL_SECONDS, FULL_SHARE)
        self._look.done(0.0, LOOK_SECONDS, 0)  # which finds those again whose namespace is gone
        self._sysctls.done(0.0, LOOK_SECONDS, 0)
        self._metrics.full_sync.set_to_current_time()
        self._tell_drift()
        for key, attachment in list(self._store.attachments.items()):
            if self._applied.gone(attachment) >= GONE_ROUNDS:
                log.warning("a pod's namespace is gone without a DEL", attachment=attachment.name)
                try:
                    self._store.detach(key)
                except GalacticError as error:
                    log.warning("not detached yet", attachment=attachment.name, error=str(error))

    def _tell_drift(self) -> None:
        drift = self._applied.drift
        if drift.objects:
            self._metrics.drift.inc(drift.objects)
            log.warning(
                "kernel objects were changed by somebody else and put back",
                objects=drift.objects,
                first=drift.first,
            )
            self._applied.drift = Drift()


class _Due:
    """When something is to be done again, and how soon it may be at the earliest. Due at first."""

    def __init__(self) -> None:
        self.at = 0.0
        self._earliest = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.at

    def now(self) -> None:
        self.at = 0.0

    def never(self) -> None:
        self.at = math.inf

    def expect(self, moment: float) -> bool:
        """There is a reason to do it by then. Whether that is sooner than it was."""
        moment = max(moment, self._earliest)
        sooner = moment < self.at
        self.at = min(self.at, moment)
        return sooner

    def done(self, seconds: float, interval: float, share: int) -> None:
        """It took that long: next in ``interval`` seconds, or ``share`` times as long if that is later."""
        now = time.monotonic()
        self.at = now + max(interval, seconds * share)
        self._earliest = now + seconds * SUSPECT_SHARE

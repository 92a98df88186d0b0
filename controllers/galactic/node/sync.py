"""The task that keeps the kernel as the store wants it: desired minus actual, debounced.

A round is *full* (reads the kernel) at start, after a failure, when drift is reported and every so often; otherwise it
is a *delta* of what changed in the store. Nothing is torn down because this stops.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from galactic.errors import GalacticError, NotYet, Unreachable
from galactic.linux.objects import Kernel
from galactic.node.apply import Applied
from galactic.node.attachment import Attachment, Key
from galactic.node.metrics import Metrics
from galactic.node.plan import Host
from galactic.node.store import Store

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS: Final = 0.02
INTERVAL_SECONDS: Final = 8.0
"""Between full rounds: drift is put back within 10 s even where no event tells of it."""
SUSPECT_SECONDS: Final = 1.0
"""From an event to the full round that looks into it: our own changes cause events too, and come in bursts."""
READ_SHARE: Final = 10
"""At most a tenth of the time goes into full rounds: with 100,000 routes they become rarer."""
SUSPECT_SHARE: Final = 2
"""With a reason to look, at most a third."""
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
        applied: Applied | None = None,
    ) -> None:
        self._store, self._host, self._metrics = store, host, metrics
        self._applied = applied or Applied(kernel, store)
        self._waiting: list[_Waiter] = []
        self._next_full = 0.0
        self._earliest_full = 0.0
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
                self.problem, self._next_full = str(error), time.monotonic() + INTERVAL_SECONDS
            except GalacticError as error:
                self._metrics.sync_failures.inc()
                self._applied.forget()
                self.problem, self._next_full = str(error), 0.0
                log.warning("kernel not as wanted, trying again", error=str(error), seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS[1])
            else:
                backoff = BACKOFF_SECONDS[0]
                self.problem = None
                self.ready.set()

    @property
    def routes(self) -> int:
        """Remote routes in the kernel."""
        return self._applied.routes()

    def suspect(self) -> None:
        """Somebody else may have changed something of ours: the next round reads the kernel, soon."""
        soon = max(self._earliest_full, time.monotonic() + SUSPECT_SECONDS)
        if soon < self._next_full:
            self._next_full = soon
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
        left = self._next_full - time.monotonic()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._store.wake.wait()
            except TimeoutError:
                return
            if not self._waiting:
                await asyncio.sleep(DEBOUNCE_SECONDS)

    async def _round(self) -> None:
        dirty, rehost = self._store.take_dirty()
        waiting, self._waiting = self._waiting, []
        full = not self._applied.known or time.monotonic() >= self._next_full
        started = time.monotonic()
        try:
            problems = await self._apply(full, dirty, rehost)
        except GalacticError as error:
            await self._judge(waiting, error)
            raise
        except asyncio.CancelledError:
            for waiter in waiting:
                waiter.done.cancel()
            raise
        seconds = time.monotonic() - started
        self._metrics.sync_seconds.labels("full" if full else "delta").observe(seconds)
        if full:
            now = time.monotonic()
            self._earliest_full = now + seconds * SUSPECT_SHARE
            self._next_full = now + max(INTERVAL_SECONDS, seconds * READ_SHARE)
            self._after_full()
        self._metrics.endpoints.set(len(self._store.attachments))
        self._metrics.vpcs.set(len(self._store.hosted))
        self._metrics.routes.set(self._applied.routes())
        for waiter in waiting:
            if waiter.done.done():
                continue
            if problem := problems.get(waiter.key) or self._gone(waiter.key):
                waiter.done.set_exception(Unreachable("kernel", problem))
            else:
                waiter.done.set_result(None)
        if problems:
            raise Unreachable("kernel", "; ".join(problems.values()))

    async def _apply(self, full: bool, dirty: set[int], rehost: bool) -> dict[Key, str]:
        host = self._host()
        if host is None:
            self._store.dirty |= dirty
            self._store.rehost |= rehost
            raise NotYet("the node does not know its SRv6 prefix yet", reason="NoPrefix")
        return await (self._applied.full(host) if full else self._applied.delta(host, dirty, rehost))

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

    def _after_full(self) -> None:
        if self._applied.drift:
            self._metrics.drift.inc(self._applied.drift)
            log.warning(
                "kernel objects were changed by somebody else and put back", objects=self._applied.drift
            )
        for key, attachment in list(self._store.attachments.items()):
            if self._applied.gone(attachment) >= GONE_ROUNDS:
                log.warning("a pod's namespace is gone without a DEL", attachment=attachment.name)
                self._store.detach(key)

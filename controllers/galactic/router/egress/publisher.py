"""Publishes until the broker confirms, however long that takes, and recognises its own messages."""

import asyncio
import time
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.bus import Bus
from galactic.errors import Unreachable
from galactic.messages import Topics, encode
from galactic.router.egress.adj_rib_out import Pack
from galactic.router.metrics import RouterMetrics

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.1, 5.0)
UNECHOED: Final = 256
"""Publishes of one topic that are recognised when the broker delivers them."""
UNBOUNDED: Final = nullcontext()
PERSISTENT: Final = 5
"""Attempts after which a publish without confirmation is logged as a warning."""


class Publisher:
    """Publishes through a gate that is open only while this router leads."""

    def __init__(self, bus: Bus, metrics: RouterMetrics) -> None:
        self._bus, self._metrics = bus, metrics
        self._up, self._open = asyncio.Event(), asyncio.Event()
        self._unechoed: dict[
            str, deque[int]
        ] = {}  # by topic: hashes of what was published and did not come back yet

    @property
    def online(self) -> bool:
        """Whether there is a session with the broker."""
        return self._bus.connected

    @property
    def largest(self) -> int:
        """Bytes of the largest payload."""
        return self._bus.largest

    def connected(self, up: bool) -> None:
        """A session began or ended. When it begins, waiting publishes are tried again at once."""
        if up:
            self._up.set()
        else:
            self._up.clear()
            self._open.clear()

    def set_gate(self, opened: bool) -> None:
        """Whether gated messages may be published."""
        (self._open.set if opened else self._open.clear)()

    def is_own(self, topic: str, payload: bytes) -> bool:
        """Whether this message that arrived is one of the router's own."""
        unechoed, mark = self._unechoed.get(topic), hash(payload)
        if not unechoed or mark not in unechoed:
            return False
        while unechoed.popleft() != mark:
            pass
        return True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool,
        window: AbstractAsyncContextManager[None] = UNBOUNDED,
        *,
        gated: bool = True,
        echoed: bool = True,
    ) -> None:
        """Returns when the broker confirmed. Keeps the order of one task. ``echoed``: the broker delivers it back."""
        backoff = Backoff(*BACKOFF_SECONDS)
        unechoed, mark = self._unechoed.setdefault(topic, deque(maxlen=UNECHOED)), hash(payload)
        attempts = 0
        while True:
            started = time.perf_counter()
            try:
                if gated:
                    await self._open.wait()
                async with window:
                    if gated and not self._open.is_set():
                        continue
                    if (echoed or self._bus.echoes) and (not unechoed or unechoed[-1] != mark):
                        unechoed.append(mark)
                    await self._bus.publish(topic, payload, retain=retain)
            except Unreachable as error:
                attempts += 1
                self._metrics.unconfirmed()
                level = log.warning if attempts == PERSISTENT else log.debug
                level("publish not confirmed, trying again", topic=topic, attempts=attempts, error=str(error))
                await self._pause(backoff.pause())
            else:
                self._metrics.confirmed(time.perf_counter() - started)
                if attempts >= PERSISTENT:
                    log.info("publish confirmed", topic=topic, attempts=attempts + 1)
                return

    async def _pause(self, seconds: float) -> None:
        """Without a session until the next one begins."""
        if self._bus.connected:
            await asyncio.sleep(seconds)
        else:
            self._up.clear()
            await self._up.wait()

    async def pack(self, topics: Topics, vpc: str, pack: Pack, *, bulk: asyncio.Semaphore) -> None:
        """A head is published when all of its shards are, and cleared before any of them.

        What a joining node reads in between does not match the head's count and digest, and so is not applied.
        """
        async with asyncio.TaskGroup() as tasks:
            for number, shard in pack.shards.items():
                tasks.create_task(self.publish(topics.table(vpc, number), encode(shard), True, bulk))
        head = encode(pack.head) if pack.head else b""
        await self.publish(topics.head(vpc), head, True, bulk)
        async with asyncio.TaskGroup() as tasks:
            for number in pack.clear:
                tasks.create_task(self.publish(topics.table(vpc, number), b"", True, bulk))

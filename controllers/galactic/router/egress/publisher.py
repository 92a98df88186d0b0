"""Publishing until the broker has confirmed, however long that takes, and knowing one's own publishes again."""

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
OWN: Final = 256
"""Publishes of one topic whose coming back is waited for."""
UNBOUNDED: Final = nullcontext()
PERSISTENT: Final = 5
"""Attempts after which it is said that something is not confirmed."""


class Publisher:
    """Publishes through a gate that is open only while this router leads."""

    def __init__(self, bus: Bus, metrics: RouterMetrics) -> None:
        self._bus, self._metrics = bus, metrics
        self._up, self._open = asyncio.Event(), asyncio.Event()
        self._own: dict[str, deque[int]] = {}  # what we published and did not hear yet, by topic

    def connected(self, up: bool) -> None:
        """The broker came or went; waiting publishes are tried again at once when it came."""
        if up:
            self._up.set()
        else:
            self._up.clear()
            self._open.clear()

    def open(self, leads: bool) -> None:
        """Whether what is gated may be published."""
        (self._open.set if leads else self._open.clear)()

    def own(self, topic: str, payload: bytes) -> bool:
        """Whether this message that arrived is one of ours."""
        own, mark = self._own.get(topic), hash(payload)
        if not own or mark not in own:
            return False
        while own.popleft() != mark:
            pass
        return True

    async def confirmed(
        self,
        topic: str,
        payload: bytes,
        retain: bool,
        window: AbstractAsyncContextManager[None] = UNBOUNDED,
        *,
        gated: bool = True,
        heard: bool = True,
    ) -> None:
        """Publishes until confirmed. The order of what one task publishes is kept. ``heard``: it is to come back."""
        backoff = Backoff(*BACKOFF_SECONDS)
        own, mark = self._own.setdefault(topic, deque(maxlen=OWN)), hash(payload)
        attempts = 0
        while True:
            started = time.perf_counter()
            try:
                if gated:
                    await self._open.wait()
                async with window:
                    if gated and not self._open.is_set():
                        continue
                    if (heard or self._bus.echoes) and (not own or own[-1] != mark):
                        own.append(mark)
                    await self._bus.publish(topic, payload, retain=retain)
            except Unreachable as error:
                attempts += 1
                self._metrics.unconfirmed()
                say = log.warning if attempts == PERSISTENT else log.debug
                say("not confirmed, trying again", topic=topic, attempts=attempts, error=str(error))
                await self._pause(backoff.pause())
            else:
                self._metrics.confirmed(time.perf_counter() - started)
                if attempts >= PERSISTENT:
                    log.info("confirmed after all", topic=topic, attempts=attempts + 1)
                return

    async def _pause(self, seconds: float) -> None:
        """Backs off; while the broker is known to be away, until it is back."""
        if self._bus.connected:
            await asyncio.sleep(seconds)
        else:
            self._up.clear()
            await self._up.wait()

    async def pack(self, topics: Topics, vpc: str, pack: Pack, *, bulk: asyncio.Semaphore) -> None:
        """A head is published when all of its shards are there and withdrawn before any of them goes.

        What a joining node reads in between does not match the head's count and digest, and so is not believed.
        """
        async with asyncio.TaskGroup() as tasks:
            for number, shard in pack.shards.items():
                tasks.create_task(self.confirmed(topics.table(vpc, number), encode(shard), True, bulk))
        head = encode(pack.head) if pack.head else b""
        await self.confirmed(topics.head(vpc), head, True, bulk)
        async with asyncio.TaskGroup() as tasks:
            for number in pack.clear:
                tasks.create_task(self.confirmed(topics.table(vpc, number), b"", True, bulk))

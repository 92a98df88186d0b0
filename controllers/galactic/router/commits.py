"""Brings the tables up to date whenever something was registered, a part at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Protocol

from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import HORIZON_NS, Rejection
from galactic.router.rib.store import Store
from galactic.router.rib.vpc_tables import Commit

CHECKED: Final = 200
"""Endpoints that are checked in one turn of the loop, or those of one node: some 10 ms."""
SETTLED: Final = 300
"""Attachments and networks that a commit decides in one turn of the loop, and publishes."""
TICK_SECONDS: Final = 30.0
"""Pause after which an epoch that was too far ahead is checked again."""


class Leader(Protocol):
    """Publishes commits while it leads; ``leader.leadership.Leadership``."""

    def committed(self, commit: Commit) -> None: ...


class Commits:
    """Of one store. A standby commits too, so that its tables are warm."""

    def __init__(self, store: Store, metrics: RouterMetrics) -> None:
        self.store = store
        self.lock = asyncio.Lock()
        """Held from the first part of a commit to the last."""
        self._metrics = metrics

    async def run(self, leader: Leader) -> None:
        """Commits for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self.store.changed.wait()
            async with self.lock:
                async for commit in self.settled():
                    leader.committed(commit)

    async def checked(self) -> None:
        """Checks the endpoints that were registered: most of the work of a commit after which much is new."""
        while self.store.check(CHECKED):  # noqa: ASYNC110 - a turn, not an event
            await asyncio.sleep(0)

    async def settled(self) -> AsyncIterator[Commit]:
        """The tables that follow from all registrations, in parts; each part is consistent, and other tasks run in
        between.
        """
        await self.checked()
        self.store.changed.clear()
        more, seconds = True, 0.0
        rejections: list[Rejection] = []
        while more:
            started = time.perf_counter()
            commit = self.store.commit(time.time_ns() + HORIZON_NS, SETTLED)
            seconds += time.perf_counter() - started
            rejections += commit.rejections
            yield commit
            if more := commit.more:
                await asyncio.sleep(0)
        self._metrics.committed(seconds, rejections)
        if self.store.pending:  # registered meanwhile, or before a commit that was broken off
            self.store.changed.set()

    @property
    def idle(self) -> bool:
        """Whether everything that is registered is committed."""
        return not self.store.changed.is_set() and not self.lock.locked()

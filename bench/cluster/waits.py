"""Waits for a cluster: until its nodes are so, and until its programs neither work nor write."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from load import Audit
from processes import COMPONENTS, Cluster, cpu
from result import Writes, note

QUIET_SECONDS: Final = 3.0
WRITTEN_SECONDS: Final = 7.0
"""Longer than any write of a status waits: the counts of a VPC wait for five seconds."""
QUIET_SHARE: Final = 0.3
"""Of a processor, all processes that are waited for together: they work on something."""
LIMIT_SECONDS: Final = 3600.0
PATIENCE_SECONDS: Final = 600.0
"""How long work or writes that do not end are waited for."""
POLL_SECONDS: Final = 0.25
REPORT_SECONDS: Final = 30.0


class Waits:
    def __init__(self, cluster: Cluster, audit: Audit) -> None:
        self._cluster, self._audit = cluster, audit

    async def until(
        self, condition: Callable[[dict[str, int]], bool], beside: "asyncio.Task[None] | None" = None
    ) -> dict[str, int]:
        """The nodes' figures, once they are so. Fails with ``beside``."""
        deadline, reported = time.monotonic() + LIMIT_SECONDS, time.monotonic()
        while not condition(figures := await self._cluster.figures()):
            if beside and beside.done():
                beside.result()
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {LIMIT_SECONDS:g} s: {figures}")
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                note(f"  {figures}")
            await asyncio.sleep(POLL_SECONDS)
        return figures

    async def quiet(self) -> None:
        """Returns when no process of the control plane works any more."""
        await _quiet(self._cluster.programs[name].pid for name in COMPONENTS)

    async def servers_quiet(self) -> None:
        """Returns when API server and etcd do not work any more."""
        await _quiet(self._cluster.servers.values())

    async def writes(self) -> Writes:
        """Those of Galactic's own processes since the last call, once there are no more. Leases aside."""
        total: Writes = Counter()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            await asyncio.sleep(WRITTEN_SECONDS)
            new = self._audit.drain()
            own = {key: count for key, count in new.items() if ours(key[0]) and key[1] != "leases"}
            if not own:
                return total
            total.update(own)
            if time.monotonic() > deadline:
                note(f"still written after {PATIENCE_SECONDS:g} s: {own}")
                return total


def ours(user: str) -> bool:
    """Whether that user of the API server is one of Galactic's processes."""
    return user.startswith((*COMPONENTS, "galactic-node-"))


async def _quiet(pids: Iterable[int]) -> None:
    pids = [*pids]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        before = sum(map(cpu, pids))
        await asyncio.sleep(QUIET_SECONDS)
        if sum(map(cpu, pids)) - before < QUIET_SHARE * QUIET_SECONDS:
            return
    note(f"still at work after {PATIENCE_SECONDS:g} s")

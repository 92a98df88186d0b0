"""All programs start again, with everything there but what the broker had: the nodes when the routers have published.

Nodes that start while their tables are on no broker read each of their VPCs from the API server.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from processes import COMPONENTS, ROUTERS, Cluster
from result import Start, note
from waits import LIMIT_SECONDS, Waits

POLL_SECONDS: Final = 0.5


async def start(cluster: Cluster, waits: Waits, count: int) -> Start:
    """Returns when no program works or writes any more. ``count``: the attachments that are there."""
    await waits.writes()  # those of the time before
    began = time.monotonic()
    ready: dict[str, float] = {}
    consistent: dict[str, float] = {}

    async def component(name: str) -> None:
        ready[name] = await _moment(cluster, name, lambda: cluster.ready(name)) - began
        consistent[name] = await _moment(cluster, name, lambda: _consistent(cluster, name, count)) - began
        note(f"{name}: ready after {ready[name]:.0f} s, consistent after {consistent[name]:.0f} s")

    async def nodes() -> None:
        began = time.monotonic()
        for program in cluster.nodes:
            program.start()
        await waits.until(lambda figures: figures["attached"] == count)
        ready["nodes"] = time.monotonic() - began
        figures = await waits.until(
            lambda figures: figures["settled"] == cluster.count and not figures["fallback"]
        )
        consistent["nodes"] = time.monotonic() - began
        note(
            f"nodes: ready after {ready['nodes']:.0f} s, consistent after {consistent['nodes']:.0f} s, "
            f"with {figures['routes']} routes"
        )

    for name in COMPONENTS:
        cluster.programs[name].start()
    await asyncio.gather(*map(component, COMPONENTS))
    await nodes()
    writes = await waits.writes()
    await waits.quiet()
    return Start(ready, consistent, writes, cluster.memory())


async def _moment(cluster: Cluster, name: str, condition: Callable[[], bool]) -> float:
    """When it became so, on the monotonic clock. Raises SystemExit when the program ends before, or never is so."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not await asyncio.to_thread(condition):
        if not cluster.programs[name].pid or time.monotonic() > deadline:
            raise SystemExit(f"{name}: not within {LIMIT_SECONDS:g} s")
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic()


def _consistent(cluster: Cluster, name: str, count: int) -> bool:
    """Whether it knows all attachments and has nothing to do."""

    def metric(suffix: str) -> float:
        return cluster.metric(name, f"galactic_{name.partition('-')[0]}_{suffix}")

    try:
        if name in ROUTERS:
            return metric("endpoints") == count and not (
                metric("queue_vpcs") or metric("recording_lag_attachments")
            )
        if name == "operator":
            return bool(metric("leading")) and not metric("queue_length")
    except OSError:
        return False
    return True

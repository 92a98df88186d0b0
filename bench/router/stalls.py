"""Callbacks that block the router's event loop: ``python -P bench/router/stalls.py [ROUTES [MS]]``.

One router in this process, a Mosquitto and a PostgreSQL of their own, ROUTES (100,000) routes of one VPC. A callback
that takes longer than MS (50) is printed with its stack: another thread samples it every 2 ms. Counted in
processor time of the loop's thread, so that a busy machine does not show. Three times: the nodes register, a second
router starts with all of it retained, and it comes to lead once more.
"""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import structlog
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))
from parts import broker, listener, publish, status
from sync import FAMILIES, message, nodes

from galactic.bus.paho import PahoBus
from galactic.launch import Health
from galactic.router.__main__ import Process, wire
from galactic.router.controller import Router
from galactic.router.database.history_writer import HistoryWriter
from galactic.router.leader.election import Alone
from galactic.router.leader.state_machine import Elected, NotElected
from galactic.settings import RouterSettings
from galactic_lab.controlplane.postgres import temporary

LOOK_SECONDS = 0.002
DEEP = 4
"""Frames of ours that are named, the innermost first."""


class Meter:
    """Watches the loop of the thread that made it."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._thread = seconds, threading.get_ident()
        self._where = Counter[str]()
        self._collecting = False
        self.stalls: list[tuple[float, str]] = []
        gc.callbacks.append(self._gc)
        threading.Thread(target=self._look, daemon=True).start()

    def _gc(self, phase: str, _info: dict[str, int]) -> None:
        self._collecting = phase == "start"

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            if self._collecting:
                self._where["garbage collection"] += 1
            else:
                self._where[_named(sys._current_frames().get(self._thread))] += 1  # noqa: SLF001 - there is no other way

    async def run(self) -> None:
        while True:
            self._where.clear()
            began = time.thread_time()
            await asyncio.sleep(LOOK_SECONDS)
            if (spent := time.thread_time() - began) > self._seconds:
                places = ", ".join(f"{count} x {place}" for place, count in self._where.most_common(3))
                self.stalls.append((spent, places))

    def report(self, title: str) -> None:
        longest = max((spent for spent, _ in self.stalls), default=0.0)
        total = sum(spent for spent, _ in self.stalls)
        print(f"{title}: {len(self.stalls)} stalls, the longest {longest:.3f} s, all of them {total:.2f} s")
        for spent, places in sorted(self.stalls, reverse=True)[:8]:
            print(f"    {spent:.3f} s  {places}")
        self.stalls.clear()


def _named(frame: FrameType | None) -> str:
    found: list[str] = []
    while frame is not None and len(found) < DEEP:
        if "/galactic/" in frame.f_code.co_filename:
            found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(found) or "elsewhere"


@asynccontextmanager
async def router(url: str, database: str, name: str) -> AsyncIterator[Router]:
    registry = CollectorRegistry()
    settings = RouterSettings(
        kubernetes=False, require_entitlements=False, mqtt_url=url, database_url=database
    )
    async with PahoBus(settings, f"galactic-router-{name}") as bus:
        process = Process(name, registry, Health())
        controller = wire(settings, bus, None, process, election=Alone())
        made = controller.router
        made.history = next(part for part in controller.workers if isinstance(part, HistoryWriter))
        task = asyncio.create_task(controller.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def done(made: Router, routes: int) -> None:
    while not (made.idle and made.history.idle and made.store.counts[2] == routes):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def measure(url: str, database: str, routes: int, seconds: float) -> None:
    meter = Meter(seconds)
    watch = asyncio.create_task(meter.run())
    messages = [message(node) for node in nodes(routes)]
    async with listener(url, "nodes") as publisher:
        async with router(url, database, "first") as first:
            began = time.perf_counter()
            await publish(publisher.bus, map(status, nodes(routes)))
            await publish(publisher.bus, messages)
            await done(first, routes)
            meter.report(f"{routes:,} routes register ({time.perf_counter() - began:.1f} s)")
        began = time.perf_counter()
        async with router(url, database, "second") as second:
            await done(second, routes)
            meter.report(f"a router starts and leads ({time.perf_counter() - began:.1f} s)")
            began = time.perf_counter()
            for event in (NotElected(), Elected(0)):  # it claims again
                second.leadership.handle(event)
            while second.idle:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await done(second, routes)
            meter.report(f"a standby comes to lead ({time.perf_counter() - began:.1f} s)")
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    routes = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seconds = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.05
    assert routes >= FAMILIES, os.EX_USAGE
    with temporary() as server, broker() as url:
        asyncio.run(measure(url, server.url(), routes, seconds))


if __name__ == "__main__":
    main()

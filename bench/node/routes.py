"""Routes to other nodes beside ip(8), as ratios within one run: ``python bench/node/routes.py [REPEATS [SIZE…]]``.

Needs root. Works in a network namespace of its own that is gone afterwards. Each size is written, compared and changed
by us and by ``ip -batch`` in turn; the figures are medians. Each network has a SID of its own. ``ip -batch`` gives up
on a route when the kernel is out of per-CPU memory for a moment; it gets ``-force`` and is run again until none is
missing.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from parts import VPC, batch, median, route, run, underlay

from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.node.dataplane.resync import RouteResync, route_jobs
from galactic.node.state.remote import RemoteRoutes, Source, entry

SIZES = (1_000, 10_000, 100_000)
TABLE = 101
CHANGED = 1_000
MODE = "encap.red"


@dataclass
class Figures:
    written: list[float] = field(default_factory=list)
    batched: list[float] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    missing: int = 0
    resync_writes: int = 0


class Table:
    """One VPC's routes in a real kernel, by the node's own means."""

    def __init__(self, kernel: LinuxKernel) -> None:
        self.kernel, self.remotes, self.revision = kernel, RemoteRoutes(), 0
        self._written: dict = {}

    async def become(self, routes: list) -> float:
        """Seconds from the decoded messages to the last acknowledgement."""
        started = time.perf_counter()
        self.revision += 1
        self._written = dict(entry(VPC, "default", remote) for remote in routes)
        self.remotes.set_table(Source.MQTT, self.revision, self._written)
        await self.kernel.write_encaps(MODE, route_jobs(TABLE, self.remotes, Counter()))
        return time.perf_counter() - started

    async def change(self, routes: list) -> float:
        """Seconds for some routes of the table."""
        known = self._written
        started = time.perf_counter()
        before = {}
        for remote in routes:
            network, packed = entry(VPC, "default", remote)
            before[network] = known.get(network)
            known[network] = packed
        self.revision += 1
        self.remotes.set_table(Source.MQTT, self.revision, known, before)
        await self.kernel.write_encaps(MODE, route_jobs(TABLE, self.remotes, Counter()))
        return time.perf_counter() - started

    async def compare(self) -> tuple[float, int]:
        """Seconds of a resync, and the number of differences that it found."""
        started = time.perf_counter()
        resync = RouteResync({TABLE: self.remotes})
        others = await self.kernel.routes(MODE, resync.observe)
        differing = resync.finish().objects + len(others)
        return time.perf_counter() - started, differing


def batched(namespace: Namespace, file: Path, routes: list) -> float:
    """Seconds of ``ip -batch`` until no route is missing."""
    started = time.perf_counter()
    file.write_text(batch(routes, TABLE))
    while True:
        run(namespace, "ip", "-6", "-force", "-batch", str(file))
        spent = time.perf_counter() - started
        shown = run(namespace, "ip", "-6", "route", "show", "table", str(TABLE)).splitlines()
        there = {line.split(" ", 1)[0] for line in shown}
        lost = [remote for remote in routes if remote.network.removesuffix("/128") not in there]
        if not lost:
            return spent
        started = time.perf_counter() - spent
        file.write_text(batch(lost, TABLE))


async def measure(size: int, figures: Figures, folder: Path) -> None:
    routes = [route(number) for number in range(size)]
    moved = [route(number + size) for number in range(CHANGED)]
    with underlay() as namespace:
        figures.batched.append(batched(namespace, folder / "batch", routes))
        started = time.perf_counter()
        run(namespace, "ip", "-6", "route", "show", "table", str(TABLE))
        figures.shown.append(time.perf_counter() - started)
    with underlay() as namespace:
        kernel = LinuxKernel(namespace)
        try:
            table = Table(kernel)
            figures.written.append(await table.become(routes))
            monitor = namespace.run(
                lambda: subprocess.Popen(["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True)
            )
            await asyncio.sleep(0.2)
            seconds, differing = await table.compare()
            figures.compared.append(seconds)
            figures.missing += differing
            await asyncio.sleep(0.2)
            monitor.terminate()
            figures.resync_writes += sum(
                "proto 154" in line for line in monitor.communicate()[0].splitlines()
            )
            changes = [
                new.__class__(old.network, new.segments, new.cluster, new.node, new.function, new.epoch + 1)
                for old, new in zip(routes, moved, strict=False)
            ]
            figures.changed.append(await table.change(changes) / len(changes))
            _, differing = await table.compare()
            figures.missing += differing
        finally:
            kernel.close()


async def main(repeats: int, sizes: tuple[int, ...]) -> None:
    found = {size: Figures() for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for size in sizes:
                await measure(size, found[size], Path(folder))
                print(f"round {repeat + 1} of {repeats}, {size} routes", file=sys.stderr)
    print(f"IPv6 seg6 routes, each with a SID of its own; medians of {repeats}")
    print(
        f"{'routes':>8} {'written/s':>10} {'ip -batch/s':>12} {'ratio':>6} {'resync':>9} {'ip show':>9} {'ratio':>6}"
        f" {'a change':>10} {'missing':>8} {'writes in resync':>17}"
    )
    for size, figures in found.items():
        ours, theirs = median(figures.written), median(figures.batched)
        compared, shown = median(figures.compared), median(figures.shown)
        print(
            f"{size:>8} {size / ours:>10,.0f} {size / theirs:>12,.0f} {theirs / ours:>6.2f} {compared * 1e3:>6.0f} ms"
            f" {shown * 1e3:>6.0f} ms {compared / shown:>6.2f} {median(figures.changed) * 1e6:>7.1f} us"
            f" {figures.missing:>8} {figures.resync_writes:>17}"
        )
    rates = {size: size / median(figures.written) for size, figures in found.items()}
    changes = {size: median(figures.changed) for size, figures in found.items()}
    largest = max(sizes)
    for size in sizes:
        if size != largest:
            print(
                f"{largest} beside {size}: rate {rates[largest] / rates[size]:.2f}, "
                f"a changed route {changes[largest] / changes[size]:.2f}"
            )
    if any(figures.missing or figures.resync_writes for figures in found.values()):
        sys.exit("a route was missing, or a resync wrote something")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(given[0] if given else 5, tuple(given[1:]) or SIZES))

"""A VPC's table from the broker to the kernel: ``python bench/node/table.py [REPEATS [ROUTES [IDLE_SECONDS]]]``.

Needs root. Against a real Mosquitto and a real kernel (in a namespace that is gone afterwards), side by side:

- cold join: from attaching the first pod to the last route in the kernel, beside ``mosquitto_sub`` reading one retained
  message a network followed by ``ip -batch``;
- memory: what the node process grew by, a route;
- a change: from publish to the kernel's notification of the route, beside a bare publish → subscribe;
- idle: CPU of the node process with 10,000 routes while nothing changes.

The node is everything of it that has to do with routes (``follower.py``): broker, table, store, sync, drift events.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from parts import VPC, batch, broker, median, path_of, route, run, underlay, until

from galactic.bus import Connected, Delivery
from galactic.bus.paho import PahoBus
from galactic.launch import configure_logs
from galactic.linux.namespace import Namespace
from galactic.messages import SHARD_ROUTES, Changes, Head, Route, Shard, Topics, digest, encode
from galactic.names import vpc_hex
from galactic.settings import MqttSettings

TOPICS = Topics("galactic/v1")
TEXT = vpc_hex(VPC)
IDLE_ROUTES = 10_000
CHANGES = 200
"""In less time than a node waits for a head that follows them: none comes here."""
WINDOW = 100


class Follower:
    """The node's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, words: str) -> list[float]:
        """The numbers in its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{words}\n".encode())
        await self._process.stdin.drain()
        answer = (await self._process.stdout.readline()).decode().split()
        return [float(word) for word in answer if word[0].isdigit()]


@asynccontextmanager
async def follower(url: str, namespace: Namespace) -> AsyncIterator[Follower]:
    here = Path(__file__).with_name("follower.py")
    with path_of(namespace) as path:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(here),
            url,
            path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        async with ended(process):
            assert process.stdout
            assert (await process.stdout.readline()).strip() == b"ready"
            yield Follower(process)


@asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """The process is gone afterwards."""
    assert process.stdin
    try:
        yield
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
        await process.wait()


async def publish_table(bus: PahoBus, routes: list[Route], revision: int) -> None:
    shards = [routes[start : start + SHARD_ROUTES] for start in range(0, len(routes), SHARD_ROUTES)]
    for number, members in enumerate(shards):
        shard = Shard(revision, len(shards), tuple(members))
        await bus.publish(TOPICS.table(TEXT, number), encode(shard), retain=True)
    head = Head(revision, len(routes), digest(routes), len(shards))
    await bus.publish(TOPICS.head(TEXT), encode(head), retain=True)


async def publish_one_by_one(bus: PahoBus, routes: list[Route], table: int) -> None:
    """One retained message a network, the payload being the line for ip(8): the baseline has nothing to decode."""
    lines = batch(routes, table).splitlines()
    for start in range(0, len(lines), WINDOW):
        await asyncio.gather(
            *(
                bus.publish(f"each/{start + number}", line.encode(), retain=True)
                for number, line in enumerate(lines[start : start + WINDOW])
            )
        )


def joined_by_hand(url: str, count: int, namespace: Namespace, folder: Path) -> float:
    """Seconds of mosquitto_sub and ip -batch."""
    port = url.rpartition(":")[2]
    started = time.perf_counter()
    with (folder / "lines").open("wb") as lines:
        subprocess.run(
            ["mosquitto_sub", "-p", port, "-q", "1", "-t", "each/#", "-C", str(count)],
            stdout=lines,
            check=True,
        )
    run(namespace, "ip", "-6", "-force", "-batch", str(folder / "lines"))
    return time.perf_counter() - started


@contextmanager
def notifications(namespace: Namespace) -> Iterator[socket.socket]:
    """The kernel's word of every IPv6 route that is set."""
    made = namespace.netlink(packed=False)
    with made:
        made.bind((0, 0))
        made.setsockopt(
            270, 1, struct.pack("i", 11)
        )  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV6_ROUTE
        yield made


async def change_seconds(
    bus: PahoBus, namespace: Namespace, routes: list[Route], revision: int
) -> list[float]:
    loop, spent = asyncio.get_running_loop(), []
    with notifications(namespace) as kernel:
        for number in range(CHANGES):
            old = routes[number]
            other = route(number + len(routes), epoch=old.epoch + 1)
            new = Route(old.network, other.segments, "default", other.node, other.function, other.epoch)
            message = encode(Changes(revision + 1, revision, (new,)))
            revision += 1
            started = time.perf_counter()
            await bus.publish(TOPICS.changes(TEXT), message)
            async with asyncio.timeout(10):
                while not await loop.sock_recv(kernel, 1 << 16):
                    pass
            spent.append(time.perf_counter() - started)
            routes[number] = new
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                while kernel.recv(1 << 16):
                    pass
    return spent


async def bare_seconds(url: str, bus: PahoBus) -> list[float]:
    spent: list[float] = []
    async with PahoBus(MqttSettings(mqtt_url=url), "bare") as subscriber:
        arrived: asyncio.Queue[float] = asyncio.Queue()
        connected = asyncio.Event()

        async def listen() -> None:
            subscriber.subscribe("bare")
            async for item in subscriber.deliveries():
                match item:
                    case Connected():
                        connected.set()
                    case Delivery():
                        arrived.put_nowait(time.perf_counter())

        task = asyncio.create_task(listen())
        await connected.wait()
        await asyncio.sleep(0.2)
        for _ in range(CHANGES):
            started = time.perf_counter()
            await bus.publish("bare", b"x" * 250)
            spent.append(await arrived.get() - started)
            await asyncio.sleep(0.01)
        task.cancel()
    return spent


def percentile(figures: list[float], share: float) -> float:
    return statistics.quantiles(figures, n=1000)[round(share * 1000) - 1]


async def main(repeats: int, count: int, idle: float) -> None:
    routes = [route(number) for number in range(count)]
    ours, theirs, memory = [], [], []
    changed: list[float] = []
    bare: list[float] = []
    with broker() as url, tempfile.TemporaryDirectory() as folder:
        async with PahoBus(MqttSettings(mqtt_url=url), "bench") as bus:
            await until(lambda: bus.connected)
            await publish_table(bus, routes, 1)
            await publish_one_by_one(bus, routes, 101)
            for _ in range(repeats):
                with underlay() as namespace:
                    theirs.append(
                        await asyncio.to_thread(joined_by_hand, url, count, namespace, Path(folder))
                    )
                with underlay() as namespace:
                    async with follower(url, namespace) as node:
                        before, _ = await node.ask("usage")
                        ours += await node.ask(f"join {count}")
                        after, _ = await node.ask("usage")
                        memory.append((after - before) * 1024 / count)
                        changed += await change_seconds(bus, namespace, routes.copy(), 1)
                        bare += await bare_seconds(url, bus)
        print(f"{count} networks, each with a SID of its own; medians of {repeats}")
        mine, other = median(ours), median(theirs)
        print(f"cold join      {mine:8.2f} s   by hand {other:8.2f} s   ratio {mine / other:5.2f}")
        print(f"memory         {median(memory):8.0f} bytes of RSS a route")
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            mine, other = percentile(changed, share), percentile(bare, share)
            print(
                f"a change, {name}  {mine * 1e3:8.2f} ms  bare    {other * 1e3:8.2f} ms  ratio {mine / other:5.2f}"
            )
    if idle:
        await idle_share(idle)


async def idle_share(seconds: float) -> None:
    routes = [route(number) for number in range(IDLE_ROUTES)]
    with broker() as url, underlay() as namespace:
        async with PahoBus(MqttSettings(mqtt_url=url), "bench") as bus:
            await until(lambda: bus.connected)
            await publish_table(bus, routes, 1)
            async with follower(url, namespace) as node:
                await node.ask(f"join {IDLE_ROUTES}")
                await asyncio.sleep(10)
                _, before = await node.ask("usage")
                await asyncio.sleep(seconds)
                _, after = await node.ask("usage")
    share = (after - before) / seconds
    print(f"idle, {IDLE_ROUTES} routes  {share:.2%} of a core over {seconds:g} s")


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("root is needed: it makes network namespaces")
    configure_logs("error", "console")
    given = [float(text) for text in sys.argv[1:]]
    defaults = (5, 100_000, 150)
    numbers = (*given, *defaults[len(given) :])
    asyncio.run(main(int(numbers[0]), int(numbers[1]), numbers[2]))

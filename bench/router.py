"""What a change costs the router, as ratios within one run: ``python bench/router.py [REPEATS]``.

One change in a VPC of 10, 100 and 1,000 nodes (one endpoint each), against a real Mosquitto on loopback: how many
messages on ``changes`` a wildcard subscriber counts, the router's own time to bring the table up to date, and
registration → change at a subscriber beside a bare publish → subscribe. Medians; the machine's own speed cancels out.
"""

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Network
from pathlib import Path

from prometheus_client import CollectorRegistry

from galactic.bus import Connected, Delivery
from galactic.bus.paho import PahoBus
from galactic.launch import Health, configure_logs
from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.names import function_hex, vpc_hex
from galactic.router.controller import Controller
from galactic.router.metrics import RouterMetrics
from galactic.router.store import Commit
from galactic.settings import RouterSettings
from galactic.srv6 import sid

VPC = 0x4D2
TOPICS = Topics("galactic/v1")
SIZES = (10, 100, 1000)
CHANGES_EACH = 50


def prefix(node: int) -> IPv6Network:
    return IPv6Network(((0x20010DB8FF000000 | node << 8) << 64, 56))


def registration(node: int, sequence: int) -> bytes:
    network = f"10.{sequence % 200}.{node >> 8}.{node & 255}/32"
    address = str(sid(prefix(node), VPC, node))
    return encode(
        NodeEndpoints(
            sequence, (Endpoint(vpc_hex(VPC), function_hex(node), f"ns/a{node}", address, (network,), 1),)
        )
    )


@asynccontextmanager
async def broker() -> AsyncIterator[str]:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise SystemExit("Mosquitto is needed: apt-get install mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\nset_tcp_nodelay true\n"
        )
        process = subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


class Subscriber:
    """Arrival times by topic."""

    def __init__(self, bus: PahoBus) -> None:
        self.bus, self.arrived, self.wake = bus, [], asyncio.Event()

    async def run(self) -> None:
        self.bus.subscribe(TOPICS.changes("+"), "bare")
        async for item in self.bus.deliveries():
            match item:
                case Connected():
                    self.wake.set()
                case Delivery(topic):
                    self.arrived.append((topic, time.perf_counter()))
                    self.wake.set()

    async def after(self, count: int) -> float:
        while len(self.arrived) <= count:
            self.wake.clear()
            await self.wake.wait()
        return self.arrived[count][1]


async def measure(size: int) -> tuple[float, float, float, float]:
    """(messages a change, router seconds a change, registration → change, bare publish → subscribe), medians."""
    async with broker() as url:
        settings = RouterSettings(kubernetes=False, mqtt_url=url)
        async with PahoBus(settings, "router") as bus, PahoBus(settings, "subscriber") as heard:
            controller = Controller(
                settings,
                bus,
                None,
                replica="bench",
                metrics=RouterMetrics(CollectorRegistry()),
                health=Health(),
            )
            subscriber = Subscriber(heard)
            tasks = [asyncio.create_task(controller.run()), asyncio.create_task(subscriber.run())]
            try:
                return await _changes(size, controller, subscriber)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _changes(
    size: int, controller: Controller, subscriber: Subscriber
) -> tuple[float, float, float, float]:
    await subscriber.wake.wait()
    for node in range(1, size + 1):
        status = encode(NodeStatus("online", str(prefix(node))))
        await subscriber.bus.publish(TOPICS.status("default", f"n{node}"), status, retain=True)
        await subscriber.bus.publish(
            TOPICS.endpoints("default", f"n{node}"), registration(node, 1), retain=True
        )
    while len(controller.store.routes(VPC)) < size or not controller.idle:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    spent: list[float] = []
    commit = controller.store.commit

    def timed(horizon: int) -> Commit:
        started = time.perf_counter()
        result = commit(horizon)
        spent.append(time.perf_counter() - started)
        return result

    controller.store.commit = timed  # type: ignore[method-assign]
    before, whole, bare = len(subscriber.arrived), [], []
    for sequence in range(2, CHANGES_EACH + 2):
        count, started = len(subscriber.arrived), time.perf_counter()
        await subscriber.bus.publish(
            TOPICS.endpoints("default", "n1"), registration(1, sequence), retain=True
        )
        whole.append(await subscriber.after(count) - started)
        await asyncio.sleep(0.02)
    messages = (len(subscriber.arrived) - before) / CHANGES_EACH
    for _ in range(CHANGES_EACH):
        count, started = len(subscriber.arrived), time.perf_counter()
        await subscriber.bus.publish("bare", b"x" * 250)
        bare.append(await subscriber.after(count) - started)
        await asyncio.sleep(0.02)
    return messages, statistics.median(spent), statistics.median(whole), statistics.median(bare)


async def main(repeats: int) -> None:
    results: dict[int, list[tuple[float, float, float, float]]] = {size: [] for size in SIZES}
    for _ in range(repeats):
        for size in SIZES:
            results[size].append(await measure(size))
    print(f"{'nodes':>6} {'messages':>9} {'router':>10} {'of 10':>6} {'end to end':>11} {'of bare':>8}")
    base = statistics.median(it[1] for it in results[SIZES[0]])
    for size, found in results.items():
        messages, spent, whole, bare = (statistics.median(it[i] for it in found) for i in range(4))
        print(
            f"{size:>6} {messages:>9.2f} {spent * 1e6:>7.0f} µs {spent / base:>6.2f} "
            f"{whole * 1e3:>8.2f} ms {whole / bare:>8.2f}"
        )


if __name__ == "__main__":
    configure_logs("error", "console")
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))

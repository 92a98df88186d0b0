"""Parts of the router's benchmarks: a broker, the router as a process of its own, nodes by number, a subscriber."""

import asyncio
import contextlib
import os
import re
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

from galactic.bus import Connected, Delivery
from galactic.bus.paho import PahoBus
from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.names import function_hex, vpc_hex
from galactic.settings import MqttSettings
from galactic.srv6 import sid
from galactic_lab.controlplane.mosquitto import mosquitto

VPC = 0x4D2
TOPICS = Topics("galactic/v1")
TUNED = "max_queued_messages 1000000\nmax_queued_bytes 0\nset_tcp_nodelay true\n"
WINDOW = 100


def prefix(node: int) -> IPv6Network:
    return IPv6Network(((0x20010DB8FF000000 | node << 8) << 64, 56))


def network(number: int) -> str:
    return f"{IPv4Address(0x0A000000 + number)}/32"


def endpoint(node: int, function: int, *networks: str, epoch: int = 1) -> Endpoint:
    address = str(sid(prefix(node), VPC, function))
    return Endpoint(vpc_hex(VPC), function_hex(function), f"ns/a{function}", address, networks, epoch)


def status(node: int) -> tuple[str, bytes]:
    return TOPICS.status("default", f"n{node}"), encode(NodeStatus("online", str(prefix(node))))


def registration(node: int, sequence: int, *endpoints: Endpoint) -> tuple[str, bytes]:
    return TOPICS.endpoints("default", f"n{node}"), encode(NodeEndpoints(sequence, endpoints))


def broker(extra: str = TUNED) -> AbstractContextManager[str]:
    """The URL of a Mosquitto with these lines in its configuration; none: as it comes."""
    return mosquitto(extra)


class Router:
    """``galactic-router --kubernetes=false``."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self._port = process, port

    def rss(self) -> int:
        """Bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds on a processor, of all its threads."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    async def figure(self, name: str) -> float:
        """One of its metrics, all labels together."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        found = re.findall(rf"^galactic_router_{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


@asynccontextmanager
async def router(url: str, *options: str) -> AsyncIterator[tuple[Router, float]]:
    """The router, and the seconds from its start until it had adopted the tables."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "galactic.router",
            "--kubernetes",
            "false",
            "--require-entitlements",
            "false",
            "--mqtt-url",
            url,
            "--metrics-port",
            str(port),
        ),
        *options,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    lines = process.stderr
    try:
        while line := await lines.readline():
            if b"tables adopted" in line:
                break
        else:
            raise SystemExit("the router ended")
        spent = time.perf_counter() - started
        rest = asyncio.create_task(_drain(lines))
        yield Router(process, port), spent
        rest.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _drain(lines: asyncio.StreamReader) -> None:
    while await lines.read(1 << 16):
        pass


class Listener:
    """A client that publishes, and records received messages with their times."""

    def __init__(self, bus: PahoBus) -> None:
        self.bus = bus
        self.received: list[tuple[str, bytes, float]] = []
        self.take: Callable[[str, bytes, float], None] = lambda *item: self.received.append(item)
        self._wake = asyncio.Event()

    async def run(self, filters: tuple[str, ...]) -> None:
        self.bus.subscribe(*filters)
        async for item in self.bus.deliveries():
            match item:
                case Delivery(topic, payload):
                    self.take(topic, payload, time.perf_counter())
                    self._wake.set()
                case Connected():
                    self._wake.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Waits until received messages make that true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._wake.clear()
                await self._wake.wait()


@asynccontextmanager
async def listener(url: str, name: str, *filters: str) -> AsyncIterator[Listener]:
    """A client whose subscription is in place."""
    async with PahoBus(MqttSettings(mqtt_url=url), name) as bus:
        found = Listener(bus)
        task = asyncio.create_task(found.run((*filters, f"ready/{name}")))
        await found.until(lambda: bus.connected)
        await bus.publish(f"ready/{name}", b"")  # handled after the subscription
        await found.until(lambda: any(topic == f"ready/{name}" for topic, _, _ in found.received))
        found.received.clear()
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def publish(bus: PahoBus, messages: Iterable[tuple[str, bytes]], *, retain: bool = True) -> None:
    """All of them, as fast as the broker confirms."""
    window: set[asyncio.Task[None]] = set()
    for topic, payload in messages:
        window.add(asyncio.create_task(bus.publish(topic, payload, retain=retain)))
        if len(window) >= WINDOW:
            done, window = await asyncio.wait(window, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*window)


async def settled(router: Router, routes: int) -> None:
    """Waits until the router has that many routes and has published them all."""
    while await router.figure("routes") != routes or await router.figure("queue_vpcs"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def median(figures: Iterable[float]) -> float:
    return statistics.median(figures)


def percentile(figures: list[float], share: float) -> float:
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * share))]

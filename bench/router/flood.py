"""The cost of one node's flood for the others: ``python bench/router/flood.py [REPEATS]``.

Registration → change at a subscriber for a node that behaves: alone, beside a client that publishes as fast as it
can on a topic without subscribers, and beside a node that does so on its own topic. All three alternate within one run,
against a real Mosquitto on loopback; the router and the flood are processes of their own. The second is the
cost of the flood at the broker and the machine, so that the difference to the third is the router's.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from galactic.bus import Delivery
from galactic.bus.paho import PahoBus
from galactic.launch import configure_logs
from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.settings import MqttSettings
from galactic_lab.controlplane.mosquitto import mosquitto

TOPICS = Topics("galactic/v1")
CHANGES_EACH = 30
SHIPPED = "max_queued_messages 100000\nmax_queued_bytes 268435456\nmax_inflight_messages 1000\nset_tcp_nodelay true\n"


def registration(node: int, sequence: int) -> bytes:
    network = f"10.{node}.{sequence >> 8 & 255}.{sequence & 255}/32"
    sid = f"2001:db8:ff01:{node}00::4d2:{node}"
    return encode(
        NodeEndpoints(sequence, (Endpoint("0000000004d2", f"{node:04x}", "ns/a", sid, (network,), 1),))
    )


async def flood(url: str, topic: str) -> None:
    """A new list of endpoints with every message, 200 under way at any time, until ended."""
    async with PahoBus(MqttSettings(mqtt_url=url), "flood") as bus:
        sequence = int(time.time() * 1000)

        async def talk() -> None:
            nonlocal sequence
            while True:
                sequence += 1
                await bus.publish(topic, registration(2, sequence), retain=True)

        while not bus.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        print("flooding", flush=True)
        await asyncio.gather(*(talk() for _ in range(200)))


async def measure(bus: PahoBus, arrived: asyncio.Queue[bytes], first: int) -> list[float]:
    found = []
    for sequence in range(first, first + CHANGES_EACH):
        payload = registration(1, sequence)
        wanted = payload.split(b'"networks":["')[1].split(b'"')[0]
        started = time.perf_counter()
        await bus.publish(TOPICS.endpoints("default", "n1"), payload, retain=True)
        async with asyncio.timeout(60):
            while wanted not in await arrived.get():
                pass
        found.append(time.perf_counter() - started)
        await asyncio.sleep(0.03)
    return found


async def main(repeats: int) -> None:
    with mosquitto(SHIPPED) as url:
        options = [
            "--kubernetes",
            "false",
            "--require-entitlements",
            "false",
            "--mqtt-url",
            url,
            "--metrics-port",
            "0",
            "--log-level",
            "error",
        ]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "galactic.router", *options)
        try:
            await compare(url, repeats)
        finally:
            process.kill()
            await process.wait()


async def compare(url: str, repeats: int) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    async with (
        PahoBus(MqttSettings(mqtt_url=url), "subscriber") as subscriber,
        PahoBus(MqttSettings(mqtt_url=url), "n1") as bus,
    ):
        subscriber.subscribe(TOPICS.changes("+"))

        async def listen() -> None:
            async for item in subscriber.deliveries():
                if isinstance(item, Delivery):
                    arrived.put_nowait(item.payload)

        task = asyncio.create_task(listen())
        while not (bus.connected and subscriber.connected):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for node in (1, 2):
            status = encode(NodeStatus("online", f"2001:db8:ff01:{node}00::/56"))
            await bus.publish(TOPICS.status("default", f"n{node}"), status, retain=True)
        runs: dict[str, list[list[float]]] = {"alone": [], "elsewhere": [], "in a flood": []}
        topics = {"elsewhere": "elsewhere", "in a flood": TOPICS.endpoints("default", "n2")}
        sequence = 1
        for _ in range(repeats):
            for name, results in runs.items():
                async with flooding(url, topics.get(name)):
                    results.append(await measure(bus, arrived, sequence))
                sequence += CHANGES_EACH
        task.cancel()
    base = [statistics.median(run) for run in runs["alone"]]
    print(f"{'':>14} {'median':>10} {'p95':>10} {'of alone':>10}")
    for name, results in runs.items():
        each = [statistics.median(run) for run in results]
        late = statistics.median(sorted(run)[int(0.95 * len(run))] for run in results)
        ratio = statistics.median(one / other for one, other in zip(each, base, strict=True))
        print(f"{name:>14} {statistics.median(each) * 1e3:>7.1f} ms {late * 1e3:>7.1f} ms {ratio:>10.1f}")


@asynccontextmanager
async def flooding(url: str, topic: str | None) -> AsyncIterator[None]:
    """Floods ``topic`` meanwhile; None: no flood."""
    if topic is None:
        yield
        return
    arguments = (__file__, "--flood", url, topic)
    other = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert other.stdout
        await other.stdout.readline()
        yield
    finally:
        other.kill()
        await other.wait()


if __name__ == "__main__":
    configure_logs("error", "console")
    if sys.argv[1:2] == ["--flood"]:
        asyncio.run(flood(*sys.argv[2:]))
    else:
        asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))

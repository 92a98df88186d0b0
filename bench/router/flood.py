"""What a flood from one node costs the others: ``python bench/router/flood.py [REPEATS]``.

Registration → change at a subscriber for a node that behaves, alone and while another publishes as fast as it can,
alternating within one run, against a real Mosquitto on loopback. The router and the flood are processes of their own.
"""

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from galactic.bus import Delivery
from galactic.bus.paho import PahoBus
from galactic.launch import configure_logs
from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.settings import MqttSettings

TOPICS = Topics("galactic/v1")
CHANGES_EACH = 30
SHIPPED = "max_queued_messages 100000\nmax_queued_bytes 268435456\nmax_inflight_messages 1000\nset_tcp_nodelay true\n"


def said(node: int, sequence: int) -> bytes:
    network = f"10.{node}.{sequence >> 8 & 255}.{sequence & 255}/32"
    sid = f"2001:db8:ff01:{node}00::4d2:{node}"
    return encode(
        NodeEndpoints(sequence, (Endpoint("0000000004d2", f"{node:04x}", "ns/a", sid, (network,), 1),))
    )


async def flood(url: str) -> None:
    """Node 2, a new list of endpoints with every message, 200 under way at any time, until ended."""
    async with PahoBus(MqttSettings(mqtt_url=url), "flood") as bus:
        sequence = int(time.time() * 1000)

        async def talk() -> None:
            nonlocal sequence
            while True:
                sequence += 1
                await bus.publish(TOPICS.endpoints("default", "n2"), said(2, sequence), retain=True)

        while not bus.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        print("flooding", flush=True)
        await asyncio.gather(*(talk() for _ in range(200)))


async def measure(bus: PahoBus, arrived: asyncio.Queue[bytes], first: int) -> list[float]:
    found = []
    for sequence in range(first, first + CHANGES_EACH):
        payload = said(1, sequence)
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
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise SystemExit("Mosquitto is needed: apt-get install mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"mqtt://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{SHIPPED}")
        router = ["-m", "galactic.router", "--kubernetes", "false", "--mqtt-url", url, "--metrics-port", "0"]
        processes = [
            subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL),  # noqa: ASYNC220
            subprocess.Popen([sys.executable, *router, "--log-level", "error"]),  # noqa: ASYNC220
        ]
        try:
            await compare(url, repeats)
        finally:
            for process in processes:
                process.kill()
                process.wait()


async def compare(url: str, repeats: int) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    async with (
        PahoBus(MqttSettings(mqtt_url=url), "subscriber") as heard,
        PahoBus(MqttSettings(mqtt_url=url), "n1") as bus,
    ):
        heard.subscribe(TOPICS.changes("+"))

        async def listen() -> None:
            async for item in heard.deliveries():
                if isinstance(item, Delivery):
                    arrived.put_nowait(item.payload)

        task = asyncio.create_task(listen())
        while not (bus.connected and heard.connected):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for node in (1, 2):
            status = encode(NodeStatus("online", f"2001:db8:ff01:{node}00::/56"))
            await bus.publish(TOPICS.status("default", f"n{node}"), status, retain=True)
        alone, beside, sequence = [], [], 1
        for _ in range(repeats):
            found = await measure(bus, arrived, sequence)
            alone.append(found)
            sequence += CHANGES_EACH
            other = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, __file__, "--flood", url], stdout=subprocess.PIPE, text=True
            )
            assert other.stdout
            await asyncio.to_thread(other.stdout.readline)
            beside.append(await measure(bus, arrived, sequence))
            sequence += CHANGES_EACH
            other.kill()
            other.wait()
        task.cancel()
    print(f"{'':>14} {'median':>10} {'p95':>10}")
    for name, runs in (("alone", alone), ("in a flood", beside)):
        each = statistics.median(statistics.median(run) for run in runs)
        late = statistics.median(sorted(run)[int(0.95 * len(run))] for run in runs)
        print(f"{name:>14} {each * 1e3:>7.1f} ms {late * 1e3:>7.1f} ms")
    ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(alone, beside, strict=True)]
    print(f"ratio of the medians: {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    configure_logs("error", "console")
    if sys.argv[1:2] == ["--flood"]:
        asyncio.run(flood(sys.argv[2]))
    else:
        asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))

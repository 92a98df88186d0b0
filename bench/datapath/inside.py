"""Measures every world, in turn, round after round: ``inside.py ROUNDS SECONDS``. Prints one line of JSON.

Before and after each flood it prints a line, with the number of packets, and is idle for a moment: ``__main__`` reads
the processor time of the kernel then. It runs in a kernel of its own (``__main__``), with iperf3 and ping.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worlds import PODS, WORLDS, make

PAYLOAD = {4: 36, 6: 16}
"""Bytes of a datagram that makes an IP packet of 64 bytes."""
PINGS = 200
PORT = 9
IDLE_SECONDS = 0.3
FLOOD = f"""
import socket, sys, time
address, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sending = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
sending.setsockopt(socket.IPPROTO_UDP, 103, size)
sending.connect((address, {PORT}))
block, began = bytes(size * 60), time.monotonic()
while time.monotonic() < began + seconds:
    sending.send(block)
print(time.monotonic() - began)
"""
"""60 datagrams a system call (UDP_SEGMENT), taken apart by the pod's interface: system calls are slow in a guest."""
SINK = f"""
import socket, time
sinks = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
sinks[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
for sink in sinks:
    sink.bind(("", {PORT}))
time.sleep(9999)
"""
"""Without a socket the pod would answer each datagram."""


COUNTED = "counted"
COUNT = """
import asyncio
from galactic.linux.link_counters import read
from galactic.linux.namespace import Namespace
async def main():
    while True:
        await read(Namespace.own())
        await asyncio.sleep(0.1)
asyncio.run(main())
"""
"""A node reads every 10 s."""


@contextmanager
def counting(name: str) -> Iterator[None]:
    """Both nodes of the world COUNTED read their counters."""
    nodes = (1, 2) if name == COUNTED else ()
    readers = [
        subprocess.Popen(["ip", "netns", "exec", f"{name}-n{number}", sys.executable, "-c", COUNT])
        for number in nodes
    ]
    time.sleep(1 if readers else 0)
    try:
        yield
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


def run(name: str, *argv: str) -> str:
    argv = ("ip", "netns", "exec", f"{name}-p1", *argv)
    return subprocess.run(argv, text=True, capture_output=True, check=True, timeout=300).stdout


def iperf(name: str, family: int, seconds: int, *options: str) -> dict[str, Any]:
    words = run(name, "iperf3", "-J", "-c", PODS[family][2], "-t", str(seconds), *options)
    return dict(json.loads(words)["end"])


def tcp(name: str, family: int, seconds: int, streams: int) -> float:
    """Gbit/s received."""
    return float(iperf(name, family, seconds, "-P", str(streams))["sum_received"]["bits_per_second"]) / 1e9


def flood(name: str, family: int, seconds: int) -> None:
    """Prints the number of packets of 64 bytes that reach the other pod's interface, of one sender's flood."""
    before = arrived(name)
    print("flood begins", flush=True)
    time.sleep(IDLE_SECONDS)
    run(name, sys.executable, "-ISc", FLOOD, PODS[family][2], str(PAYLOAD[family]), str(seconds))
    print(f"flood: packets {family} {name} {arrived(name) - before}", flush=True)
    time.sleep(IDLE_SECONDS)


def arrived(name: str) -> int:
    argv = ["ip", "-n", f"{name}-p2", "-s", "-j", "link", "show", "galactic0"]
    (link,) = json.loads(subprocess.run(argv, text=True, capture_output=True, check=True).stdout)
    return int(link["stats64"]["rx"]["packets"])


def round_trip(name: str, family: int) -> float:
    """Microseconds, the median."""
    words = run(name, "ping", "-n", "-c", str(PINGS), "-i", "0.005", PODS[family][2])
    return statistics.median(
        float(milliseconds) * 1e3 for milliseconds in re.findall(r"time=([\d.]+) ms", words)
    )


def main() -> None:
    rounds, seconds = int(sys.argv[1]), int(sys.argv[2])
    for name in WORLDS:
        make(name)
        server = ["ip", "netns", "exec", f"{name}-p2", "iperf3", "-s", "-D"]
        subprocess.run(server, check=True, stdout=subprocess.DEVNULL)
        subprocess.Popen([*server[:4], sys.executable, "-ISc", SINK])
        run(name, "ethtool", "-K", "galactic0", "tx-udp-segmentation", "off")
    time.sleep(1)
    for name in WORLDS:
        for family in (4, 6):
            run(name, "ping", "-n", "-c2", "-W5", PODS[family][2])
    results: dict[str, list[float]] = {}
    for _ in range(rounds):
        for family in (4, 6):
            for name in WORLDS:
                with counting(name):
                    measured = {
                        "tcp-1": tcp(name, family, seconds, 1),
                        "tcp-8": tcp(name, family, seconds, 8),
                        "round-trip": round_trip(name, family),
                    }
                    flood(name, family, seconds)
                for what, value in measured.items():
                    results.setdefault(f"{what} {family} {name}", []).append(value)
                print(f"# IPv{family} {name} {measured}", flush=True)
    print("results: " + json.dumps(results), flush=True)


main()

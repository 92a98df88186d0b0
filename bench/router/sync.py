"""Large tables: ``python bench/router/sync.py [REPEATS [ROUTES…]]``, with Mosquitto as it comes and tuned.

One VPC of 10,000 and of 100,000 routes: an IPv4 and an IPv6 address each endpoint. A client that joins: seconds until
its table adds up to the head's count and digest, and what it lacks. A restarted router: seconds until it has
adopted the tables, and its messages apart from its claim. And the router's memory, in bytes of RSS an endpoint.
"""

import asyncio
import contextlib
import sys
import time

from parts import (
    TOPICS,
    TUNED,
    VPC,
    broker,
    endpoint,
    listener,
    median,
    network,
    publish,
    registration,
    router,
    settled,
    status,
)

from galactic.errors import Rejected
from galactic.launch import configure_logs
from galactic.messages import MAX_PAYLOAD
from galactic.names import vpc_hex
from galactic.router.egress.retained import Retained

SIZES = (10_000, 100_000)
EACH = 500  # endpoints of a node
FAMILIES = 2
BROKERS = {"default": "", "tuned": TUNED}


def nodes(routes: int) -> range:
    return range(1, routes // FAMILIES // EACH + 1)


def message(node: int) -> tuple[str, bytes]:
    numbers = range((node - 1) * EACH + 1, node * EACH + 1)
    registered = registration(node, 1, *(endpoint(node, n, network(n), f"fd00::{n:x}/128") for n in numbers))
    assert len(registered[1]) <= MAX_PAYLOAD
    return registered


async def join(url: str, routes: int) -> tuple[float, int]:
    """Seconds until a client has the whole table, and how many routes it lacks at the end."""
    text = vpc_hex(VPC)
    retained = Retained()

    def take(topic: str, payload: bytes, _at: float) -> None:
        with contextlib.suppress(Rejected):  # changes
            retained.add(TOPICS.parts(topic), payload)

    def whole() -> bool:
        found = retained.tables.get(VPC)
        return found is not None and found.head is not None and len(found.shards) == found.of and found.whole

    async with listener(url, "joining") as client:
        client.take = take
        started = time.perf_counter()
        client.bus.subscribe(TOPICS.head(text), TOPICS.table(text, "+"), TOPICS.changes(text))
        try:
            await client.until(whole, 30)
        except TimeoutError:
            found = retained.tables.get(VPC)
            return time.perf_counter() - started, routes - (len(found.routes()) if found else 0)
        return time.perf_counter() - started, 0


async def measure(routes: int, extra: str) -> tuple[float, float, float, float, float]:
    """Seconds of joining, routes lost, seconds of restarting, messages published by that, bytes an endpoint."""
    with broker(extra) as url:
        async with router(url) as (process, _), listener(url, "nodes") as publisher:
            empty = process.rss()
            await publish(publisher.bus, map(status, nodes(routes)))
            await publish(publisher.bus, map(message, nodes(routes)))
            await settled(process, routes)
            shards = -1.0
            while (now := await process.figure("shards_total")) != shards:  # packed, and nothing more to pack
                shards = now
                await asyncio.sleep(1.5)
            size = (process.rss() - empty) / (routes / FAMILIES)
            spent, lost = await join(url, routes)
        filters = ("galactic/v1/vpcs/+/changes", "galactic/v1/vpcs/+/head", "galactic/v1/vpcs/+/table/+")
        async with listener(url, "counting", *filters) as counting:
            await asyncio.sleep(0.5)
            counting.received.clear()  # what was retained
            async with router(url) as (process, restart):
                await settled(process, routes)
                await asyncio.sleep(1.5)
                return spent, lost, restart, len(counting.received), size


async def main(repeats: int, sizes: tuple[int, ...]) -> None:
    print(
        f"{'routes':>7} {'broker':>8} {'join':>8} {'lost':>5} {'restart':>8} {'published':>9} {'RSS an endpoint':>16}"
    )
    for size in sizes:
        results: dict[str, list[tuple[float, ...]]] = {name: [] for name in BROKERS}
        for _ in range(repeats):
            for name, extra in BROKERS.items():
                results[name].append(await measure(size, extra))
        for name, runs in results.items():
            joined, _, restart, _, memory = (median(run[i] for run in runs) for i in range(5))
            lost, published = max(run[1] for run in runs), max(run[3] for run in runs)
            print(
                f"{size:>7} {name:>8} {joined:>6.2f} s {lost:>5.0f} {restart:>6.2f} s {published:>9.0f} "
                f"{memory:>10.0f} bytes"
            )
    print(f"medians of {repeats}; lost and published: the worst")


if __name__ == "__main__":
    configure_logs("error", "console")
    numbers = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(numbers[0] if numbers else 5, tuple(numbers[1:]) or SIZES))

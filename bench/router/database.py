"""The cost of the database at the router: ``python -P bench/router/database.py [REPEATS]``.

A PostgreSQL of its own on loopback, with fsync as it is by default. Medians of REPEATS (5):

- transactions a registration, as PostgreSQL itself counts them (xids), for 1,000 registrations in one go and for as
  many over one second, each a commit of the router's table;
- RSS an endpoint, of a router's table alone and of one that is written down (processes of their own);
- a router that starts with a full database and with an empty one, at 10,000 and 100,000 routes: seconds, and the
  longest stall of the event loop, on which the routing path runs.
"""

import asyncio
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Network
from pathlib import Path

import psycopg
import structlog
from prometheus_client import CollectorRegistry

from galactic.messages import Endpoint
from galactic.names import function_hex, vpc_hex
from galactic.router.database.history_writer import HistorySettings, HistoryWriter
from galactic.router.database.metrics import DatabaseMetrics
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import sid
from galactic_lab.controlplane.postgres import Postgres, temporary

BURST = 1_000
SIZES = (10_000, 100_000)
MEMORY = 50_000
EACH = 100
"""Endpoints of a node, and of a VPC on it."""


def endpoints(node: int, count: int, epoch: int) -> tuple[Endpoint, ...]:
    """The endpoints of one node."""
    found = []
    for number in range(count):
        vpc, function = 1 + node // 500, 1 + (node % 500) * EACH + number
        address = str(sid(prefix(node), vpc, function))
        network = f"10.{node >> 8}.{node & 255}.{number}/32"
        found.append(
            Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{function}", address, (network,), epoch)
        )
    return tuple(found)


def prefix(node: int) -> IPv6Network:
    return IPv6Network(((0x20010DB8FF000000 | node << 8) << 64, 56))


def filled(count: int) -> Store:
    """A table of so many routes."""
    store = Store(checked=False)
    for node in range(count // EACH):
        origin = NodeRef("default", f"n{node}")
        store.nodes.set_prefix(origin, prefix(node))
        store.nodes.set_endpoints(origin, 1, endpoints(node, EACH, 1))
    store.commit(1 << 60)
    return store


@asynccontextmanager
async def following(url: str, store: Store, term: int) -> AsyncIterator[HistoryWriter]:
    """A history writer that leads."""
    settings = HistorySettings(url, "bench")
    made = HistoryWriter(
        settings, store.tables, DatabaseMetrics(CollectorRegistry()), lambda _: 1, lambda _: None
    )
    made.lead(term)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def written(made: HistoryWriter) -> None:
    while not made.idle:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def transactions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row
        return int(row[0])


async def burst(url: str, term: int, seconds: float) -> float:
    """Transactions a registration."""
    store = filled(BURST)
    async with following(url, store, term) as made:
        await written(made)
        before = transactions(url)
        for number in range(BURST):
            node = number % (BURST // EACH)
            sequence = 2 + number
            store.nodes.set_endpoints(
                NodeRef("default", f"n{node}"), sequence, endpoints(node, EACH - number % 7, sequence)
            )
            made.committed(store.commit(1 << 60))
            await asyncio.sleep(seconds / BURST)
        await written(made)
        return (transactions(url) - before - 1) / BURST


class Stall:
    """The longest time that the event loop was busy with one callback."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - began - 0.001)


async def start(url: str, store: Store, term: int) -> tuple[float, float]:
    """Seconds until the database has the table, and the longest stall."""
    stall = Stall()
    watch = asyncio.create_task(stall.run())
    began = time.perf_counter()
    async with following(url, store, term) as made:
        await written(made)
        seconds = time.perf_counter() - began
    watch.cancel()
    return seconds, stall.longest


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def memory(url: str, count: int) -> None:
    """Prints RSS before, with the table, and with the table written down."""
    async with following(url, filled(EACH), 1) as made:
        await written(made)
    before = rss()
    store = filled(count)
    alone = rss()
    if url != "none":
        async with following(url, store, 2) as made:
            await written(made)
            for node in range(count // EACH):
                store.nodes.set_endpoints(NodeRef("default", f"n{node}"), 2, endpoints(node, EACH, 2))
                made.committed(store.commit(1 << 60))
                await asyncio.sleep(0)
            await written(made)
            print(before, alone, rss())


def fresh(server: Postgres, name: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if sys.argv[1:2] == ["memory"]:
        asyncio.run(memory(sys.argv[2], MEMORY))
        return
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with temporary() as server:
        for title, seconds in (("in one go", 0.0), ("over a second", 1.0)):
            found = [asyncio.run(burst(fresh(server, "bench"), 1, seconds)) for _ in range(repeats)]
            print(f"1,000 registrations {title}: {statistics.median(found):.3f} transactions each")
        for size in SIZES:
            store, empty, full = filled(size), [], []
            for _ in range(repeats):
                url = fresh(server, "bench")
                empty.append(asyncio.run(start(url, store, 1)))
                full.append(asyncio.run(start(url, store, 2)))
            for title, times in (("empty", empty), ("full", full)):
                seconds, stall = (statistics.median(column) for column in zip(*times, strict=True))
                print(
                    f"start with {size:,} routes, {title} database: {seconds:.2f} s, longest stall {stall:.3f} s"
                )
            del store
        costs = []
        for _ in range(repeats):
            command = [sys.executable, "-P", __file__, "memory", fresh(server, "bench")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            before, alone, all_of_it = map(int, done.stdout.split())
            costs.append(((alone - before) / MEMORY, (all_of_it - alone) / MEMORY))
        table, database = (statistics.median(column) for column in zip(*costs, strict=True))
        print(f"RSS an endpoint ({MEMORY:,}): {table:.0f} bytes, and {database:.0f} more when written down")


if __name__ == "__main__":
    main()

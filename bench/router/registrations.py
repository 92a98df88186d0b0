"""Registrations a second: ``python bench/router/registrations.py [REPEATS [ROUTER_OPTION…]]``, a ratio within one run.

100 nodes come up with 10 endpoints of one VPC each, and say so with one message an endpoint (each message is all of the
node's endpoints so far, as nodes speak): from the first message to the last route at a subscriber. Beside it, with the
same messages' worth of registrations over the same broker, what is often built first: the router commits each
registration to a database (SQLite, synchronous) and sends it to each node of the VPC by a message of its own.

Further arguments are the router's, e.g. ``--database-url postgresql://…``.
"""

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import msgspec
from parts import (
    TOPICS,
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

from galactic.launch import configure_logs
from galactic.messages import Changes

NODES, EACH = 100, 10
changes = msgspec.json.Decoder(Changes)


def functions(node: int) -> range:
    return range((node - 1) * EACH + 1, node * EACH + 1)


async def galactic_rate(options: list[str]) -> tuple[float, float]:
    """Registrations a second, and messages on ``changes`` for all of them."""
    with broker() as url:
        async with (
            router(url, *options) as (process, _),
            listener(url, "subscriber", TOPICS.changes("+")) as subscriber,
        ):
            await publish(subscriber.bus, map(status, range(1, NODES + 1)))
            await settled(process, 0)
            known: set[str] = set()
            messages = 0

            def take(_topic: str, payload: bytes, _at: float) -> None:
                nonlocal messages
                messages += 1
                known.update(route.network for route in changes.decode(payload).set)

            subscriber.take = take
            messages_sent = [
                registration(
                    node,
                    some,
                    *(endpoint(node, function, network(function)) for function in functions(node)[:some]),
                )
                for some in range(1, EACH + 1)
                for node in range(1, NODES + 1)
            ]
            started = time.perf_counter()
            await publish(subscriber.bus, messages_sent)
            await subscriber.until(lambda: len(known) == NODES * EACH)
            return NODES * EACH / (time.perf_counter() - started), messages


async def fan_out(folder: Path) -> float:
    """Registrations a second of the baseline."""
    database = sqlite3.connect(folder / "endpoints.db", isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE endpoints (network TEXT PRIMARY KEY, node INTEGER, sid TEXT)")
    with broker() as url:
        async with (
            listener(url, "nodes", "nodes/+/routes") as subscriber,
            listener(url, "router", "register") as baseline,
        ):
            arrived = count(1)
            seen = 0

            def take(_topic: str, _payload: bytes, _at: float) -> None:
                nonlocal seen
                seen = next(arrived)

            subscriber.take = take
            waiting: asyncio.Queue[bytes] = asyncio.Queue()
            baseline.take = lambda _topic, payload, _at: waiting.put_nowait(payload)

            async def route() -> None:
                for _ in range(NODES * EACH):
                    payload = await waiting.get()
                    given = json.loads(payload)
                    database.execute(
                        "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)",
                        (given["network"], given["node"], given["sid"]),
                    )
                    await publish(
                        baseline.bus,
                        ((f"nodes/{node}/routes", payload) for node in range(1, NODES + 1)),
                        retain=False,
                    )

            messages = []
            for node in range(1, NODES + 1):
                for function in functions(node):
                    one = endpoint(node, function, network(function))
                    text = json.dumps({"network": one.networks[0], "node": node, "sid": one.sid})
                    messages.append(("register", text.encode()))
            started = time.perf_counter()
            working = asyncio.create_task(route())
            await publish(subscriber.bus, messages, retain=False)
            await working
            await subscriber.until(lambda: seen == NODES * EACH * NODES)
            spent = time.perf_counter() - started
    database.close()
    return NODES * EACH / spent


async def main(repeats: int, options: list[str]) -> None:
    mine, messages, theirs = [], [], []
    for _ in range(repeats):
        rate, sent = await galactic_rate(options)
        mine.append(rate)
        messages.append(sent)
        with tempfile.TemporaryDirectory() as folder:
            theirs.append(await fan_out(Path(folder)))
    print(f"{NODES} nodes with {EACH} endpoints each of one VPC; medians of {repeats}")
    print(
        f"registrations/s        {median(mine):>8.0f}   in {median(messages):.0f} messages to all nodes together"
    )
    print(f"a message each a node  {median(theirs):>8.0f}   in {NODES * NODES * EACH} messages")
    print(f"ratio                  {median(mine) / median(theirs):>8.1f}")


if __name__ == "__main__":
    configure_logs("error", "console")
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5, sys.argv[2:]))

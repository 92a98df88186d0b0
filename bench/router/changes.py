"""The cost of a change at the router: ``python bench/router/changes.py [REPEATS]``, ratios within one run.

One change in a VPC of 10, 100 and 1,000 nodes (one endpoint each), against a real Mosquitto on loopback: how many
messages on ``changes`` a wildcard subscriber counts, the router's processor time and the part of it that brings the
table up to date, and registration → change at a subscriber beside a bare publish → subscribe. Medians; the sizes
alternate, so the machine's own speed cancels out.
"""

import asyncio
import sys
import time
from functools import partial

from parts import (
    TOPICS,
    Listener,
    Router,
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

SIZES = (10, 100, 1000)
CHANGES_EACH = 100
PAUSE_SECONDS = 0.02  # between changes, so that each is one of its own


async def measure(size: int) -> tuple[float, ...]:
    """Of one change: messages, seconds of processor, seconds of commit, registration → change, publish → subscribe."""
    with broker() as url:
        async with (
            router(url) as (process, _),
            listener(url, "subscriber", TOPICS.changes("+"), "bare") as subscriber,
        ):
            nodes = range(1, size + 1)
            await publish(subscriber.bus, map(status, nodes))
            messages = (registration(node, 1, endpoint(node, node, network(node))) for node in nodes)
            await publish(subscriber.bus, messages)
            await settled(process, size)
            await asyncio.sleep(1)  # until the retained table is packed as well
            return await _changes(process, subscriber)


def more(subscriber: Listener, than: int) -> bool:
    return len(subscriber.received) > than


async def _changes(process: Router, subscriber: Listener) -> tuple[float, ...]:
    subscriber.received.clear()
    cpu, commit, count = (
        process.cpu(),
        await process.figure("commit_seconds_sum"),
        await process.figure("commit_seconds_count"),
    )
    whole, bare = [], []
    for sequence in range(2, CHANGES_EACH + 2):
        before = len(subscriber.received)
        topic, payload = registration(1, sequence, endpoint(1, 1, network(100_000 + sequence)))
        started = time.perf_counter()
        await subscriber.bus.publish(topic, payload, retain=True)
        await subscriber.until(partial(more, subscriber, before))
        whole.append(subscriber.received[before][2] - started)
        await asyncio.sleep(PAUSE_SECONDS)
    cpu = (process.cpu() - cpu) / CHANGES_EACH
    commit = (await process.figure("commit_seconds_sum") - commit) / (
        await process.figure("commit_seconds_count") - count
    )
    messages = len(subscriber.received) / CHANGES_EACH
    for _ in range(CHANGES_EACH):
        before, started = len(subscriber.received), time.perf_counter()
        await subscriber.bus.publish("bare", b"x" * 250)
        await subscriber.until(partial(more, subscriber, before))
        bare.append(subscriber.received[before][2] - started)
        await asyncio.sleep(PAUSE_SECONDS)
    return messages, cpu, commit, median(whole), median(bare)


async def main(repeats: int) -> None:
    results: dict[int, list[tuple[float, ...]]] = {size: [] for size in SIZES}
    for _ in range(repeats):
        for size in SIZES:
            results[size].append(await measure(size))
    print(f"one change; medians of {repeats}")
    print(
        f"{'nodes':>6} {'messages':>9} {'processor':>10} {'of 10':>6} {'commit':>9} {'of 10':>6} {'whole':>9} "
        f"{'of bare':>8}"
    )
    base = [median(run[i] for run in results[SIZES[0]]) for i in range(5)]
    for size, runs in results.items():
        messages, cpu, commit, whole, bare = (median(run[i] for run in runs) for i in range(5))
        print(
            f"{size:>6} {messages:>9.2f} {cpu * 1e6:>7.0f} µs {cpu / base[1]:>6.2f} {commit * 1e6:>6.0f} µs "
            f"{commit / base[2]:>6.2f} {whole * 1e3:>6.2f} ms {whole / bare:>8.2f}"
        )


if __name__ == "__main__":
    configure_logs("error", "console")
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))

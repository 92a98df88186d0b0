"""The rate of changes at which the router is late: ``python bench/router/sustained.py [REPEATS]``.

500 nodes with one endpoint of one VPC each. Registrations are sent by the clock, whether or not the last one is
through, each with another address; a change counts from when it was due until a subscriber has it, or a later one of
that node: state, not events. The rate is raised until the 99th percentile is above 100 ms. At every rate the same is
done with a bare publish → subscribe, by the same process over the same broker. Where even that is late, the machine was
too slow: the rate is measured again, at most ATTEMPTS times, and then left out.
"""

import asyncio
import sys
import time
from collections.abc import Callable

import msgspec
from parts import (
    TOPICS,
    Listener,
    broker,
    endpoint,
    listener,
    median,
    network,
    percentile,
    publish,
    registration,
    router,
    settled,
    status,
)

from galactic.launch import configure_logs
from galactic.messages import Changes

NODES = 500
RATES = (50, 100, 200, 400, 800, 1200, 1600, 2400, 3200, 4800)
SECONDS = 3.0
LATE = 0.1
ATTEMPTS = 3
changes = msgspec.json.Decoder(Changes)


async def by_the_clock(
    rate: int,
    subscriber: Listener,
    message: Callable[[int, int], tuple[str, bytes]],
    knows: Callable[[bytes], list[int]],
) -> list[float]:
    """Seconds from when each was due until it was received. ``knows``: the numbers of the messages in a payload."""
    due: dict[int, float] = {}
    newest: dict[int, list[int]] = {}
    spent: list[float] = []

    def take(_topic: str, payload: bytes, at: float) -> None:
        for number in knows(payload):
            waiting = newest.get(number % NODES, [])
            while waiting and waiting[0] <= number:
                spent.append(at - due.pop(waiting.pop(0)))

    subscriber.take = take
    total, sending = int(rate * SECONDS), set()
    started = time.perf_counter() + 0.05
    for number in range(total):
        when = started + number / rate
        if (ahead := when - time.perf_counter()) > 0.001:
            await asyncio.sleep(ahead)
        due[number] = when
        newest.setdefault(number % NODES, []).append(number)
        topic, payload = message(number % NODES + 1, number)
        task = asyncio.create_task(subscriber.bus.publish(topic, payload))
        sending.add(task)
        task.add_done_callback(sending.discard)
        if number % 16 == 0:
            await asyncio.sleep(0)  # receives messages also while this loop is late
    await asyncio.gather(*sending)
    await subscriber.until(lambda: len(spent) == total, 60)
    return spent


class Nodes:
    """Sequences and networks that were not used before."""

    def __init__(self) -> None:
        self._base = 1000

    def next_round(self) -> None:
        self._base += 100_000

    def message(self, node: int, number: int) -> tuple[str, bytes]:
        return registration(node, self._base + number, endpoint(node, node, network(self._base + number)))

    def knows(self, payload: bytes) -> list[int]:
        found = (route.network for route in changes.decode(payload).set)
        return sorted(_number(text) - self._base for text in found)


def _number(text: str) -> int:
    a, b, c = (int(part) for part in text.partition("/")[0].split(".")[1:])
    return a << 16 | b << 8 | c


async def one_run() -> dict[int, tuple[float, float, float, float]]:
    """By rate: p50 and p99 of a change, p50 and p99 of a bare message."""
    found: dict[int, tuple[float, float, float, float]] = {}
    with broker() as url:
        async with (
            router(url) as (process, _),
            listener(url, "subscriber", TOPICS.changes("+")) as subscriber,
            listener(url, "bare", "bare") as bare,
        ):
            nodes = Nodes()
            await publish(subscriber.bus, map(status, range(1, NODES + 1)))
            await publish(
                subscriber.bus, (nodes.message(node, node - 1 - 500) for node in range(1, NODES + 1))
            )
            await settled(process, NODES)
            for rate in RATES:
                for _ in range(ATTEMPTS):
                    nodes.next_round()
                    plain = await by_the_clock(
                        rate,
                        bare,
                        lambda _, number: ("bare", b"%d " % number + b"x" * 200),
                        lambda payload: [int(payload.split()[0])],
                    )
                    whole = await by_the_clock(rate, subscriber, nodes.message, nodes.knows)
                    found[rate] = tuple(
                        percentile(seconds, share) for seconds in (whole, plain) for share in (0.5, 0.99)
                    )  # type: ignore[assignment]
                    if found[rate][1] <= LATE or found[rate][3] <= LATE:
                        break
                if found[rate][1] > LATE:
                    break
    return found


async def main(repeats: int) -> None:
    runs = [await one_run() for _ in range(repeats)]
    print(f"{NODES} nodes, {SECONDS:g} s at each rate; medians of {repeats}")
    print(f"{'changes/s':>9} {'p50':>10} {'of bare':>8} {'p99':>10} {'bare p99':>10} {'runs':>5}")
    for rate in RATES:
        each = [run[rate] for run in runs if rate in run]
        if not each:
            break
        p50, p99, bare99 = (median(one[i] for one in each) for i in (0, 1, 3))
        print(
            f"{rate:>9} {p50 * 1e3:>7.2f} ms {median(one[0] / one[2] for one in each):>8.2f} "
            f"{p99 * 1e3:>7.1f} ms {bare99 * 1e3:>7.1f} ms {len(each):>5}"
        )
    sound = [run for run in runs if not (run[max(run)][1] > LATE and run[max(run)][3] > LATE)]
    kept = [max((rate for rate, (_, p99, _, _) in run.items() if p99 <= LATE), default=0) for run in sound]
    if len(sound) < len(runs):
        print(f"{len(runs) - len(sound)} of {len(runs)} runs ended because the machine itself was late")
    if kept:
        print(f"sustained with p99 ≤ {LATE * 1e3:g} ms: {median(kept):.0f} changes/s")


if __name__ == "__main__":
    configure_logs("error", "console")
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))

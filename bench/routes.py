"""Our packed route messages beside ``ip -batch``, as ratios on the same kernel: ``bench/routes.py [N [SIDS]]``.

Needs root. Works in a network namespace of its own that is gone afterwards. Every measurement is the best of a few, so
that a busy machine does not decide. ``ip -batch`` gives up when the kernel is out of per-CPU memory for a moment, which
is why it gets ``-force`` and the routes that it lost are counted.

The number of different SIDs matters to the kernel, whoever writes: it hashes an IPv4 next hop by device and metric, not
by encapsulation (``fib_info_hashfn``), so that each new SID is compared with all others.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from galactic.linux.namespace import Namespace
from galactic.linux.objects import Encap, RouteKey, RouteTarget, route_key, route_of
from galactic.linux.routes import RouteSocket, deletions, settings

ROUNDS = 3
SIDS = 50
TABLE = 101


def routes(count: int, sids: int) -> dict[RouteKey, RouteTarget]:
    """Half of each family, to that many SIDs."""
    first = int(IPv6Address("2001:db8:ff01:100::"))
    targets = [Encap("d0", IPv6Address(first + number).packed, "encap.red") for number in range(sids)]
    made: dict[RouteKey, RouteTarget] = {}
    for number in range(count // 2):
        made[route_key(TABLE, IPv4Network((0x0A000000 + number, 32)))] = targets[number % sids]
        made[route_key(TABLE, IPv6Network(((0x20010010 << 96) + number, 128)))] = targets[number % sids]
    return made


def batch(wanted: dict[RouteKey, RouteTarget]) -> str:
    """The same routes for ip(8)."""
    lines = []
    for key, target in wanted.items():
        assert isinstance(target, Encap)
        segment = IPv6Address(target.segment)
        _, network, _ = route_of(key)
        lines.append(
            f"route replace {network} table {TABLE} proto 154 encap seg6 mode {target.mode} segs {segment} dev d0\n"
        )
    return "".join(lines)


async def best(prepare: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[object]]) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(ROUNDS):
        await prepare()
        begin = time.perf_counter()
        await work()
        times.append(time.perf_counter() - begin)
    return min(times)


async def main(count: int, sids: int) -> None:
    wanted = routes(count, sids)
    key, target = next(iter(wanted.items()))
    with Namespace.fresh() as namespace, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "routes"
        file.write_text(batch(wanted))

        def run(*command: str) -> None:
            namespace.run(lambda: subprocess.run(command, check=False, capture_output=True))

        async def nothing() -> None:
            pass

        async def ip_batch() -> None:
            run("ip", "-force", "-batch", str(file))

        async def ip_show() -> None:
            for family in ("-4", "-6"):
                run("ip", family, "route", "show", "table", str(TABLE))

        run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
        run("ip", "link", "set", "d0", "up")
        socket = RouteSocket(namespace)
        clear = lambda: socket.write(deletions(wanted))  # noqa: E731
        failures = 0

        async def ours() -> None:
            nonlocal failures
            failures += len(await socket.write(settings(wanted)))

        theirs = await best(clear, ip_batch)
        lost = count - len(await socket.dump())
        written = await best(clear, ours)
        complete = await socket.dump() == wanted and not failures
        dumped = await best(nothing, socket.dump)
        shown = await best(nothing, ip_show)
        one = await best(nothing, lambda: socket.write(settings({key: target})))
        deleted = await best(ours, clear)
        socket.close()
    print(f"{count} seg6 routes, half IPv4, half IPv6, {sids} SIDs; best of {ROUNDS}")
    print(f"{'':24} {'ours':>12} {'ip(8)':>12} {'ratio':>7}")
    print(f"{'write, routes/s':24} {count / written:12,.0f} {count / theirs:12,.0f} {theirs / written:6.2f}x")
    print(f"{'dump, routes/s':24} {count / dumped:12,.0f} {count / shown:12,.0f} {shown / dumped:6.2f}x")
    print(f"{'delete, routes/s':24} {count / deleted:12,.0f}")
    print(f"{'one route among all, us':24} {one * 1e6:12,.0f}")
    print(f"routes lost: ours {0 if complete else 'some'}, ip -batch {lost}")
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*given, *(100_000, SIDS)[len(given) :]))

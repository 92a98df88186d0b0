"""Parts of the node's benchmarks: a broker, a namespace, tables of routes, and a node with half a kernel."""

import asyncio
import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import EncapJob, EncapMode, EncapSink, RouteKey, RouteTarget
from galactic.messages import Route
from galactic.node.dataplane.memory import MemoryKernel
from galactic_lab.controlplane.mosquitto import mosquitto

VPC = 1234
FIRST_SID = int(IPv6Address("2001:db8:ff02:100::"))


def route(number: int, family: int = 6, epoch: int = 10**18) -> Route:
    """A route to a SID of its own, as in a VPC of single-address pods."""
    function, node = 1 + number % 60_000, number // 60_000
    segment = IPv6Address(FIRST_SID + (node << 72) + (VPC << 16) + function)
    network = (
        IPv6Network((0x20010010 << 96 | number, 128))
        if family == 6
        else IPv4Network((0x0A000000 + number, 32))
    )
    return Route(str(network), (str(segment),), "default", f"node-{2 + node}", f"{function:04x}", epoch)


def batch(routes: Iterable[Route], table: int) -> str:
    """The same for ip(8)."""
    return "".join(
        f"route replace {route.network} table {table} proto 154 encap seg6 mode encap.red segs {route.segments[0]} "
        "dev lo-galactic\n"
        for route in routes
    )


def median(figures: Iterable[float]) -> float:
    return statistics.median(figures)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition without an event, by polling."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def run(namespace: Namespace, *command: str, given: str | None = None) -> str:
    """The output of a program in the namespace."""
    done = namespace.run(
        lambda: subprocess.run(command, input=given, check=False, capture_output=True, text=True)
    )
    return done.stdout


@contextmanager
def underlay() -> Iterator[Namespace]:
    """A namespace with a device that takes the place of lo-galactic; gone afterwards."""
    with Namespace.fresh() as namespace:
        run(namespace, "ip", "link", "add", "lo-galactic", "type", "veth", "peer", "name", "other")
        for device in ("lo", "lo-galactic", "other"):
            run(namespace, "ip", "link", "set", device, "up")
        yield namespace


@contextmanager
def path_of(namespace: Namespace) -> Iterator[str]:
    """The path by which other processes open the namespace."""
    descriptor = namespace.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def broker() -> AbstractContextManager[str]:
    """The URL of a Mosquitto whose queues are large enough for one message a network."""
    return mosquitto("max_queued_messages 1000000\nset_tcp_nodelay true\n")


class HalfKernel(MemoryKernel):
    """Routes to other nodes in a real kernel; VRFs and the like, which not every kernel has, in memory."""

    def __init__(self, real: LinuxKernel) -> None:
        super().__init__()
        self._real = real

    async def routes(self, mode: EncapMode, sink: EncapSink) -> dict[RouteKey, RouteTarget]:
        await self._real.routes(mode, sink)
        return dict(self.host.routes)

    async def write_encaps(self, mode: EncapMode, jobs: Iterable[EncapJob]) -> None:
        await self._real.write_encaps(mode, jobs)

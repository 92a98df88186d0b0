"""A router beside a real API server: ``python -P bench/router/cluster.py [ATTACHMENTS…]``.

ATTACHMENTS (5,000 unless given) are made with their status and carriers in VPCs of at most 10,000, with Nodes and
NodeSegments of 100 endpoints each; all nodes register over MQTT as well. Then, for one router:

memory: RSS of a router process an attachment, beside one without attachments.
turns: the longest turns of the loop, in processor time: at the start, while VPCs' statuses change, while pods move.
writes: what the router sends to the API server for each pod that moves.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from parts import TUNED, Router, broker, listener, network, prefix, publish, registration, router, status
from servers import api_server, install
from stalls import Meter

from galactic.bus.paho import PahoBus
from galactic.crds.vpcattachment import MAX_CARRIERS
from galactic.garbage import set_survivors_aside
from galactic.kube.api import Object, Patch
from galactic.kube.client import Kube, connect
from galactic.kube.resources import NAMESPACES, NODE_SEGMENTS, NODES, VPC_ATTACHMENTS, VPCS, Resource
from galactic.launch import Health
from galactic.messages import Endpoint
from galactic.names import API_VERSION, function_hex, vpc_hex
from galactic.router.__main__ import Process, wire
from galactic.router.leader.election import Alone
from galactic.settings import RouterSettings
from galactic.srv6 import sid

COUNTS: Final = (5_000,)
IN_VPC: Final = 10_000
ON_NODE: Final = 100
AT_ONCE: Final = 32
MOVES: Final = 200
STALL_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 5.0
assert MAX_CARRIERS  # each attachment has one


def vpc_of(number: int) -> int:
    return 1 + number // IN_VPC


def node_of(number: int) -> int:
    return 1 + number // ON_NODE


def endpoint(number: int, node: int, epoch: int = 1) -> Endpoint:
    vpc, function = vpc_of(number), 1 + number % IN_VPC
    networks = (network(number), f"fd00::{number:x}/128")
    address = str(sid(prefix(node), vpc, function))
    return Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{number}", address, networks, epoch)


def segment_status(node: int, sequence: int, endpoints: Iterable[Endpoint]) -> Object:
    listed = [
        {
            "vpc": endpoint.vpc,
            "function": endpoint.function,
            "attachment": endpoint.attachment,
            "sid": endpoint.sid,
            "networks": list(endpoint.networks),
            "containerID": f"{int(endpoint.function, 16):064x}",
            "ifname": "galactic0",
            "netns": f"/run/netns/cni-{endpoint.function}",
            "epoch": endpoint.epoch,
        }
        for endpoint in endpoints
    ]
    counts = {"vpcs": 1, "endpoints": len(listed)}
    return {"sequence": sequence, "endpoints": listed, "counts": counts, "loopback": str(prefix(node)[1])}


def conditions(*types: str) -> list[Object]:
    return [
        {
            "type": type_,
            "status": "True",
            "reason": type_,
            "message": "as an operator writes it, in a sentence of usual length",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        for type_ in types
    ]


def attachment(number: int) -> tuple[Object, Object]:
    """An attachment, and its status."""
    vpc, node = vpc_of(number), node_of(number)
    addresses = [network(number).replace("/32", "/8"), f"fd00::{number:x}/64"]
    spec = {"vpc": {"name": f"v{vpc}"}, "interface": {"addresses": addresses}}
    body = {
        "apiVersion": API_VERSION,
        "kind": VPC_ATTACHMENTS.kind,
        "metadata": {
            "name": f"a{number}",
            "namespace": "ns",
            "labels": {"galactic.datumapis.com/vpc": vpc_hex(vpc)},
            "finalizers": ["galactic.datumapis.com/operator"],
        },
        "spec": spec,
    }
    known = endpoint(number, node)
    written = {
        "ready": True,
        "vpc": f"ns/v{vpc}",
        "identifier": known.function,
        "addresses": addresses,
        "carriers": [{"pod": f"p{number}", "uid": f"{number:032x}", "node": f"n{node}"}],
        "configuration": {"vpc": vpc_hex(vpc), "networks": ["10.0.0.0/8", "fd00::/64"]},
        "conditions": conditions("Ready", "Accepted", "Granted", "Attached", "Routed"),
        "endpoint": {
            "cluster": "default",
            "node": f"n{node}",
            "sid": known.sid,
            "networks": list(known.networks),
            "epoch": known.epoch,
            "revision": 1,
            "since": "2026-01-01T00:00:00Z",
        },
    }
    return body, written


async def each(items: Iterable[Any], work: Callable[[Any], Awaitable[object]]) -> None:
    """AT_ONCE of them at a time."""
    iterator = iter(items)

    async def worker() -> None:
        for item in iterator:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


class CounterReader(Kube):
    """Counts the writes."""

    writes = 0

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        self.writes += 1
        return await super().patch(resource, name, patch, namespace, subresource=subresource)


async def fill(kube: Kube, count: int) -> None:
    await kube.create(NAMESPACES, {"metadata": {"name": "ns"}})
    for vpc in range(1, vpc_of(count - 1) + 1):
        body = {
            "apiVersion": API_VERSION,
            "kind": VPCS.kind,
            "metadata": {"name": f"v{vpc}", "namespace": "ns"},
        }
        await kube.create(VPCS, body | {"spec": {"networks": ["10.0.0.0/8", "fd00::/64"]}}, "ns")
        written = {"ready": True, "identifier": vpc_hex(vpc)}
        await kube.patch(VPCS, f"v{vpc}", {"status": written}, "ns", subresource="status")

    async def make(number: int) -> None:
        body, written = attachment(number)
        await kube.create(VPC_ATTACHMENTS, body, "ns")
        await kube.patch(VPC_ATTACHMENTS, f"a{number}", {"status": written}, "ns", subresource="status")

    async def node(number: int) -> None:
        await kube.create(NODES, {"metadata": {"name": f"n{number}"}})
        body = {"apiVersion": API_VERSION, "kind": NODE_SEGMENTS.kind, "metadata": {"name": f"n{number}"}}
        await kube.create(NODE_SEGMENTS, body | {"spec": {"prefix": str(prefix(number))}})
        numbers = range((number - 1) * ON_NODE, min(number * ON_NODE, count))
        written = segment_status(number, 1, (endpoint(each_, number) for each_ in numbers))
        await kube.patch(NODE_SEGMENTS, f"n{number}", {"status": written}, subresource="status")

    await each(range(count), make)
    await each(range(1, node_of(count - 1) + 1), node)


async def register(url: str, count: int) -> None:
    async with listener(url, "nodes") as nodes:
        numbers = range(1, node_of(count - 1) + 1)
        await publish(nodes.bus, map(status, numbers))
        messages = (
            registration(
                node,
                1,
                *(
                    endpoint(number, node)
                    for number in range((node - 1) * ON_NODE, min(node * ON_NODE, count))
                ),
            )
            for node in numbers
        )
        await publish(nodes.bus, messages)


async def settled(process: Router, routes: int) -> None:
    while await process.figure("routes") != routes or await process.figure("queue_vpcs"):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    await asyncio.sleep(SETTLE_SECONDS)


async def memory(url: str, count: int) -> float:
    """Bytes of RSS."""
    async with router(url, "--kubernetes", "true") as (process, _):
        await settled(process, 2 * count)
        return float(process.rss())


@asynccontextmanager
async def inside(url: str, kube: Kube) -> AsyncIterator[Any]:
    settings = RouterSettings(mqtt_url=url)
    async with PahoBus(settings, "galactic-router-inside") as bus:
        process = Process("inside", CollectorRegistry(), Health())
        controller = wire(settings, bus, kube, process, election=Alone())
        task = asyncio.create_task(controller.run())
        try:
            yield controller.router
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def turns(url: str, kube: CounterReader, other: Kube, count: int) -> None:
    meter = Meter(STALL_SECONDS)
    watch = asyncio.create_task(meter.run())
    began = time.perf_counter()
    async with inside(url, kube) as made:
        while not (made.idle and made.store.counts[2] == 2 * count):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE_SECONDS)
        meter.report(f"  a router starts ({time.perf_counter() - began:.0f} s)")
        for number in range(20):
            status_ = {"status": {"endpoints": number}}
            await other.patch(VPCS, "v1", status_, "ns", subresource="status")
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        meter.report("  20 changes of a VPC's status")
        before = kube.writes
        moves, now = min(MOVES, count - ON_NODE), [endpoint(pod, 1) for pod in range(ON_NODE)]
        for pod in range(ON_NODE, ON_NODE + moves):  # to the first node
            carrier = {"carriers": [{"pod": f"p{pod}", "uid": "1", "node": "n1"}]}
            await other.patch(VPC_ATTACHMENTS, f"a{pod}", {"status": carrier}, "ns", subresource="status")
            now.append(endpoint(pod, 1, 2))
            written = segment_status(1, pod, now)
            await other.patch(NODE_SEGMENTS, "n1", {"status": written}, subresource="status")
        await asyncio.sleep(SETTLE_SECONDS)
        meter.report(f"  {moves} pods move")
        print(f"  writes of the router a pod that moved: {(kube.writes - before) / moves:.2f}")
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


async def measure(count: int) -> None:
    with api_server() as folder, broker(TUNED) as url, broker(TUNED) as empty:
        os.environ["KUBECONFIG"] = str(folder / "kubeconfig")
        async with await connect() as kube:
            await install(kube)
            await kube.create(NAMESPACES, {"metadata": {"name": "galactic-system"}})  # of the Lease
            least = await memory(empty, 0)
            began = time.perf_counter()
            await fill(kube, count)
            print(f"{count:,} attachments ({time.perf_counter() - began:.0f} s to make them)")
            await register(url, count)
            per = (await memory(url, count) - least) / count / 1024
            print(f"  memory: {per:.2f} KiB of RSS an attachment, beside {least / 2**20:.0f} MiB")
            async with CounterReader((await connect())._api) as counting:  # noqa: SLF001
                await turns(url, counting, kube, count)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    set_survivors_aside()  # as galactic.launch does
    for count in map(int, sys.argv[1:] or COUNTS):
        asyncio.run(measure(count))


if __name__ == "__main__":
    main()

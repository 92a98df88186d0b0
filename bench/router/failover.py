"""The time without a leader: ``python -P bench/router/failover.py [REPEATS]``.

Two routers, processes of their own, with a Mosquitto and either election as it is shipped: PostgreSQL's advisory lock
(standalone), and a Lease of a real API server (in Kubernetes). The leader is ended by SIGKILL or SIGTERM,
and at once a node registers a change. Seconds from there until a subscriber receives it: this includes noticing that
the leader is gone, claiming, reading the retained tables, and publishing. Medians and the longest of REPEATS
(5).
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

import structlog

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "operator"))
from parts import (
    TOPICS,
    VPC,
    Listener,
    broker,
    endpoint,
    listener,
    median,
    prefix,
    publish,
    registration,
    status,
)
from servers import api_server, install

from galactic.kube.client import Kube, connect
from galactic.kube.resources import NAMESPACES, NODE_SEGMENTS, VPC_ATTACHMENTS, VPCS
from galactic.messages import Changes, decode
from galactic.names import API_VERSION, function_hex, vpc_hex
from galactic_lab.controlplane.postgres import temporary

SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM)
CHANGES: Final = TOPICS.changes(vpc_hex(VPC))
NAMESPACE: Final = "ns"
ROUTES: Final = 20
PATIENCE_SECONDS: Final = 60.0


class Replica:
    """One of two routers. ``leads`` by what it logs."""

    def __init__(self, name: str, options: list[str], environment: dict[str, str], folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._command = [sys.executable, "-P", "-m", "galactic.router", "--metrics-port", str(port), *options]
        self._environment, self._log = os.environ | environment, folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def end(self, how: int) -> None:
        assert self._process
        self._process.send_signal(how)

    def wait(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def logged(self, what: str) -> bool:
        return self._log.exists() and what in self._log.read_text(errors="replace")

    @property
    def leads(self) -> bool:
        return self.logged("tables adopted")

    @property
    def ready(self) -> bool:
        """It has read everything that the broker retains."""
        return self.logged("broker read")


async def once(one: Replica, other: Replica, subscriber: Listener, how: int, number: int) -> float:
    """Seconds without a leader."""
    one.start()
    await true(lambda: one.leads)
    other.start()
    await true(lambda: other.ready)
    await asyncio.sleep(3.0)  # its election has seen the leader, its tables are warm
    subscriber.received.clear()
    one.end(how)
    began = time.perf_counter()
    try:
        await publish(subscriber.bus, [registration(1, number, endpoint(1, 1, network(1), epoch=number))])

        def published() -> bool:
            changes = (
                decode(Changes, payload) for topic, payload, _ in subscriber.received if topic == CHANGES
            )
            return any(route.epoch == number for change in changes for route in change.set)

        await subscriber.until(published, PATIENCE_SECONDS)
        return time.perf_counter() - began
    finally:
        other.end(signal.SIGTERM)
        await asyncio.to_thread(one.wait)
        await asyncio.to_thread(other.wait)


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - another process's log
            await asyncio.sleep(0.05)


def network(number: int) -> str:
    return f"10.1.1.{number}/32"


async def measure(title: str, options: list[str], environment: dict[str, str], repeats: int) -> None:
    with broker() as url, tempfile.TemporaryDirectory() as name:
        options = [*options, "--mqtt-url", url]
        replicas = [Replica(replica_name, options, environment, Path(name)) for replica_name in ("a", "b")]
        async with listener(url, "nodes", CHANGES) as subscriber:
            await publish(subscriber.bus, [status(1), status(2)])
            many = (endpoint(2, function, network(function)) for function in range(2, ROUTES + 1))
            await publish(
                subscriber.bus, [registration(1, 1, endpoint(1, 1, network(1))), registration(2, 1, *many)]
            )
            number = time.time_ns()
            for how in SIGNALS:
                found = []
                for _ in range(repeats):
                    number += 1
                    found.append(await once(*replicas, subscriber, how, number))
                print(
                    f"{title:<14} {how.name:<8} median {median(found):5.2f} s, longest {max(found):5.2f} s",
                    flush=True,
                )


@contextmanager
def database() -> Iterator[str]:
    with temporary() as server:
        yield server.url()


@asynccontextmanager
async def cluster() -> AsyncIterator[dict[str, str]]:
    """The environment of routers in a cluster with the attachments that the nodes speak of."""
    with api_server() as folder:
        os.environ["KUBECONFIG"] = str(folder / "kubeconfig")
        async with await connect() as kube:
            await install(kube)
            await kube.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
            await attachments(kube)
        yield {"KUBECONFIG": str(folder / "kubeconfig"), "POD_NAMESPACE": NAMESPACE}


async def attachments(kube: Kube) -> None:
    """As the operator would leave them."""
    made: dict[str, object] = {
        "apiVersion": API_VERSION,
        "kind": "VPC",
        "metadata": {"name": "blue", "namespace": NAMESPACE},
    }
    await kube.create(VPCS, made | {"spec": {"networks": ["10.1.0.0/16"]}}, NAMESPACE)
    ready = {"ready": True, "identifier": vpc_hex(VPC)}
    await kube.patch(VPCS, "blue", {"status": ready}, NAMESPACE, subresource="status")
    for number in (1, 2):
        segment = {"apiVersion": API_VERSION, "kind": "NodeSegment", "metadata": {"name": f"n{number}"}}
        await kube.create(NODE_SEGMENTS, segment | {"spec": {"prefix": str(prefix(number))}})
    for number in range(1, ROUTES + 1):
        name, address = f"a{number}", str(ip_interface(network(number)).ip) + "/24"
        spec = {
            "vpc": {"apiVersion": API_VERSION, "kind": "VPC", "name": "blue"},
            "interface": {"addresses": [address]},
        }
        body = {
            "apiVersion": API_VERSION,
            "kind": "VPCAttachment",
            "metadata": {"name": name, "namespace": NAMESPACE},
        }
        await kube.create(VPC_ATTACHMENTS, body | {"spec": spec}, NAMESPACE)
        given = {
            "ready": True,
            "identifier": function_hex(number),
            "addresses": [address],
            "vpc": f"{NAMESPACE}/blue",
        }
        await kube.patch(VPC_ATTACHMENTS, name, {"status": given}, NAMESPACE, subresource="status")


async def main(repeats: int) -> None:
    with database() as url:
        await measure(
            "advisory lock",
            ["--kubernetes=false", "--require-entitlements=false", "--database-url", url],
            {},
            repeats,
        )
    async with cluster() as environment:
        await measure("Lease", [], environment, repeats)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))

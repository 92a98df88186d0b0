"""A node that follows one VPC, as a process of its own for ``table.py`` to measure: real broker, real routes.

Arguments: the broker's URL and the path of the network namespace. Prints ``ready``, then follows the VPC for each
``join N`` on standard input and prints ``joined SECONDS`` when N routes are in the kernel; ``usage`` prints RSS in KiB
and CPU seconds.
"""

import asyncio
import gc
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Network, ip_interface
from pathlib import Path

from parts import VPC, HalfKernel, until
from prometheus_client import CollectorRegistry

from galactic.bus.paho import PahoBus
from galactic.launch import configure_logs
from galactic.linux.events import Events
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.messages import Topics
from galactic.node.dataplane.dataplane import Dataplane
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.sync import Sync
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions
from galactic.node.state.attachment import Attachment
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store
from galactic.settings import NodeSettings

HOST = Host(IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40"), "eth0")
POD = Attachment(VPC, 65_000, "bench/pod", "c1", "/ns/1", "galactic0", (ip_interface("2001:11::1/64"),))


def usage() -> str:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') // 1024} {time.process_time():.4f}"


async def main(url: str, path: str, folder: Path) -> None:
    configure_logs("error", "console")
    real = LinuxKernel(Namespace.at(path))
    kernel = HalfKernel(real)
    kernel.add_namespace(POD.netns)
    records = Checkpoint(folder)
    records.prepare()
    store = Store("default", records, Clock())
    store.set_prefix(HOST.prefix)
    metrics, topics = Metrics(CollectorRegistry()), Topics("galactic/v1")
    sync = Sync(
        kernel, store, lambda: HOST, metrics, Dataplane(kernel, store, kernel.namespaces.__contains__)
    )
    settings = NodeSettings(mqtt_url=url, node_name="node-1", srv6_block=str(HOST.block))
    async with PahoBus(settings, "node-1") as bus:
        subscriptions = Subscriptions(bus, topics, store, metrics)
        session = Session(bus, NodeTopics(topics, "default", "node-1"), store, subscriptions, metrics)

        async def drift() -> None:
            with Events(Namespace.at(path), own_port=real.port) as events:
                async for changed in events:
                    sync.on_external_change(changed)

        tasks = [asyncio.create_task(work) for work in (sync.run(), session.run(), drift())]
        await sync.ready.wait()
        await until(lambda: bus.connected)
        print("ready", flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while words := (await lines.readline()).decode().split():
            if words[0] == "join":
                started = time.perf_counter()
                store.attach(replace(POD))
                count = int(words[1])
                await until(partial(lambda count: sync.routes >= count, count))
                print(f"joined {time.perf_counter() - started:.4f}", flush=True)
            else:
                print(usage(), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    real.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1], sys.argv[2], Path(folder)))

# ruff: noqa: SLF001  (what is replaced is private)
"""The node controller's store, sync, calls and server, with events of drift; no packet filter, broker or API server.

Every pod carries every attachment ``bench/aN``. With ``--stand-in``, for a kernel without VRFs: a bridge stands for
each VRF, End.DT6 for End.DT46, an ifb for the dummy. As many messages of the same kinds to the same kernel; no packet
would find its way.
"""

import asyncio
import sys
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from galactic.linux import devices, netlink
from galactic.linux.events import Events
from galactic.linux.kernel import LinuxKernel
from galactic.linux.objects import Link, Objects
from galactic.names import base62
from galactic.node.cni.calls import Calls
from galactic.node.cni.server import Server
from galactic.node.dataplane import plan
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.sync import Sync
from galactic.node.metrics import Metrics
from galactic.node.state.attachment import PluginConfig, PodRef
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store

STANDS_FOR = {"vrf": "bridge", "dummy": "ifb", "veth": "veth"}
_END_DT6, _SEG6_LOCAL_TABLE = 7, 3


class StandIns:
    """Replaces what the kernel lacks, in the modules that name it."""

    def __init__(self) -> None:
        self._tables: dict[str, int] = {}
        netlink._ACTION_END_DT46 = _END_DT6
        netlink._SEG6_LOCAL_VRFTABLE = _SEG6_LOCAL_TABLE
        self._make, self._link, self._host = devices.Devices._make, devices.Devices._link, plan.host
        devices._KINDS = frozenset(STANDS_FOR.values())
        devices.Devices._make = self.make()
        devices.Devices._link = self.link()
        plan.host = self.host

    def make(self) -> Any:
        async def made(own: devices.Devices, name: str, link: Link) -> None:
            self._tables[name] = link.table
            group = devices._group(link.kind)
            if link.kind == "veth":
                await self._make(own, name, link)
            else:
                kind = STANDS_FOR[link.kind]
                await own._route.link("add", ifname=name, kind=kind, group=group, state="up")

        return made

    def link(self) -> Any:
        kinds = {stand_in: kind for kind, stand_in in STANDS_FOR.items()}
        groups = devices._group

        def read(own: devices.Devices, message: Any) -> Link | None:
            kind = kinds.get(message.get(("linkinfo", "kind")), "")
            devices._group = lambda _: groups(kind)
            try:
                found = self._link(own, message)
            finally:
                devices._group = groups
            name = str(message.get("ifname"))
            return found._replace(kind=kind, table=self._tables.get(name, 0)) if found and kind else None

        return read

    def host(self, facts: Host) -> Objects:
        wanted = self._host(facts)
        wanted.sysctls.pop("net/vrf/strict_mode", None)
        return wanted


class EveryPod:
    """The entitlements of all pods, without an API server."""

    async def entitled(self, _pod: PodRef, name: str) -> PluginConfig:
        number = int(name.removeprefix("bench/a"))
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/8"
        return PluginConfig("jU", base62(number), name, addresses=(address,), networks=("10.0.0.0/8",))


async def main(socket: Path, prefix: str) -> None:
    records = Checkpoint(socket.parent)
    records.prepare()
    store = Store("default", records, Clock())
    store.set_prefix(IPv6Network(prefix))
    metrics = Metrics(CollectorRegistry())
    host = Host(IPv6Network(prefix), IPv6Network("2001:db8:ff00::/40"), "eth0")
    async with LinuxKernel() as kernel:
        sync = Sync(kernel, store, lambda: host, metrics)
        problem = lambda: None if sync.ready.is_set() else sync.problem  # noqa: E731
        server = Server(socket, Calls(store, sync, EveryPod(), problem), metrics)

        async def drift() -> None:
            with Events(own_port=kernel.port) as changes:
                async for changed in changes:
                    sync.on_external_change(changed)

        async with asyncio.TaskGroup() as tasks:
            for part in (sync.run(), server.run(), drift()):
                tasks.create_task(part)


if __name__ == "__main__":
    if "--stand-in" in sys.argv[3:]:
        StandIns()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

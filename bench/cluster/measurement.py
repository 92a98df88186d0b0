"""The measurements of one cluster."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from load import WIDE, Audit, Load, narrow
from paho.mqtt import subscribe
from preload import Preload
from processes import BROKER, COMPONENTS, NAMESPACE, ROUTERS, Cluster
from result import Result, by_kind, note
from servers import install
from start import start
from waits import POLL_SECONDS, WRITTEN_SECONDS, Waits, ours

from galactic.errors import GalacticError
from galactic.kube.client import Kube

PER_SECOND: Final = 10.0
IDLE_SECONDS: Final = 15.0


class Measurement:
    """One cluster, from its start to its end.

    ``paced``: pods whose writes and times are counted; ``changes``: pods that come and go. ``preloaded``: attachments
    that are there before the start.
    """

    def __init__(
        self, made: Cluster, kube: Kube, attachments: int, *, paced: int, changes: int, preloaded: int = 0
    ) -> None:
        self.cluster, self.kube = made, kube
        self._paced_pods, self._changes = paced, changes
        self.load, self.audit = Load(kube, made.count), Audit(made.folder / "audit.log")
        self.waits = Waits(made, self.audit)
        self.result = Result(made.count, attachments, paced, preloaded)

    async def run(self) -> Result:
        cluster, result = self.cluster, self.result
        await install(self.kube)
        await self.load.namespaces(NAMESPACE, "bench")
        await self.load.admission(cluster.webhook_url)
        for name in COMPONENTS:
            cluster.programs[name].start()
        await self.load.nodes()
        began = time.monotonic()
        for program in cluster.nodes:
            program.start()
        await self.waits.until(lambda figures: figures["settled"] == cluster.count)
        note(f"{cluster.count} nodes have their prefix ({time.monotonic() - began:.0f} s)")
        await self._vpcs()
        await self.waits.quiet()
        result.base = cluster.memory()
        await cluster.turns()
        if result.preloaded:
            await self._preload()
        await self._fill()
        await self._paced()
        await self._change()
        await self._broker()
        await self._restarts()
        return result

    async def _vpcs(self) -> None:
        while True:
            try:
                await self.load.vpcs(self.result.attachments)
            except GalacticError as error:  # the webhook is not registered yet
                note(f"VPCs not made yet: {error}")
                await asyncio.sleep(1)
            else:
                return

    async def _preload(self) -> None:
        count = self.result.preloaded
        await Preload(self.cluster, self.kube, self.load, self.waits, count).run()
        self.result.start = start_ = await start(self.cluster, self.waits, count)
        self.result.turns["preloaded start"] = await self.cluster.turns()
        note(f"writes at the start: {sum(start_.writes.values())}, {by_kind(start_.writes, 1)}")

    async def _fill(self) -> None:
        attachments = self.result.attachments
        count = attachments - self.result.preloaded
        began, before = time.monotonic(), self.cluster.cpu()
        making = asyncio.create_task(self.load.fill(range(self.result.preloaded, attachments)))
        await self.waits.until(lambda figures: figures["attached"] == attachments, making)
        seconds = time.monotonic() - began
        self.result.ready_per_second = count / seconds
        note(f"{count} pods attached ({seconds:.0f} s, {count / seconds:.0f}/s)")
        await self.waits.quiet()
        after = self.cluster.cpu()
        self.result.spent = {name: (after[name] - before[name]) / count for name in after}
        self.result.turns["pods start"] = await self.cluster.turns()
        self._memory("filled")

    def _memory(self, name: str) -> None:
        result = self.result
        now = self.cluster.memory()
        result.memory[name] = {
            process: (now[process] - result.base[process]) / result.attachments for process in now
        }

    async def _paced(self) -> None:
        """Pods one after the other, in the VPCs of ten nodes."""
        result, before = self.result, await self.cluster.counts()
        await self.waits.writes()  # those of the pods before
        self.cluster.arrived.clear()
        names = []
        for number in range(self._paced_pods):
            node = 1 + number % self.cluster.count
            names.append(f"m{number}")
            await self.load.start(names[-1], node, narrow(node, 0))
            await asyncio.sleep(1 / PER_SECOND)
        await self.waits.until(lambda figures: figures["attached"] == before["attached"] + self._paced_pods)
        await self.waits.quiet()
        result.turns["paced"] = await self.cluster.turns()
        result.writes = await self.waits.writes()
        concerned = min(self._paced_pods, self.cluster.count)
        result.by_others = sum(
            count
            for (user, _, _), count in result.writes.items()
            if user.startswith("galactic-node-n") and int(user.rpartition("n")[2]) > concerned
        )
        await self.cluster.counts()
        arrived = self.cluster.arrived
        result.reachable = sorted(
            arrived[name][1] - self.load.bound[name] for name in names if name in arrived
        )
        note(
            f"routes of {len(result.reachable)} of {self._paced_pods} pods arrived at all nodes of their VPC"
        )

    async def _change(self) -> None:
        """One pod comes and goes in the VPC of all nodes."""
        before = await self.cluster.counts()
        idle = await self._spent(lambda: asyncio.sleep(IDLE_SECONDS))
        await self.waits.writes()
        self.audit.lists.clear()

        async def changes() -> None:
            for number in range(self._changes):
                node, name = 1 + number % self.cluster.count, f"c{number}"
                await self.load.start(name, node, WIDE)
                while name not in self.cluster.arrived:
                    await self.cluster.counts()
                    await asyncio.sleep(POLL_SECONDS)
                await self.load.delete(name)
                while (await self.cluster.counts())["endpoints"] != before["endpoints"]:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS)
                await asyncio.sleep(0.5)
            await asyncio.sleep(WRITTEN_SECONDS)

        busy = await self._spent(changes)
        for name, (cpu, seconds) in busy.items():
            rest = idle[name][0] / idle[name][1] * seconds
            self.result.change[name] = (cpu - rest) / self._changes
        self.result.turns["one change"] = await self.cluster.turns()
        writes = await self.waits.writes()
        total, kinds = sum(writes.values()) / self._changes, by_kind(writes, self._changes)
        lists = Counter({key: count for key, count in self.audit.lists.items() if ours(key[0])})
        self.result.whole, self.result.lists = total, sum(lists.values()) / self._changes
        note(f"{total:.2f} writes while a pod comes and goes: {kinds}")
        note(f"{self.result.lists:.2f} lists: {by_kind(lists, self._changes)}")

    async def _spent(self, work: Callable[[], Awaitable[None]]) -> dict[str, tuple[float, float]]:
        """Seconds of processor time and of the clock, by process."""
        began, before = time.monotonic(), self.cluster.cpu()
        await work()
        seconds, after = time.monotonic() - began, self.cluster.cpu()
        return {name: (after[name] - before[name], seconds) for name in after}

    async def _broker(self) -> None:
        """It is killed and starts again with what it had saved."""
        broker, began = self.cluster.broker, time.monotonic()
        await self.cluster.turns()
        broker.kill()
        broker.start(persistence=True, extra=BROKER)
        count = self.cluster.count
        await self.waits.until(lambda figures: figures["settled"] == count and not figures["fallback"])
        seconds = time.monotonic() - began
        await self.waits.quiet()
        sent = await broker_bytes(broker.port)
        self.result.broker = seconds, sent
        self.result.turns["broker restart"] = await self.cluster.turns()
        note(f"the broker restarted: {seconds:.1f} s, {sent / 2**20:.1f} MiB")

    async def _restarts(self) -> None:
        """Each process starts with everything there, the router that leads last."""
        leader = self.cluster.leader
        for name in sorted(COMPONENTS, key=lambda name: name == leader):
            program = self.cluster.programs[name]
            began = time.monotonic()
            program.stop()
            program.start()
            await self._healthy(name)
            note(f"{name} restarted ({time.monotonic() - began:.0f} s)")
        await self.waits.quiet()
        self.result.turns["start"] = await self.cluster.turns()
        self._memory("restarted")

    async def _healthy(self, name: str) -> None:
        while True:
            try:
                if name in ROUTERS:
                    ready = self.cluster.metric(name, "galactic_router_endpoints")
                    if ready:
                        return
                else:
                    self.cluster.metric(name, "galactic_build_info")
                    await asyncio.sleep(5)
                    return
            except OSError:
                pass
            await asyncio.sleep(0.5)


async def broker_bytes(port: int) -> int:
    """The bytes that the broker has sent and received since its start."""
    topics = ["$SYS/broker/bytes/sent", "$SYS/broker/bytes/received"]
    messages = await asyncio.to_thread(
        subscribe.simple, topics, msg_count=len(topics), hostname="127.0.0.1", port=port
    )
    return sum(int(message.payload) for message in messages)

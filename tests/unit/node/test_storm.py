"""Everything at once, in any order: in the end the kernel is as planned, and nothing else is left.

Each seed is one history, whatever the machine: time passes by itself.
"""

import asyncio
import random
from contextlib import suppress
from ipaddress import ip_interface, ip_network
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from galactic.errors import GalacticError
from galactic.linux.objects import Encap, Objects, change, encap_key
from galactic.messages import Route
from galactic.node.dataplane import plan
from galactic.node.dataplane.dataplane import Dataplane, union
from galactic.node.dataplane.memory import MemoryKernel
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.sync import Sync
from galactic.node.metrics import Metrics
from galactic.node.state.attachment import Attachment
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.remote import Source, entry
from galactic.node.state.store import Store

PREFIX, SPACE = ip_network("2001:db8:ff01:100::/56"), ip_network("2001:db8:ff00::/40")


class Storm:
    def __init__(self, directory, seed, *, calm):
        self.calm = calm
        self.random = random.Random(seed)
        self.kernel = MemoryKernel()
        checkpoint = Checkpoint(directory)
        checkpoint.prepare()
        self.store = Store(
            "default", checkpoint, Clock(lambda: round(asyncio.get_running_loop().time() * 1e9))
        )
        self.store.set_prefix(PREFIX)
        self.host = Host(PREFIX, SPACE, "eth0")
        self.dataplane = Dataplane(self.kernel, self.store, self.kernel.namespaces.__contains__)
        self.sync = Sync(
            self.kernel, self.store, lambda: self.host, Metrics(CollectorRegistry()), self.dataplane
        )
        self.containers = 0
        self.revision = 0
        self.published = {1: {}, 2: {}}  # MQTT's tables, changed in place

    async def pod(self, vpc, function):
        """One attachment's life, over and over: ADD and DEL as the calls make them, now and then without a DEL."""
        for _ in range(6):
            made = self.store.attach(self.attachment(vpc, function))
            try:
                await self.sync.wait_applied(made.key)
                # Its own address may be given to another holder, or back, while that is read.
                own = f"route 10.0.{vpc}.{function}/32"
                missing = [words for words in await self.sync.missing(made) if not words.startswith(own)]
                assert not (self.calm and missing), "a successful ADD is in the kernel"
            except GalacticError:
                self.store.detach(made.key)
                continue
            await asyncio.sleep(self.random.random() / 20)
            if self.random.random() < 0.3:
                self.kernel.remove_namespace(made.netns)
                self.store.detach(made.key)
                if self.random.random() < 0.5:
                    self.store.attach(self.attachment(vpc, function))  # takes its place at once
            elif self.random.random() < 0.9:
                self.store.detach(made.key)

    def attachment(self, vpc, function):
        """Of a new pod."""
        self.containers += 1
        return Attachment(
            vpc=vpc,
            function=function,
            name=f"a/{vpc}-{function}",
            container=f"c{self.containers}",
            netns=self.kernel.add_namespace(f"/ns/{self.containers}"),
            ifname="galactic0",
            addresses=(ip_interface(f"10.0.{vpc}.{function}/24"),),
        )

    def routes(self, vpc, count):
        routes = [
            Route(
                f"10.0.{vpc}.{last}/32",
                (f"2001:db8:ff0{self.random.randint(2, 3)}:100::{vpc}:{last:x}",),
                "default",
                "n",
                "0001",
                1,
            )
            for last in self.random.sample(range(1, 9), count)
        ]
        return dict(entry(vpc, "default", route) for route in routes)

    async def tables(self):
        for _ in range(120):
            vpc = self.random.randint(1, 2)
            self.revision += 1
            if self.random.random() < 0.3:
                self.published[vpc] = self.routes(vpc, 4)
                self.set_table(vpc)
            else:
                published, changed, deleted = (
                    self.published[vpc],
                    self.routes(vpc, 2),
                    self.random.random() < 0.4,
                )
                before = {network: published.get(network) for network in changed}
                published |= changed
                for network in changed if deleted else ():
                    del published[network]
                self.set_table(vpc, before)
            await asyncio.sleep(self.random.random() / 40 if self.random.random() < 0.7 else 0)
            self.choose()

    def set_table(self, vpc, before=None):
        self.store.set_table(vpc, Source.MQTT, self.revision, self.published[vpc], before)

    def choose(self):
        """As Following does, when it comes to it."""
        for vpc in self.store.attachments.hosted:
            if self.store.tables.view(vpc, Source.MQTT) is None:
                self.set_table(vpc)

    async def meddler(self):
        for _ in range(15):
            await asyncio.sleep(self.random.random() / 15)
            match self.random.randint(0, 2):
                case 0 if self.kernel.host.links:
                    self.kernel.lose_link(self.random.choice(list(self.kernel.host.links)))
                case 1 if self.kernel.host.routes:
                    del self.kernel.host.routes[self.random.choice(list(self.kernel.host.routes))]
                case _:
                    self.kernel.fail = f"G00000000{self.random.randint(1, 2)}00{self.random.randint(1, 3)}H"

    def wanted(self):
        tables = plan.tables_of(self.kernel.host)
        parts = [plan.host(self.host)]
        for vpc in self.store.attachments.hosted:
            parts.append(plan.vpc(vpc, tables[vpc]))
            for attachment in self.store.attachments.of_vpc(vpc):
                owned = {n for n in attachment.announces if self.store.tables.holds(attachment, n)}
                parts.append(plan.attached(self.host, tables[vpc], attachment, owned.__contains__))
            routes, elsewhere = self.store.tables[vpc], Objects()
            for network in routes:
                segment = routes.segment(network)
                key = encap_key(tables[vpc], network, segment)
                elsewhere.routes[key] = Encap("lo-galactic", segment, "encap.red")
            parts.append(elsewhere)
        return union(parts)


@pytest.mark.parametrize("calm", [pytest.param(True, id="calm"), pytest.param(False, id="with-meddling")])
@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_the_kernel_ends_up_as_planned(tmp_path, seed, calm, monkeypatch):
    monkeypatch.setattr("galactic.node.dataplane.sync.BACKOFF_SECONDS", (0.01, 0.05))
    monkeypatch.setattr("galactic.node.dataplane.sync.EVENT_SECONDS", 0.02)
    monkeypatch.setattr(
        "galactic.node.dataplane.sync.time", SimpleNamespace(monotonic=asyncio.get_running_loop().time)
    )
    storm = Storm(tmp_path, seed, calm=calm)
    task = asyncio.create_task(storm.sync.run())
    pods = [storm.pod(vpc, function) for vpc in (1, 2) for function in (1, 2, 3)]
    async with asyncio.timeout(30):
        await asyncio.gather(*pods, storm.tables(), *([] if calm else [storm.meddler()]))
    storm.choose()
    storm.kernel.fail = ""
    difference = None
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while difference is None or difference:
                if not calm:  # without other writers no drift has to be found
                    storm.sync.on_external_change()
                await asyncio.sleep(0.05)
                if storm.store.attachments.hosted <= plan.tables_of(storm.kernel.host).keys():
                    difference = change(storm.wanted(), await storm.kernel.read())
    assert difference is not None
    assert not difference
    assert not task.done()
    for attachment in storm.store.attachments.values():
        inside = storm.kernel.namespaces[attachment.netns]["galactic0"]
        assert not change(plan.pod(attachment), inside)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

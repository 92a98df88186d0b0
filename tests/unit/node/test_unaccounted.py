"""A node whose records are lost while its kernel lives, one that was rebooted, and one that gets another prefix."""

import asyncio
import copy
import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Network

import pytest
from statuses import vpcattachment
from waits import until

from galactic.bus.memory import MemoryBroker
from galactic.errors import Unreachable
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import NODE_SEGMENTS, VPC_ATTACHMENTS
from galactic.linux.objects import route_of
from galactic.messages import NodeEndpoints, Topics, decode
from galactic.node.kubernetes import unaccounted
from galactic.node.kubernetes.segment import Facts, Segment
from galactic.node.kubernetes.unaccounted import UnaccountedAttachments
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions

KEY = (1234, 42)
SPACE = IPv6Network("2001:db8:ff00::/40")
TOPICS = Topics("galactic/v1")
OWN = NodeTopics(TOPICS, "default", "node-1")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(unaccounted, "BACKOFF_SECONDS", (0.01, 0.02))


class Server(MemoryApi):
    """An API server with a NodeSegment. ``away``: no request is answered. ``without_attachments``: no GET of one."""

    def __init__(self):
        super().__init__()
        self.away = self.without_attachments = False
        self.fail = self._failure
        spec = {"prefix": "2001:db8:ff01:100::/56"}
        self.put(NODE_SEGMENTS, {"metadata": {"name": "node-1"}, "spec": spec})

    def _failure(self, verb, _resource, _name):
        if self.away:
            return Unreachable("kube-apiserver", "away")
        if verb == "find" and self.without_attachments:
            return Unreachable("kube-apiserver", "no attachments now")
        return None

    @property
    def asked(self):
        """The number of GETs of attachments."""
        return sum((verb, kind) == ("find", VPC_ATTACHMENTS.kind) for verb, kind, _ in self.requests)

    @property
    def status(self):
        return self.stored(NODE_SEGMENTS, "node-1").get("status", {})

    def set_status(self, **fields):
        self.change(NODE_SEGMENTS, "node-1", {"status": fields}, subresource="status")


@asynccontextmanager
async def accounting(node, kube, broker=None):
    """The node with API server and broker."""
    segment = Segment(kube, "node-1", node.store, lambda: Facts({}, ()))
    unaccounted = UnaccountedAttachments(kube, node.store, lambda: segment.endpoints)
    parts = [segment.run(), unaccounted.run()]
    if broker:
        bus = broker.session(OWN.will)
        now = asyncio.get_running_loop().time
        subscriptions = Subscriptions(bus, TOPICS, node.store, node.metrics, now)
        session = Session(bus, OWN, node.store, subscriptions, node.metrics)
        parts.append(session.run())
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield unaccounted
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def lose_records(node):
    """The controller dies, and its folder with it; the kernel goes on."""
    await node.stop()
    shutil.rmtree(node.directory)


@pytest.fixture
async def attached(node, config):
    """A node with one pod, and what the API server knows of it."""
    kube = Server()
    kube.put(VPC_ATTACHMENTS, vpcattachment(config()), "default")
    broker = MemoryBroker()
    async with accounting(node, kube, broker):
        assert (await node.cni("ADD", config())).code == 0
        await until(lambda: kube.status.get("endpoints") and announced(broker))
    return node, kube, broker


def announced(broker):
    payload = broker.retained.get(TOPICS.endpoints("default", "node-1"))
    return payload and [endpoint.attachment for endpoint in decode(NodeEndpoints, payload).endpoints]


def state(kernel):
    """All that is in the kernel."""
    return copy.deepcopy((kernel.host, kernel.namespaces, kernel.peers))


async def test_lost_records_are_rebuilt_and_until_then_nothing_is_deleted(attached):
    node, kube, broker = attached
    before, attachment = state(node.kernel), node.store.attachments[KEY]
    await lose_records(node)
    kube.away = True
    node.kernel.writes.clear()
    await node.start()
    async with accounting(node, kube, broker) as unaccounted:
        await until(lambda: unaccounted.problem)
        assert "not read yet" in unaccounted.problem
        await node.sync.ready.wait()
        assert state(node.kernel) == before
        assert announced(broker) == ["default/blue-G"], "what is not known is not withdrawn"
        kube.away, kube.without_attachments = False, True
        await until(lambda: "no attachments" in unaccounted.problem)
        asked = kube.asked
        await until(lambda: kube.asked > asked + 2)
        assert [endpoint["attachment"] for endpoint in kube.status["endpoints"]] == ["default/blue-G"]
        assert state(node.kernel) == before
        kube.without_attachments = False
        await until(lambda: node.store.attachments.complete)
        assert replace(node.store.attachments[KEY], settled=attachment.settled) == attachment, (
            "with its epoch"
        )
        assert [endpoint["attachment"] for endpoint in kube.status["endpoints"]] == ["default/blue-G"]
        assert announced(broker) == ["default/blue-G"]
        assert unaccounted.problem is None
        await node.sync.wait_applied(KEY)
    assert state(node.kernel) == before
    assert not any(node.kernel.writes), "an address that is set again is away for a moment"
    assert (await node.cni("DEL")).code == 0
    assert not node.store.attachments


@pytest.mark.parametrize("lost", ["attachment", "endpoint", "namespace"])
async def test_an_attachment_without_a_counterpart_is_removed(attached, lost):
    node, kube, broker = attached
    (endpoint,) = kube.status["endpoints"]
    match lost:
        case "attachment":
            kube.remove(VPC_ATTACHMENTS, "blue-G", "default")
        case "endpoint":
            kube.set_status(endpoints=[])
        case _:
            kube.set_status(endpoints=[endpoint | {"netns": "/proc/self/ns/net"}])
    await lose_records(node)
    await node.start()
    async with accounting(node, kube, broker):
        await until(lambda: node.store.attachments.complete and not node.kernel.peers)
        await until(lambda: kube.status["endpoints"] == [] and announced(broker) == [])
    assert not [name for name in node.kernel.host.links if name.startswith("G")]


async def test_after_a_reboot_the_status_forgets_and_epochs_go_on(attached, config):
    """Whatever the clock is now: the status' entries from before are older."""
    node, kube, broker = attached
    (endpoint,) = kube.status["endpoints"]
    ahead = endpoint["epoch"] + 3600 * 10**9
    kube.set_status(endpoints=[endpoint | {"epoch": ahead}], sequence=ahead + 7)
    await lose_records(node)
    node.kernel = type(node.kernel)()
    node.kernel.add_namespace("/ns/1")
    await node.start()
    async with accounting(node, kube, broker):
        await until(lambda: kube.status["endpoints"] == [])
        assert kube.status["sequence"] > ahead + 7
        assert (await node.cni("ADD", config())).code == 0
        await until(lambda: kube.status["endpoints"])
        assert kube.status["endpoints"][0]["epoch"] > ahead
        await until(lambda: announced(broker) == ["default/blue-G"])
        assert (
            decode(NodeEndpoints, broker.retained[TOPICS.endpoints("default", "node-1")]).sequence > ahead + 7
        )


async def test_a_prefix_that_changes_moves_what_runs(attached):
    node, kube, broker = attached
    before = node.store.attachments[KEY]
    async with accounting(node, kube, broker):
        kube.change(NODE_SEGMENTS, "node-1", {"spec": {"prefix": "2001:db8:ff01:200::/56"}})
        await until(lambda: kube.status["endpoints"][0]["sid"] == "2001:db8:ff01:200::4d2:2a")
        assert kube.status["loopback"] == "2001:db8:ff01:200:ffff:ffff:ffff:ffff"
        await node.sync.wait_applied(KEY)
    assert node.store.node.prefix == IPv6Network("2001:db8:ff01:200::/56")
    assert node.store.attachments[KEY] == before, "the same pod, with the same epoch"
    destinations = [network for _, network, _ in map(route_of, node.kernel.host.routes)]
    sids = {str(network) for network in destinations if network.version == 6 and network.subnet_of(SPACE)}
    assert sids == {"2001:db8:ff01:200::/64", "2001:db8:ff01:200::4d2:2a/128"}

"""A node that loses the broker: when it asks the API server, what that costs, and how it comes back."""

import asyncio
import ipaddress
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from waits import until

from galactic.bus.memory import MemoryBroker
from galactic.errors import Unreachable
from galactic.kube import reflector
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.messages import Changes, Head, Leader, Route, Shard, Topics, digest, encode, gone
from galactic.names import VPC_LABEL
from galactic.node.kubernetes import fallback
from galactic.node.kubernetes.fallback import Fallback, Patience
from galactic.node.mqtt import session
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions
from galactic.node.state.remote import Source

TOPICS = Topics("galactic/v1")
OWN = NodeTopics(TOPICS, "default", "node-1")
VPC = "0000000004d2"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fallback, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(fallback, "DEBOUNCE_SECONDS", 0.0)
    monkeypatch.setattr(reflector, "BACKOFF_SECONDS", (0.01, 0.02))


class Server(MemoryApi):
    """An API server with VPCAttachments. ``away``: lists are not answered."""

    def __init__(self):
        super().__init__()
        self.away, self.unanswered, self.fail = False, 0, self._failure

    def _failure(self, verb, *_):
        if verb != "list" or not self.away:
            return None
        self.unanswered += 1
        return Unreachable("kube-apiserver", "away")

    @property
    def lists(self):
        """The label selector of each list."""
        return [labels for verb, _, labels in self.requests if verb == "list"]

    def set(self, name, last, node, function, *clock):
        """``clock``: epoch and revision."""
        epoch, revision = clock
        endpoint = {
            "cluster": "default",
            "node": f"node-{node}",
            "sid": f"2001:db8:ff0{node}:100::4d2:{function}",
            "networks": [f"10.1.1.{last}/32"],
            "epoch": epoch,
            "revision": revision,
        }
        meta = {"namespace": "ns", "name": name, "labels": {VPC_LABEL: VPC}}
        self.store(VPC_ATTACHMENTS, {"metadata": meta, "status": {"endpoint": endpoint} if node else {}})

    def leave(self, name):
        self.set(name, 0, 0, 0, 0, 0)

    def delete_attachment(self, name):
        self.remove(VPC_ATTACHMENTS, name, "ns")

    async def pages(self, resource, *arguments, fields="", labels="", least=""):
        assert (resource, fields, least) == (VPC_ATTACHMENTS, "", "0")
        async for page in super().pages(resource, *arguments, labels=labels, least=least):
            yield page


class Cluster:
    """One node with broker and API server, and its kernel's routes to other nodes. ``clock`` is the time."""

    def __init__(self, node):
        self.node, self.broker, self.kube = node, MemoryBroker(), Server()
        self.clock = 0.0

    def now(self):
        return self.clock

    async def wait(self, falling):
        """Advances the clock until a table that is out of date, or does not arrive, is no longer used."""

        def without() -> bool:
            self.clock += 0.1
            return not falling._serves(1234) and 1234 in falling._deadlines

        await until(without)
        self.clock += sum(fallback.PATIENCE)

    @property
    def routes(self):
        """Network → the node that it is routed to, as wanted of the kernel."""
        routes = self.node.store.tables[1234]
        return {str(ipaddress.ip_address(network[-4:])): routes.segment(network)[5] for network in routes}

    def table(self, revision, *routes):
        """The router's whole table, retained."""
        self.broker.publish(TOPICS.table(VPC, 0), encode(Shard(revision, 1, routes)), True)
        self.broker.publish(TOPICS.head(VPC), encode(Head(revision, len(routes), digest(routes), 1)), True)


def route(last, node, function, epoch):
    sid = f"2001:db8:ff0{node}:100::4d2:{function}"
    return Route(f"10.1.1.{last}/32", (sid,), "default", f"node-{node}", f"{function:04}", epoch)


@asynccontextmanager
async def running(cluster):
    node, bus = cluster.node, cluster.broker.session(OWN.will)
    subscriptions = Subscriptions(bus, TOPICS, node.store, node.metrics, cluster.now)
    registration = Session(bus, OWN, node.store, subscriptions, node.metrics)
    falling = Fallback(cluster.kube, node.store, registration.serves, now=cluster.now)
    tasks = [asyncio.create_task(registration.run()), asyncio.create_task(falling.run())]
    try:
        yield falling
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def cluster(node, config):
    made = Cluster(node)
    made.table(100, route(2, 2, 2, 50))
    assert (await node.cni("ADD", config())).code == 0
    return made


async def test_while_the_broker_is_well_nothing_is_asked(cluster):
    cluster.kube.set("a", 9, 3, 9, 90, 200)
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2} and not falling._deadlines)
        cluster.clock += 1000
        await asyncio.sleep(0.3)
        assert (cluster.kube.lists, falling.followed) == ([], set())


async def test_while_a_vpc_changes_all_the_time_nothing_is_asked(cluster):
    """At each check the head is a change behind."""
    checks = []
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2} and not falling._deadlines)
        serves = falling._serves
        falling._serves = lambda vpc: checks.append(vpc) or serves(vpc)
        old = route(2, 2, 2, 50)
        for revision in range(101, 107):
            new = route(3, 3, 3, revision)
            cluster.broker.publish(
                TOPICS.changes(VPC), encode(Changes(revision, revision - 1, (new,))), False
            )
            await until(
                lambda now=revision: cluster.node.store.tables.view(1234, Source.MQTT).revision == now
            )
            if revision > 101:
                before = (old, route(3, 3, 3, revision - 1))
                head = Head(revision - 1, 2, digest(before), 1)
                cluster.broker.publish(TOPICS.head(VPC), encode(head), True)
            cluster.clock += 4.0
            checks.clear()
            await until(lambda: len(checks) > 1)
        assert (cluster.kube.lists, falling.followed) == ([], set())


async def test_without_the_broker_routes_come_from_the_api_server_and_none_is_lost(cluster):
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2})
        cluster.broker.stop()
        await cluster.wait(falling)
        await until(lambda: falling.followed == {1234})
        await until(lambda: cluster.kube.lists == [f"{VPC_LABEL} in ({VPC})"])
        cluster.kube.set("new", 3, 3, 3, 60, 100)
        await until(lambda: cluster.routes == {"10.1.1.2": 2, "10.1.1.3": 3})
        cluster.kube.set("old", 2, 3, 2, 70, 101)
        await until(lambda: cluster.routes == {"10.1.1.2": 3, "10.1.1.3": 3})
        cluster.kube.leave("new")
        await until(lambda: cluster.routes == {"10.1.1.2": 3})
        cluster.kube.delete_attachment("old")
        await until(lambda: cluster.routes == {})
        assert len(cluster.kube.lists) == 1, "one watch for all of it"


async def test_without_a_router_routes_come_from_the_api_server(cluster, monkeypatch):
    """The broker is well, and its table is whole, but no router keeps it."""
    monkeypatch.setattr(session, "LEADERLESS_SECONDS", 0.0)
    async with running(cluster) as falling:
        cluster.broker.publish(TOPICS.leader, encode(Leader("router-a", 5)), True)
        await until(lambda: cluster.routes == {"10.1.1.2": 2})
        cluster.broker.publish(TOPICS.leader, encode(gone("router-a")), True)
        await cluster.wait(falling)
        cluster.kube.set("new", 3, 3, 3, 60, 100)
        await until(lambda: cluster.routes == {"10.1.1.2": 2, "10.1.1.3": 3})
        cluster.kube.set("reuses-the-address", 2, 4, 4, 70, 101)
        await until(lambda: cluster.routes == {"10.1.1.2": 4, "10.1.1.3": 3})
        cluster.broker.publish(TOPICS.leader, encode(Leader("router-b", 6)), True)
        await asyncio.sleep(0.1)
        assert falling.followed == {1234}, "until the new router has published what the API server has"
        routes = route(2, 4, 4, 70), route(3, 3, 3, 60)
        cluster.broker.publish(TOPICS.changes(VPC), encode(Changes(102, 100, routes)), False)
        cluster.table(102, *routes)
        await until(lambda: not falling.followed)
        assert cluster.routes == {"10.1.1.2": 4, "10.1.1.3": 3}


async def test_a_pod_takes_the_place_of_the_last_one(cluster):
    """No subscriber noticed meanwhile that the VPC was not hosted for a moment."""
    cluster.broker.stop()
    cluster.kube.set("new", 3, 3, 3, 60, 100)
    async with running(cluster) as falling:
        await cluster.wait(falling)
        await until(lambda: cluster.routes == {"10.1.1.3": 3})
        store, pod = cluster.node.store, cluster.node.store.attachments[1234, 42]
        store.detach(pod.key)
        store.drain_dirty()  # as at the beginning of a pass over the kernel
        store.attach(pod)
        assert cluster.routes == {}
        await until(lambda: cluster.routes == {"10.1.1.3": 3})
        assert falling.followed == {1234}


async def test_back_without_a_glitch(cluster):
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2})
        cluster.broker.stop()
        await cluster.wait(falling)
        cluster.kube.set("new", 3, 3, 3, 60, 100)
        await until(lambda: cluster.routes == {"10.1.1.2": 2, "10.1.1.3": 3})
        seen = []
        set_table = cluster.node.store.set_table

        def watched(*given, **more):
            set_table(*given, **more)
            seen.append(cluster.routes)

        cluster.node.store.set_table = watched
        cluster.broker.start()  # with the old table, at first
        await until(lambda: falling._serves(1234))
        await asyncio.sleep(0.1)
        assert falling.followed == {1234}, "the broker's table does not say all yet"
        change = Changes(150, 100, (route(3, 3, 3, 60),))
        cluster.broker.publish(TOPICS.changes(VPC), encode(change), False)
        cluster.table(150, route(2, 2, 2, 50), route(3, 3, 3, 60))
        await until(lambda: falling.followed == set())
        assert all(routes == {"10.1.1.2": 2, "10.1.1.3": 3} for routes in seen)
        withdrawn = Changes(160, 150, delete=(route(2, 2, 2, 50).network,))
        cluster.broker.publish(TOPICS.changes(VPC), encode(withdrawn), False)
        await until(lambda: cluster.routes == {"10.1.1.3": 3})


async def test_a_stale_api_server_brings_nothing_back(cluster):
    cluster.kube.set("moved", 2, 3, 2, 40, 90)  # where it was before the table's endpoint
    cluster.kube.set("gone", 4, 4, 4, 45, 95)  # the table knows that it went
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2})
        cluster.broker.stop()
        await cluster.wait(falling)
        await until(lambda: falling.followed and not falling._watches[0].vpcs[1234].dirty)
        assert cluster.routes == {"10.1.1.2": 2}


async def test_with_both_away_everything_stays(cluster):
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2})
        cluster.kube.away = True
        cluster.broker.stop()
        await cluster.wait(falling)
        await until(lambda: falling.followed == {1234})
        await until(lambda: cluster.kube.unanswered > 2)
        assert cluster.routes == {"10.1.1.2": 2}
        assert not cluster.node.store.tables.view(1234, Source.KUBERNETES)
        cluster.broker.start()
        await until(lambda: falling.followed == set())
        assert cluster.routes == {"10.1.1.2": 2}


async def test_a_vpc_without_a_table_is_read_though_the_broker_is_there(cluster):
    cluster.broker.retained.clear()
    cluster.kube.set("a", 3, 3, 3, 60, 100)
    async with running(cluster) as falling:
        await cluster.wait(falling)
        await until(lambda: cluster.routes == {"10.1.1.3": 3})


async def test_a_first_table_that_arrives_is_waited_for(cluster):
    """When many pods start, a busy broker's shards come one by one."""
    cluster.broker.retained.clear()
    parts = [route(last, 2, last, 50) for last in range(2, 6)]
    cluster.broker.publish(TOPICS.head(VPC), encode(Head(100, len(parts), digest(parts), len(parts))), True)
    async with running(cluster) as falling:
        await until(lambda: falling._serves(1234))
        for number, part in enumerate(parts[:3]):
            cluster.clock += 2.9
            await asyncio.sleep(0.03)
            assert (falling._deadlines, falling.followed) == ({}, set())
            cluster.broker.publish(TOPICS.table(VPC, number), encode(Shard(100, 4, (part,))), True)
            await asyncio.sleep(0.03)
        await cluster.wait(falling)  # the last one does not come
        await until(lambda: falling.followed == {1234})
        cluster.broker.publish(TOPICS.table(VPC, 3), encode(Shard(100, 4, (parts[3],))), True)
        await until(lambda: len(cluster.routes) == 4)


async def test_a_vpc_that_is_hosted_no_longer_is_not_watched(cluster, config):
    async with running(cluster) as falling:
        cluster.broker.stop()
        await cluster.wait(falling)
        await until(lambda: falling.followed == {1234})
        await cluster.node.cni("DEL", config())
        await until(lambda: falling.followed == set())


async def test_a_short_absence_is_sat_out_and_nodes_do_not_all_come_at_once(cluster):
    async with running(cluster) as falling:
        await until(lambda: cluster.routes == {"10.1.1.2": 2} and not falling._deadlines)
        delays = []
        for _ in range(20):
            start = cluster.clock
            cluster.broker.stop()
            await until(lambda: falling._deadlines)
            cluster.clock = start + 2.9
            await asyncio.sleep(0.03)
            assert not falling.followed
            delays.append(falling._deadlines[1234] - start)
            cluster.broker.start()
            await until(lambda: not falling._deadlines)
            cluster.clock += 1
    assert not cluster.kube.lists
    assert all(3.0 <= delay <= 10.0 for delay in delays)
    assert len(set(delays)) == len(delays)


async def test_many_vpcs_share_a_few_watches(cluster):
    """As many as a selector can name, with their peers: 50 of the 250 have one."""
    hosted = set(range(1, 251))
    store = SimpleNamespace(
        cluster="default",
        attachments=SimpleNamespace(hosted=hosted),
        tables=SimpleNamespace(
            view=lambda _vpc, _source: None, peers=lambda vpc: {vpc + 1000: ()} if vpc <= 50 else {}
        ),
        drop_source=lambda _vpc, _source: None,
    )
    falling = Fallback(cluster.kube, store, lambda _vpc: False, Patience(0.0, 0.0))
    task = asyncio.create_task(falling.run())
    await until(lambda: len(cluster.kube.lists) == 3)
    assert falling.followed == hosted
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

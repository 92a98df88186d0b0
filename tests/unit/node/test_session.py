"""A node's messages in both directions over a broker that fails."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from waits import until

from galactic.bus.memory import MemoryBroker
from galactic.messages import (
    Head,
    Leader,
    NodeEndpoints,
    NodeStatus,
    Route,
    Shard,
    Topics,
    decode,
    digest,
    encode,
    gone,
)
from galactic.node.mqtt import session
from galactic.node.mqtt.replica import PATIENCE, SPREAD_SECONDS
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions

TOPICS = Topics("galactic/v1")
OWN = NodeTopics(TOPICS, "default", "node-1")
VPC = "0000000004d2"
STATUS, ENDPOINTS = TOPICS.status("default", "node-1"), TOPICS.endpoints("default", "node-1")


@asynccontextmanager
async def registered(node, broker, now=lambda: 0.0):
    """``now``: by which a table that does not add up is read again; it stands still."""
    bus = broker.session(OWN.will)
    subscriptions = Subscriptions(bus, TOPICS, node.store, node.metrics, now)
    made = Session(bus, OWN, node.store, subscriptions, node.metrics)
    task = asyncio.create_task(made.run())
    try:
        yield bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def listed(broker) -> list[str]:
    return [endpoint.attachment for endpoint in decode(NodeEndpoints, broker.retained[ENDPOINTS]).endpoints]


def big_table(revision, shards):
    """Shards of one route each, and their head."""
    routes = [
        Route(
            f"10.2.{n >> 8}.{n & 255}/32",
            (f"2001:db8:ff02:100::4d2:{n + 2:x}",),
            "default",
            "node-2",
            f"{n + 2:04x}",
            1,
        )
        for n in range(shards)
    ]
    messages = {
        TOPICS.table(VPC, n): encode(Shard(revision, shards, (route,))) for n, route in enumerate(routes)
    }
    return messages, encode(Head(revision, shards, digest(routes), shards))


def publish_table(broker, revision, *routes):
    broker.publish(TOPICS.table(VPC, 0), encode(Shard(revision, 1, routes)), True)
    broker.publish(TOPICS.head(VPC), encode(Head(revision, len(routes), digest(routes), 1)), True)


ROUTE = Route("10.1.1.2/32", ("2001:db8:ff02:100::4d2:2",), "default", "node-2", "0002", 1)


async def test_a_pod_takes_the_place_of_the_last_one(node, config):
    """At once: the VPC is not hosted for a moment, which only the kernel notices."""
    broker = MemoryBroker()
    publish_table(broker, 7, ROUTE)
    async with registered(node, broker):
        await node.cni("ADD", config())
        await until(lambda: node.store.tables.complete(1234))
        pod = node.store.attachments[1234, 42]
        node.store.detach(pod.key)
        node.store.drain_dirty()  # as at the beginning of a pass over the kernel
        node.store.attach(pod)
        await until(lambda: list(node.store.tables[1234]))


async def test_endpoints_are_published_whole_and_retained(node, config):
    broker = MemoryBroker()
    async with registered(node, broker):
        await until(lambda: ENDPOINTS in broker.retained)
        assert listed(broker) == []
        assert decode(NodeStatus, broker.retained[STATUS]).prefix == "2001:db8:ff01:100::/56"
        await node.cni("ADD", config())
        await until(lambda: listed(broker) == ["default/blue-G"])
        await node.cni("DEL", config())
        await until(lambda: listed(broker) == [])
    assert decode(NodeStatus, broker.retained[STATUS]).state == "offline"
    assert ENDPOINTS in broker.retained, "a controller that stops withdraws nothing"


async def test_sequences_only_grow(node, config):
    broker = MemoryBroker()
    async with registered(node, broker):
        for _ in range(2):
            await node.cni("ADD", config())
            await node.cni("DEL", config())
    sequences = [
        decode(NodeEndpoints, payload).sequence
        for topic, payload, _ in broker.published
        if topic == ENDPOINTS
    ]
    assert sequences == sorted(sequences)


async def test_everything_is_published_again_to_a_broker_that_lost_it(node, config):
    broker = MemoryBroker()
    async with registered(node, broker):
        await node.cni("ADD", config())
        await until(lambda: ENDPOINTS in broker.retained)
        broker.stop()
        broker.start(empty=True)
        await until(lambda: ENDPOINTS in broker.retained and STATUS in broker.retained)
        assert listed(broker) == ["default/blue-G"]


async def test_everything_is_published_again_for_a_new_leader_and_only_for_a_new_one(node):
    broker = MemoryBroker()

    def count() -> int:
        return sum(topic == ENDPOINTS for topic, _, _ in broker.published)

    async with registered(node, broker) as bus:
        await until(lambda: count() == 1)
        broker.publish(TOPICS.leader, encode(Leader("a", 1)), True)
        await until(lambda: count() == 2)
        broker.publish(TOPICS.leader, encode(Leader("a", 1)), True)
        await until(bus._queue.empty)
        await asyncio.sleep(0.1)
        assert count() == 2
        broker.publish(TOPICS.leader, encode(Leader("b", 2)), True)
        await until(lambda: count() == 3)


async def test_only_tables_of_hosted_vpcs_are_followed(node, config):
    broker = MemoryBroker()
    publish_table(broker, 1, ROUTE)
    async with registered(node, broker) as bus:
        await until(lambda: STATUS in broker.retained)
        assert bus.filters == [TOPICS.leader]
        await node.cni("ADD", config())
        await until(lambda: node.store.tables.complete(1234))
        routes = node.store.tables[1234]
        assert [routes.segment(network) for network in routes] == [
            bytes.fromhex("20010db8ff02010000000000 04d20002")
        ]
        await node.cni("DEL", config())
        await until(lambda: bus.filters == [TOPICS.leader])


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        pytest.param(TOPICS.head(VPC), b"{", id="no-json"),
        pytest.param(TOPICS.head(VPC), b'{"revision":"x"}', id="wrong-type"),
        pytest.param(TOPICS.table(VPC, "x"), b"{}", id="shard-number"),
        pytest.param(TOPICS.leader, b"[" * 300_000, id="oversized"),
    ],
)
async def test_nonsense_is_counted_and_disturbs_nothing(node, config, topic, payload):
    broker = MemoryBroker()
    async with registered(node, broker) as bus:
        await node.cni("ADD", config())
        await until(lambda: TOPICS.head(VPC) in bus.filters)
        broker.publish(topic, payload, False)
        publish_table(broker, 1, ROUTE)
        await until(lambda: node.store.tables.complete(1234))
    assert (
        sum(
            sample.value
            for metric in node.metrics.dropped.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
        == 1
    )


async def test_a_lost_shard_is_read_again(node, config, monkeypatch):
    monkeypatch.setattr(session, "CHECK_SECONDS", 0.01)
    now = [0.0]
    broker = MemoryBroker()
    publish_table(broker, 1, ROUTE)
    lost = [True]
    broker.lose = lambda topic, _payload: lost[0] and "/table/" in topic
    async with registered(node, broker, lambda: now[0]) as bus:
        await node.cni("ADD", config())
        await until(lambda: TOPICS.head(VPC) in bus.filters and bus._queue.empty())
        assert not node.store.tables.complete(1234)
        lost[0] = False
        await asyncio.sleep(0.1)
        assert not node.store.tables.complete(1234), "patience at first"
        now[0] += 1.5 * PATIENCE
        await until(lambda: node.store.tables.complete(1234))
    assert node.metrics.rereads._value.get() == 1


@asynccontextmanager
async def following(node, config, broker, now):
    """A session with a pod in the VPC, and the topics of shards that the broker delivers to it from now on."""
    delivered = []
    lose = broker.lose

    def noted(topic, payload):
        lost = lose(topic, payload)
        if "/table/" in topic and not lost:
            delivered.append(int(topic.rsplit("/", 1)[1]))
        return lost

    broker.lose = noted
    async with registered(node, broker, lambda: now[0]) as bus:
        await node.cni("ADD", config())
        await until(lambda: TOPICS.head(VPC) in bus.filters and bus._queue.empty())
        yield bus, delivered


async def test_only_missing_shards_are_requested(node, config, monkeypatch):
    """The broker's queue held 30 of 250: the others arrive in portions, one after the other, and none twice."""
    monkeypatch.setattr(session, "CHECK_SECONDS", 0.01)
    now, broker, lost = [0.0], MemoryBroker(), [True]
    shards, head = big_table(7, 250)
    broker.retained |= shards
    broker.retained[TOPICS.head(VPC)] = head
    broker.lose = lambda topic, _payload: (
        lost[0] and "/table/" in topic and int(topic.rsplit("/", 1)[1]) >= 30
    )
    async with following(node, config, broker, now) as (bus, delivered):
        assert sorted(delivered) == [*range(30)]
        lost[0] = False
        now[0] += 1.5 * PATIENCE
        await until(lambda: node.store.tables.complete(1234))
        await until(lambda: TOPICS.table(VPC, "+") not in bus.filters)
        assert sorted(delivered) == [*range(250)], "each once"
        assert bus.filters == [TOPICS.leader, TOPICS.changes(VPC), TOPICS.head(VPC)]
    assert node.metrics.rereads._value.get() == 3


async def test_a_broker_that_restarts_is_read_no_more_than_needed(node, config, monkeypatch):
    monkeypatch.setattr(session, "CHECK_SECONDS", 0.01)
    now, broker = [0.0], MemoryBroker()
    shards, head = big_table(7, 20)
    broker.retained |= shards
    broker.retained[TOPICS.head(VPC)] = head
    async with following(node, config, broker, now) as (bus, delivered):
        await until(lambda: TOPICS.table(VPC, "+") not in bus.filters)
        delivered.clear()
        for empty in (
            False,
            True,
        ):  # with what it retained; and without, so that the router publishes all again
            broker.stop()
            broker.start(empty=empty)
            for topic, payload in [*shards.items(), (TOPICS.head(VPC), head)]:
                broker.publish(topic, payload, True)
            await until(bus._queue.empty)
            for _ in range(8):
                now[0] += 2 * PATIENCE
                await asyncio.sleep(0.03)
        assert delivered == [], "the head is the same: so is the table"
        assert node.metrics.rereads._value.get() == 0

        broker.stop()
        more, newer = big_table(9, 21)
        broker.retained |= {**more, TOPICS.head(VPC): newer}
        broker.start()
        await until(bus._queue.empty)
        await asyncio.sleep(0.1)
        assert delivered == [], "not all clients at once"
        now[0] += SPREAD_SECONDS
        await until(lambda: len([*node.store.tables[1234]]) == 21)
        assert sorted(delivered) == [*range(21)]


@pytest.mark.parametrize(
    ("published", "leaderless"),
    [
        pytest.param([Leader("a", 5)], False, id="led"),
        pytest.param([Leader("a", 5), gone("a")], True, id="the-leader-has-gone"),
        pytest.param([Leader("a", 5), gone("b")], False, id="a-standby-has-gone"),
        pytest.param([Leader("a", 5), gone("a"), gone("b")], True, id="both-have-gone"),
        pytest.param([Leader("a", 5), gone("a"), Leader("b", 6)], False, id="another-one-leads"),
        pytest.param([Leader("a", 5), Leader("b", 6), gone("a")], False, id="a-late-will-of-the-former-one"),
        pytest.param([Leader("a", 5), gone("a"), Leader("a", 5)], False, id="its-connection-was-made-again"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_whether_a_router_leads(node, monkeypatch, published, leaderless: bool, late: bool):
    """``late``: the session begins afterwards, with what the broker retains; the leader has repeated its claim then."""
    monkeypatch.setattr(session, "LEADERLESS_SECONDS", 0.0)
    broker = MemoryBroker()
    publish_table(broker, 7, ROUTE)
    if late and not leaderless and published[-1].gone:
        published = [*published, *(claim for claim in published if not claim.gone)][-1:]
    if late:
        for leader in published:
            broker.publish(TOPICS.leader, encode(leader), True)
    bus = broker.session(OWN.will)
    subscriptions = Subscriptions(bus, TOPICS, node.store, node.metrics, lambda: 0.0)
    made = Session(bus, OWN, node.store, subscriptions, node.metrics)
    task = asyncio.create_task(made.run())
    try:
        await until(lambda: made.problem is None)
        if not late:
            for leader in published:
                broker.publish(TOPICS.leader, encode(leader), True)
        await until(bus._queue.empty)
        await asyncio.sleep(0.01)
        assert made.leaderless is leaderless
        count = sum(topic == ENDPOINTS for topic, _, _ in broker.published)
        assert count <= 1 + len({leader.term for leader in published if not leader.gone})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_another_router_has_time_to_take_over(node, monkeypatch):
    monkeypatch.setattr(session, "LEADERLESS_SECONDS", 0.3)
    broker = MemoryBroker()
    bus = broker.session(OWN.will)
    subscriptions = Subscriptions(bus, TOPICS, node.store, node.metrics, lambda: 0.0)
    made = Session(bus, OWN, node.store, subscriptions, node.metrics)
    task = asyncio.create_task(made.run())
    try:
        broker.publish(TOPICS.leader, encode(gone("a")), True)
        await asyncio.sleep(0.05)
        assert not made.leaderless
        await until(lambda: made.leaderless)
        broker.stop()
        broker.start()  # the retained will is delivered again, and begins a new wait
        await until(lambda: not made.leaderless)
        await until(lambda: made.leaderless)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

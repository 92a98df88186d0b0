"""A node that floods is suppressed: others are received meanwhile, its last message counts, and suppression ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from assembling import inbox_of
from clockwork import SetClock
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from galactic.bus import Delivery
from galactic.bus.memory import MemoryBroker
from galactic.messages import NodeEndpoints, NodeStatus, Topics, encode
from galactic.router.ingress import subscriptions
from galactic.router.ingress.damping import SUPPRESS_SECONDS, FloodDamping, Limit, Source
from galactic.router.ingress.fair_queue import FairQueue, Share
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store

FLOOD, OTHER = Source(NodeRef("default", "n1"), "endpoints"), Source(NodeRef("default", "n2"), "endpoints")
LIMIT = Limit(messages=10, bytes=1000)
TOPICS = Topics("galactic/v1")


@pytest.fixture
def clock() -> SetClock:
    return SetClock(1000.0)


@pytest.fixture
def floods(clock) -> FloodDamping:
    return FloodDamping(clock, limit=LIMIT)


def burst(floods: FloodDamping, source: Source, size: int = 1) -> int:
    """The number of messages of a hundred that passed before it was suppressed."""
    for number in range(100):
        if floods.count(source, size):
            return number
    return 100


@pytest.mark.parametrize(
    ("size", "passed"), [pytest.param(1, 10, id="many"), pytest.param(300, 3, id="large")]
)
def test_the_message_above_the_limit_suppresses_its_source(floods, size: int, passed: int) -> None:
    assert burst(floods, FLOOD, size) == passed
    assert [*floods.suppressed] == [FLOOD]
    assert not floods.count(FLOOD, size), "it is reported once"
    assert not floods.count(OTHER, 1)
    assert not floods.count(Source(FLOOD.node, "status"), 1), "one topic at a time"


def test_a_source_below_the_limit_is_not_suppressed(floods, clock) -> None:
    for _ in range(1000):
        assert not floods.count(FLOOD, 1)
        clock.now += 1.1 / LIMIT.messages
    assert not floods.active("endpoints")


def test_each_time_it_takes_twice_as_long(floods, clock) -> None:
    shortest, longest = SUPPRESS_SECONDS
    holds = []
    for _ in range(8):
        burst(floods, FLOOD)
        began = clock.now
        while not floods.released():
            clock.now += 1
        holds.append(clock.now - began)
        assert floods.active("endpoints"), "on probation"
    assert holds == [min(shortest * 2**number, longest) for number in range(8)]


def test_the_penalty_ends_after_good_behaviour(floods, clock) -> None:
    burst(floods, FLOOD)
    clock.now += 4 * SUPPRESS_SECONDS[0]
    assert floods.released() == [FLOOD]
    assert not floods.active("endpoints")
    clock.now += 1
    burst(floods, FLOOD)
    assert floods.suppressed[FLOOD] == clock.now + SUPPRESS_SECONDS[0]


# -- in an inbox -------------------------------------------------------------------------------------------------------


class InboxAtBroker:
    """An inbox at a broker in memory, with its store and metrics."""

    def __init__(self, broker: MemoryBroker, clock: SetClock, *, prefixes: bool) -> None:
        self.broker, self.collectors = broker, CollectorRegistry()
        self.bus = broker.session()
        self.store = Store(checked=not prefixes)
        self.damping = FloodDamping(clock, limit=LIMIT)
        self.inbox = inbox_of(
            self.bus,
            TOPICS,
            self.store,
            self.collectors,
            standalone=prefixes,
            queue=FairQueue(share=Share(1e9, 1e9, 1e12, 1e12)),
            damping=self.damping,
        )
        self.inbox.metrics.at_scrape(
            tables=lambda: self.store.counts,
            leadership=lambda: (False, 0),
            oldest_change=lambda: 0.0,
            waiting=lambda: 0,
            suppressed=lambda: len(self.damping.suppressed),
            uncarried=lambda: 0,
            rejected={},
            unlisted=lambda: 0,
        )

    def register(self, node: str, sequence: int) -> None:
        self.broker.publish(
            TOPICS.endpoints("default", node), encode(NodeEndpoints(sequence, ())), retain=True
        )

    def online(self, node: str) -> None:
        number = int(node[1:])
        status = encode(NodeStatus("online", f"2001:db8:ff01:{number:x}00::/56"))
        self.broker.publish(TOPICS.status("default", node), status, retain=True)

    def sequence(self, node: str) -> int:
        node_state = self.store.nodes._nodes.get(NodeRef("default", node))
        return node_state.sequence if node_state else -1

    def figure(self, name: str, **labels: str) -> float:
        return self.collectors.get_sample_value(f"galactic_router_{name}", labels) or 0.0


@asynccontextmanager
async def inbox_at_broker(clock: SetClock, *, prefixes: bool = True) -> AsyncIterator[InboxAtBroker]:
    inbox = InboxAtBroker(MemoryBroker(), clock, prefixes=prefixes)
    task = asyncio.create_task(inbox.inbox.run())
    try:
        while not inbox.bus.filters:
            await asyncio.sleep(0)
        yield inbox
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """No periodic requests, except for the one at the end of a suppression."""
    monkeypatch.setattr(subscriptions, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 1e6)
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 1e6)


async def test_a_flood_is_suppressed_and_the_others_are_received(clock, until) -> None:
    async with inbox_at_broker(clock) as inbox:
        for node in ("n1", "n2", "n3"):
            inbox.online(node)
            inbox.register(node, 1)
        await until(lambda: inbox.sequence("n3") == 1)
        with capture_logs() as logs:
            for number in range(2, 200):
                inbox.register("n1", number)
            await until(lambda: TOPICS.endpoints("default", "n2") in inbox.bus.filters)
            assert TOPICS.endpoints("+", "+") not in inbox.bus.filters
            assert TOPICS.endpoints("default", "n1") not in inbox.bus.filters
            delivered = []
            deliver = inbox.bus.arrive
            inbox.bus.arrive = lambda item: (delivered.append(item), deliver(item))
            for number in range(200, 300):
                inbox.register("n1", number)
            for number in range(295, 300):
                inbox.register("n2", number)
            live = [item for item in delivered if isinstance(item, Delivery) and not item.retained]
            assert {item.topic for item in live} == {TOPICS.endpoints("default", "n2")}
            await until(lambda: inbox.sequence("n2") == 299)
            await until(lambda: inbox.sequence("n1") == 299)  # which only a request brings
            assert inbox.figure("topics_aside") == 1
            assert inbox.figure("floods_total", cluster="default", node="n1") == 1
        (line,) = [line for line in logs if "floods its topic" in line["event"]]
        assert (line["node"], line["log_level"]) == ("n1", "warning")


async def test_nodes_that_are_new_during_a_flood_are_received(clock, until) -> None:
    async with inbox_at_broker(clock) as inbox:
        for number in range(200):
            inbox.register("n1", number)
        await until(lambda: TOPICS.endpoints("+", "+") not in inbox.bus.filters)
        inbox.register("n7", 5)
        inbox.online("n7")
        await until(lambda: inbox.sequence("n7") == 5)
        inbox.register("n7", 6)
        await until(lambda: inbox.sequence("n7") == 6)


async def test_a_node_that_is_new_while_both_topics_are_flooded_is_received_by_the_sweep(
    clock, until, monkeypatch
) -> None:
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 0.01)
    async with inbox_at_broker(clock) as inbox:
        with capture_logs() as logs:
            for number in range(200):
                inbox.register("n1", number)
                inbox.online("n1")
            await until(
                lambda: not {TOPICS.endpoints("+", "+"), TOPICS.status("+", "+")} & {*inbox.bus.filters}
            )
        assert [line["node"] for line in logs if "floods its topic" in line["event"]] == ["n1"], (
            "once, not by topic"
        )
        inbox.online("n7")
        inbox.register("n7", 5)
        await until(lambda: inbox.sequence("n7") == 5)
        assert inbox.store.nodes._nodes[NodeRef("default", "n7")].prefix
        assert inbox.figure("topics_aside") == 2
        assert TOPICS.status("+", "+") not in inbox.bus.filters, "the flood is subscribed to"


async def test_in_kubernetes_a_node_is_known_by_its_segment(clock, until) -> None:
    async with inbox_at_broker(clock, prefixes=False) as inbox:
        for kind in ("endpoints", "status"):
            for _ in range(20):
                inbox.broker.publish(f"galactic/v1/nodes/default/n1/{kind}", b"", retain=False)
        await until(lambda: not {TOPICS.endpoints("+", "+"), TOPICS.status("+", "+")} & {*inbox.bus.filters})
        inbox.register("n7", 5)
        inbox.store.nodes.set_endpoints(NodeRef("default", "n7"), 1, ())
        await until(lambda: inbox.sequence("n7") == 5)


async def test_after_a_flood_all_are_listened_to_by_wildcard_again(clock, until) -> None:
    async with inbox_at_broker(clock) as inbox:
        for node in ("n1", "n2"):
            inbox.online(node)
        for number in range(200):
            inbox.register("n1", number)
        await until(lambda: inbox.sequence("n1") == 199)
        clock.now += SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("default", "n1") in inbox.bus.filters)
        inbox.register("n1", 200)
        await until(lambda: inbox.sequence("n1") == 200)
        clock.now += 3 * SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("+", "+") in inbox.bus.filters)
        await until(lambda: not any("n1" in topic or "n2" in topic for topic in inbox.bus.filters))
        inbox.register("n9", 3)
        await until(lambda: inbox.sequence("n9") == 3)


async def test_names_that_are_none_are_not_listened_to_for_a_while(clock, until) -> None:
    async with inbox_at_broker(clock) as inbox:
        inbox.online("n1")
        for number in range(20):
            inbox.broker.publish(f"galactic/v1/nodes/default/+{number}/endpoints", b"{}", retain=False)
        await until(lambda: TOPICS.endpoints("default", "n1") in inbox.bus.filters)
        nodes = [pattern.split("/endpoints")[0] for pattern in inbox.bus.filters if "endpoints" in pattern]
        assert not any("+" in node for node in nodes)
        clock.now += 4 * SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("+", "+") in inbox.bus.filters)


async def test_what_a_broker_dropped_during_a_flood_is_asked_for_when_it_is_over(
    clock, until, monkeypatch
) -> None:
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 0.01)
    async with inbox_at_broker(clock) as inbox:
        for node in ("n1", "n2"):
            inbox.online(node)
            inbox.register(node, 1)
        await until(lambda: inbox.sequence("n2") == 1)
        inbox.broker.lose = lambda topic, _: "n2" in topic
        inbox.register("n2", 2)
        inbox.broker.lose = lambda *_: False
        assert inbox.sequence("n2") == 1
        for number in range(2, 30):
            inbox.register("n1", number)
        await until(lambda: inbox.sequence("n2") == 2)

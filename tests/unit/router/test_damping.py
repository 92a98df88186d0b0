"""Who floods is put aside: the others are heard meanwhile, its last word counts, and all are listened to again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from assembling import inbox_of
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


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def floods(clock) -> FloodDamping:
    return FloodDamping(clock, limit=LIMIT)


def burst(floods: FloodDamping, source: Source, size: int = 1) -> int:
    """How many messages of a hundred passed before it was put aside."""
    for number in range(100):
        if floods.count(source, size):
            return number
    return 100


@pytest.mark.parametrize(
    ("size", "passed"), [pytest.param(1, 10, id="many"), pytest.param(300, 3, id="large")]
)
def test_the_message_above_the_limit_puts_its_source_aside(floods, size: int, passed: int) -> None:
    assert burst(floods, FLOOD, size) == passed
    assert [*floods.suppressed] == [FLOOD]
    assert not floods.count(FLOOD, size), "it is told once"
    assert not floods.count(OTHER, 1)
    assert not floods.count(Source(FLOOD.node, "status"), 1), "one topic at a time"


def test_who_stays_below_the_limit_is_listened_to(floods, clock) -> None:
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


def test_who_behaves_for_long_enough_is_as_good_as_new(floods, clock) -> None:
    burst(floods, FLOOD)
    clock.now += 4 * SUPPRESS_SECONDS[0]
    assert floods.released() == [FLOOD]
    assert not floods.active("endpoints")
    clock.now += 1
    burst(floods, FLOOD)
    assert floods.suppressed[FLOOD] == clock.now + SUPPRESS_SECONDS[0]


# -- in an inbox -------------------------------------------------------------------------------------------------------


class Site:
    """An inbox at a broker in memory, and what came of it."""

    def __init__(self, broker: MemoryBroker, clock: Clock, *, prefixes: bool) -> None:
        self.broker, self.figures = broker, CollectorRegistry()
        self.bus = broker.session()
        self.store = Store(checked=not prefixes)
        self.damping = FloodDamping(clock, limit=LIMIT)
        self.inbox = inbox_of(
            self.bus,
            TOPICS,
            self.store,
            self.figures,
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
        )

    def say(self, node: str, sequence: int) -> None:
        self.broker.publish(
            TOPICS.endpoints("default", node), encode(NodeEndpoints(sequence, ())), retain=True
        )

    def online(self, node: str) -> None:
        number = int(node[1:])
        status = encode(NodeStatus("online", f"2001:db8:ff01:{number:x}00::/56"))
        self.broker.publish(TOPICS.status("default", node), status, retain=True)

    def sequence(self, node: str) -> int:
        found = self.store.nodes._nodes.get(NodeRef("default", node))
        return found.sequence if found else -1

    def figure(self, name: str, **labels: str) -> float:
        return self.figures.get_sample_value(f"galactic_router_{name}", labels) or 0.0


@asynccontextmanager
async def site(clock: Clock, *, prefixes: bool = True) -> AsyncIterator[Site]:
    found = Site(MemoryBroker(), clock, prefixes=prefixes)
    task = asyncio.create_task(found.inbox.run())
    try:
        while not found.bus.filters:
            await asyncio.sleep(0)
        yield found
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Nothing is asked for again but what the flood's end asks for."""
    monkeypatch.setattr(subscriptions, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 1e6)
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 1e6)


async def test_a_flood_is_not_listened_to_and_the_others_are(clock, until) -> None:
    async with site(clock) as it:
        for node in ("n1", "n2", "n3"):
            it.online(node)
            it.say(node, 1)
        await until(lambda: it.sequence("n3") == 1)
        with capture_logs() as logs:
            for number in range(2, 200):
                it.say("n1", number)
            await until(lambda: TOPICS.endpoints("default", "n2") in it.bus.filters)
            assert TOPICS.endpoints("+", "+") not in it.bus.filters
            assert TOPICS.endpoints("default", "n1") not in it.bus.filters
            heard = []
            deliver = it.bus.arrive
            it.bus.arrive = lambda item: (heard.append(item), deliver(item))
            for number in range(200, 300):
                it.say("n1", number)
            for number in range(295, 300):
                it.say("n2", number)
            live = [item for item in heard if isinstance(item, Delivery) and not item.retained]
            assert {item.topic for item in live} == {TOPICS.endpoints("default", "n2")}
            await until(lambda: it.sequence("n2") == 299)
            await until(lambda: it.sequence("n1") == 299)  # nothing but asking brings that
            assert it.figure("topics_aside") == 1
            assert it.figure("floods_total", cluster="default", node="n1") == 1
        (line,) = [line for line in logs if "floods its topic" in line["event"]]
        assert (line["node"], line["log_level"]) == ("n1", "warning")


async def test_nodes_that_come_into_being_during_a_flood_are_heard(clock, until) -> None:
    async with site(clock) as it:
        for number in range(200):
            it.say("n1", number)
        await until(lambda: TOPICS.endpoints("+", "+") not in it.bus.filters)
        it.say("n7", 5)
        it.online("n7")
        await until(lambda: it.sequence("n7") == 5)
        it.say("n7", 6)
        await until(lambda: it.sequence("n7") == 6)


async def test_a_node_that_comes_while_both_topics_are_flooded_is_heard_when_all_are_asked(
    clock, until, monkeypatch
) -> None:
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 0.01)
    async with site(clock) as it:
        with capture_logs() as logs:
            for number in range(200):
                it.say("n1", number)
                it.online("n1")
            await until(lambda: not {TOPICS.endpoints("+", "+"), TOPICS.status("+", "+")} & {*it.bus.filters})
        assert [line["node"] for line in logs if "floods its topic" in line["event"]] == ["n1"], (
            "once, not by topic"
        )
        it.online("n7")
        it.say("n7", 5)
        await until(lambda: it.sequence("n7") == 5)
        assert it.store.nodes._nodes[NodeRef("default", "n7")].prefix
        assert it.figure("topics_aside") == 2
        assert TOPICS.status("+", "+") not in it.bus.filters, "the flood is listened to"


async def test_in_kubernetes_a_node_is_known_by_its_segment(clock, until) -> None:
    async with site(clock, prefixes=False) as it:
        for kind in ("endpoints", "status"):
            for _ in range(20):
                it.broker.publish(f"galactic/v1/nodes/default/n1/{kind}", b"", retain=False)
        await until(lambda: not {TOPICS.endpoints("+", "+"), TOPICS.status("+", "+")} & {*it.bus.filters})
        it.say("n7", 5)
        it.store.nodes.set_endpoints(NodeRef("default", "n7"), 1, ())
        await until(lambda: it.sequence("n7") == 5)


async def test_after_a_flood_all_are_listened_to_by_wildcard_again(clock, until) -> None:
    async with site(clock) as it:
        for node in ("n1", "n2"):
            it.online(node)
        for number in range(200):
            it.say("n1", number)
        await until(lambda: it.sequence("n1") == 199)
        clock.now += SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("default", "n1") in it.bus.filters)
        it.say("n1", 200)
        await until(lambda: it.sequence("n1") == 200)
        clock.now += 3 * SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("+", "+") in it.bus.filters)
        await until(lambda: not any("n1" in it or "n2" in it for it in it.bus.filters))
        it.say("n9", 3)
        await until(lambda: it.sequence("n9") == 3)


async def test_names_that_are_none_are_not_listened_to_for_a_while(clock, until) -> None:
    async with site(clock) as it:
        it.online("n1")
        for number in range(20):
            it.broker.publish(f"galactic/v1/nodes/default/+{number}/endpoints", b"{}", retain=False)
        await until(lambda: TOPICS.endpoints("default", "n1") in it.bus.filters)
        assert not any("+" in pattern for pattern in it.bus.filters if "endpoints" in pattern)
        clock.now += 4 * SUPPRESS_SECONDS[0]
        await until(lambda: TOPICS.endpoints("+", "+") in it.bus.filters)


async def test_what_a_broker_dropped_during_a_flood_is_asked_for_when_it_is_over(
    clock, until, monkeypatch
) -> None:
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 0.01)
    async with site(clock) as it:
        for node in ("n1", "n2"):
            it.online(node)
            it.say(node, 1)
        await until(lambda: it.sequence("n2") == 1)
        it.broker.lose = lambda topic, _: "n2" in topic
        it.say("n2", 2)
        it.broker.lose = lambda *_: False
        assert it.sequence("n2") == 1
        for number in range(2, 30):
            it.say("n1", number)
        await until(lambda: it.sequence("n2") == 2)

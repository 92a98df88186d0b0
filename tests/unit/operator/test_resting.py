"""A prefix of the pool rests before another node gets it, and what the broker retains of a removed node is cleared."""

import asyncio
from ipaddress import IPv6Network
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waits import until

from galactic.bus.memory import MemoryBroker
from galactic.messages import EndpointsHead, NodeEndpoints, NodeStatus, Topics, encode
from galactic.operator import departed
from galactic.operator.departed import GRACE_SECONDS, DepartedNodes
from galactic.operator.prefixes import PrefixIndex, RestingPrefixes

POOL = IPv6Network("2001:db8:ff00::/54")  # four of them
REST = 600.0


def nth(number: int) -> IPv6Network:
    return [*POOL.subnets(new_prefix=56)][number]


class Pool:
    """Nodes that come and go."""

    def __init__(self, now: float = 0.0) -> None:
        self.now, self.taken, self.cursor = now, PrefixIndex(), 0
        self.highest: IPv6Network | None = None
        self.back: dict[IPv6Network, float] = {}
        self.restart()

    def restart(self) -> None:
        self.resting = RestingPrefixes(REST, lambda: self.now)

    def give(self, node: str) -> IPv6Network | float | None:
        free = self.resting.free(self.taken, POOL, 56, self.highest, self.cursor)
        if isinstance(free, IPv6Network):
            self.taken.set(("", node), free)
            self.cursor, self.highest = int(free.broadcast_address) + 1, max(free, self.highest or free)
        return free

    def remove(self, node: str) -> None:
        prefix = self.taken[("", node)]
        self.taken.set(("", node), None)
        self.resting.add(prefix)
        self.back[prefix] = self.now


def test_a_prefix_rests_and_the_wait_is_known():
    pool = Pool()
    assert [pool.give(f"n{number}") for number in range(4)] == [nth(number) for number in range(4)]
    assert pool.give("n4") is None, "all are taken"
    pool.remove("n1")
    pool.now = 100.0
    pool.remove("n2")
    assert pool.give("n4") == 500.0
    pool.now = 600.0
    assert pool.give("n4") == nth(1)
    assert pool.give("n5") == 100.0
    pool.now = 700.0
    assert pool.give("n5") == nth(2)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        pytest.param(nth(2), nth(3), id="above-the-highest"),
        pytest.param(nth(3), REST, id="all-were-given"),
        pytest.param(None, nth(0), id="nobody-had-any"),
    ],
)
def test_an_operator_that_starts_gives_none_that_may_have_been_given_back_just_now(highest, expected):
    pool = Pool(50.0)
    pool.highest = highest
    if highest is not None:
        pool.taken.set(("", "last"), highest)
        pool.cursor = int(highest.broadcast_address) + 1
    assert pool.give("new") == expected
    if expected == REST:
        pool.now = 50.0 + REST
        assert pool.give("new") == nth(0)


def test_the_highest_rests_as_well():
    pool = Pool()
    for number in range(4):
        pool.give(f"n{number}")
    pool.remove("n3")
    pool.now = 100.0
    pool.restart()
    assert pool.give("n4") == REST


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "come", "go", "wait", "restart"]), st.integers(0, 400)),
        max_size=60,
    )
)
def test_no_prefix_is_given_before_it_has_rested(steps):
    """Whenever the operator restarts: it has the highest prefix then, and nothing else."""
    pool, nodes, started = Pool(), [], -REST
    for number, (action, value) in enumerate(steps):
        if action == "wait":
            pool.now += value
        elif action == "restart":
            pool.restart()
            started = pool.now
        elif action == "go" and nodes:
            pool.remove(nodes.pop(value % len(nodes)))
        elif action == "come":
            match pool.give(f"n{number}"):
                case IPv6Network() as prefix:
                    nodes.append(f"n{number}")
                    assert pool.now - pool.back.get(prefix, -REST) >= REST
                case None:
                    assert len(nodes) == 4
                case seconds:
                    resting = [
                        REST - (pool.now - at) for prefix, at in pool.back.items() if pool.now - at < REST
                    ]
                    assert 0 < seconds <= max([*resting, started + REST - pool.now])


# -- what the broker retains -------------------------------------------------------------------------------------------

TOPICS = Topics("galactic/v1")


def register(broker: MemoryBroker, cluster: str, node: str) -> None:
    broker.publish(TOPICS.status(cluster, node), encode(NodeStatus("online", "2001:db8::/56")), True)
    broker.publish(TOPICS.endpoints(cluster, node), encode(NodeEndpoints(1, ())), True)
    broker.publish(TOPICS.endpoints_shard(cluster, node, "head"), encode(EndpointsHead(1, (1,))), True)
    broker.publish(TOPICS.endpoints_shard(cluster, node, 0), encode(NodeEndpoints(1, ())), True)


async def test_a_removed_node_is_cleared_and_nothing_else(monkeypatch):
    monkeypatch.setattr(departed, "POLL_SECONDS", 0.01)
    now, nodes, segments = [0.0], {("", "here"): 1}, {("", "here"): 1, ("", "by-hand"): 1}
    caches, broker = SimpleNamespace(nodes=nodes, segments=segments), MemoryBroker()
    one = DepartedNodes(TOPICS, "east", caches, lambda: now[0])
    for cluster, node in (("east", "here"), ("east", "by-hand"), ("east", "gone"), ("west", "gone")):
        register(broker, cluster, node)
    bus = broker.session()
    bus.subscribe(one.filter)

    async def receive() -> None:
        async for event in bus.deliveries():
            if hasattr(event, "topic"):
                one.arrived(event.topic, event.payload)

    tasks = [asyncio.create_task(receive()), asyncio.create_task(one.run(bus))]
    try:
        await asyncio.sleep(0.1)
        assert TOPICS.status("east", "gone") in broker.retained, "its controller may end after its Node"
        now[0] += GRACE_SECONDS
        await until(lambda: not any("/east/gone" in topic for topic in broker.retained))
        assert sum("/nodes/" in topic for topic in broker.retained) == 12
        # Its Last Will comes late, and a node of that name that comes back is left alone.
        broker.publish(TOPICS.status("east", "gone"), encode(NodeStatus("offline")), True)
        await asyncio.sleep(0.05)
        nodes["", "gone"] = 1
        now[0] += 2 * GRACE_SECONDS
        await asyncio.sleep(0.1)
        assert TOPICS.status("east", "gone") in broker.retained
        del nodes["", "gone"]
        await asyncio.sleep(0.05)
        now[0] += GRACE_SECONDS
        await until(lambda: TOPICS.status("east", "gone") not in broker.retained)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

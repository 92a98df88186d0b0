"""The router as a whole, against a broker in memory: what it publishes, when, and when not."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from assembling import assembled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galactic.bus.memory import MemoryBroker
from galactic.messages import Changes, Head, Leader, Shard, decode, digest
from galactic.router.controller import Router
from galactic.router.rib.path import EPOCH_MAX, NodeRef
from galactic.settings import RouterSettings

BASE = "galactic/v1"
CHANGES = f"{BASE}/vpcs/0000000004d2/changes"
HEAD = f"{BASE}/vpcs/0000000004d2/head"
SHARD = f"{BASE}/vpcs/0000000004d2/table/0"


@asynccontextmanager
async def router(broker: MemoryBroker, replica: str = "r"):
    """A standalone router; ``rejected`` of it counts reasons."""
    controller = assembled(
        RouterSettings(kubernetes=False, require_entitlements=False), broker.session(), replica=replica
    )
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        outcome = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome[0], asyncio.CancelledError), outcome


def publish_retained(broker: MemoryBroker, *messages: tuple[str, bytes]) -> None:
    for topic, payload in messages:
        broker.publish(topic, payload, True)


def published(broker: MemoryBroker, topic: str) -> list[bytes]:
    return [payload for name, payload, _ in broker.published if name == topic]


def changes(broker: MemoryBroker, topic: str = CHANGES) -> list[tuple[list[str], list[str]]]:
    messages = [decode(Changes, payload) for payload in published(broker, topic)]
    return [
        ([f"{route.network}@{route.node}" for route in message.set], list(message.delete))
        for message in messages
    ]


def rejected(controller: Router) -> Counter:
    return Counter(
        {
            sample.labels["reason"]: sample.value
            for family in controller.registry.collect()
            for sample in family.samples
            if sample.name == "galactic_router_rejections_total"
        }
    )


def whole(broker: MemoryBroker, *networks: str) -> bool:
    """Whether what is retained adds up to these networks."""
    if HEAD not in broker.retained:
        return not networks and SHARD not in broker.retained
    head, shard = decode(Head, broker.retained[HEAD]), decode(Shard, broker.retained[SHARD])
    return (
        (head.count, head.digest, head.shards) == (len(networks), digest(shard.routes), 1)
        and {route.network for route in shard.routes} == set(networks)
        and head.revision >= shard.revision
    )


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


async def test_registrations_become_changes_and_then_the_retained_table(topology, broker, until) -> None:
    async with router(broker):
        await until(lambda: f"{BASE}/router/leader" in broker.retained)
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: changes(broker) == [(["10.1.1.1/32@n1"], [])])
        publish_retained(broker, topology.status("n2"))
        publish_retained(
            broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32", "10.7.0.0/16"))
        )
        await until(lambda: len(changes(broker)) == 2)
        assert changes(broker)[1] == (["10.1.1.2/32@n2", "10.7.0.0/16@n2"], [])
        await until(lambda: whole(broker, "10.1.1.1/32", "10.1.1.2/32", "10.7.0.0/16"))

        publish_retained(broker, topology.endpoints("n2", 2))
        await until(lambda: len(changes(broker)) == 3)
        assert sorted(changes(broker)[2][1]) == ["10.1.1.2/32", "10.7.0.0/16"]
        publish_retained(broker, topology.endpoints("n1", 2))
        await until(lambda: whole(broker))
        sent = [decode(Changes, payload) for payload in published(broker, CHANGES)]
        assert [change.previous for change in sent] == [0, *(change.revision for change in sent[:-1])]


async def test_a_move_is_one_set_and_the_old_nodes_later_message_changes_nothing(
    topology, broker, until
) -> None:
    async with router(broker) as controller:
        publish_retained(broker, topology.status("n1"), topology.status("n2"))
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1))
        )
        await until(lambda: len(changes(broker)) == 1)
        publish_retained(
            broker, topology.endpoints("n2", 1, topology.endpoint("n2", 1, "10.1.1.1/32", epoch=2))
        )
        await until(lambda: len(changes(broker)) == 2)
        publish_retained(broker, topology.endpoints("n1", 2))
        await until(lambda: controller.idle)
        assert changes(broker) == [(["10.1.1.1/32@n1"], []), (["10.1.1.1/32@n2"], [])]


async def test_everything_due_at_once_shares_one_message(topology, broker, until) -> None:
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        for number in range(1, 21):
            publish_retained(broker, topology.status(f"n{number}"))
            endpoint = topology.endpoint(f"n{number}", number, f"10.1.1.{number}/32")
            publish_retained(broker, topology.endpoints(f"n{number}", 1, endpoint))
        await until(lambda: sum(len(change[0]) for change in changes(broker)) == 20)
        assert len(changes(broker)) == 1


async def test_a_router_that_restarts_publishes_nothing_when_nothing_changed(topology, broker, until) -> None:
    publish_retained(broker, topology.status("n1"), topology.status("n2"))
    publish_retained(broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.9/32", epoch=9)))
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.9/32"))
        # A rival with an older epoch: who holds the network is history, and must survive the restart.
        rival = topology.endpoint("n2", 2, "10.1.1.9/32", "10.1.1.2/32", epoch=1)
        publish_retained(broker, topology.endpoints("n2", 1, rival))
        await until(lambda: controller.idle and whole(broker, "10.1.1.9/32", "10.1.1.2/32"))
    before, count = dict(broker.retained), len(broker.published)
    async with router(broker, "r2") as controller:
        await until(lambda: decode(Leader, broker.retained[f"{BASE}/router/leader"]).id == "r2")
        await asyncio.sleep(0.8)
        assert controller.idle
    news = {topic for topic, _, _ in broker.published[count:]}
    assert news == {f"{BASE}/router/sync/r2", f"{BASE}/router/leader"}
    assert {k: v for k, v in broker.retained.items() if "leader" not in k} == {
        k: v for k, v in before.items() if "leader" not in k
    }
    leaders = [decode(Leader, payload) for payload in published(broker, f"{BASE}/router/leader")]
    terms = [leader.term for leader in leaders if not leader.gone]
    assert terms == sorted(set(terms))
    assert [leader.gone for leader in leaders] == [False, True, False, True], "each says when it ends"


async def test_a_router_that_restarts_publishes_the_difference_alone(topology, broker, until) -> None:
    publish_retained(broker, topology.status("n1"), topology.status("n2"))
    publish_retained(broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")))
    publish_retained(broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")))
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32", "10.1.1.2/32"))
    revision = decode(Head, broker.retained[HEAD]).revision
    publish_retained(
        broker, topology.endpoints("n2", 2, topology.endpoint("n2", 2, "10.1.1.3/32"))
    )  # while there is no router
    count = len(published(broker, CHANGES))
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32", "10.1.1.3/32"))
    (message,) = [decode(Changes, payload) for payload in published(broker, CHANGES)[count:]]
    assert ([route.network for route in message.set], message.delete) == (["10.1.1.3/32"], ("10.1.1.2/32",))
    assert message.previous == revision


async def test_nothing_is_published_before_the_view_is_complete(topology, broker, until) -> None:
    publish_retained(
        broker, topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    )
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
    before = dict(broker.retained)
    broker.lose = lambda topic, _: "sync" in topic  # the replay never ends
    async with router(broker) as controller:
        await asyncio.sleep(0.5)
        assert not controller.idle
        assert dict(broker.retained) == before


async def test_what_a_full_queue_dropped_is_asked_for_by_name(topology, broker, until) -> None:
    publish_retained(
        broker, topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    )
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
    count, lost = len(broker.published), set()

    def lose(topic: str, _payload: bytes) -> bool:
        once = topic not in lost and (topic == SHARD or "/nodes/" in topic)
        lost.add(topic)
        return once

    broker.lose = lose
    async with router(broker, "r2") as controller:
        await until(lambda: controller.idle)
        await asyncio.sleep(0.7)
    assert SHARD in lost
    assert not {topic for topic, _, _ in broker.published[count:] if "/vpcs/" in topic}


async def test_an_offline_node_keeps_its_routes_across_a_restart(topology, broker, until) -> None:
    publish_retained(
        broker, topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    )
    async with router(broker) as controller:
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
        publish_retained(
            broker, (topology.topics.status("default", "n1"), b'{"state":"offline","version":"1"}')
        )
        await asyncio.sleep(0.2)
        assert whole(broker, "10.1.1.1/32")
    count = len(broker.published)
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        assert whole(broker, "10.1.1.1/32")
    assert not {topic for topic, _, _ in broker.published[count:] if "/vpcs/" in topic}


async def test_a_node_whose_status_is_cleared_is_gone(topology, broker, until) -> None:
    async with router(broker):
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: whole(broker, "10.1.1.1/32"))
        publish_retained(broker, (topology.topics.status("default", "n1"), b""))
        await until(lambda: whole(broker))


@pytest.mark.parametrize(
    "empty", [pytest.param(True, id="empty"), pytest.param(False, id="with-its-database")]
)
async def test_a_broker_comes_back(topology, broker, until, *, empty: bool) -> None:
    async with router(broker) as controller:
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
        broker.stop()
        await asyncio.sleep(0.05)
        count = len(broker.published)
        broker.start(empty=empty)
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
        await until(lambda: f"{BASE}/router/leader" in broker.retained)
        await asyncio.sleep(0.6)
        again = [topic for topic, _, _ in broker.published[count:] if "/vpcs/" in topic]
        assert again == ([SHARD, HEAD] if empty else [])


async def test_changes_while_the_broker_is_away_are_published_when_it_is_back(
    topology, broker, until
) -> None:
    async with router(broker) as controller:
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: controller.idle and whole(broker, "10.1.1.1/32"))
        broker.stop()
        await until(lambda: not controller.bus.connected)
        controller.store.nodes.set_endpoints(
            NodeRef("default", "n1"), 2, (topology.endpoint("n1", 1, "10.1.1.2/32"),)
        )
        await asyncio.sleep(0.3)
        broker.start(empty=True)
        await until(lambda: controller.idle and whole(broker, "10.1.1.2/32"))


async def test_shards_that_are_no_more_and_strays_are_cleared(topology, broker, until) -> None:
    publish_retained(broker, (f"{BASE}/vpcs/0000000004d2/table/7", b'{"revision":1,"of":8,"routes":[]}'))
    publish_retained(
        broker, (f"{BASE}/vpcs/0000000004d2/table/x", b"{}"), (f"{BASE}/vpcs/nonsense/head", b"{}")
    )
    async with router(broker) as controller:
        await until(lambda: controller.idle and not [topic for topic in broker.retained if "/vpcs/" in topic])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(("nodes/default/n1/endpoints", b"{"), "Undecodable", id="no-json"),
        pytest.param(("nodes/default/n1/endpoints", b"\xff\xfe"), "Undecodable", id="no-utf8"),
        pytest.param(("nodes/default/n1/endpoints", b"[" * 100_000), "Undecodable", id="deep"),
        pytest.param(("nodes/default/n1/endpoints", b" " * 300_000), "Oversized", id="oversized"),
        pytest.param(
            ("nodes/default/n1/endpoints", b'{"sequence":"1","endpoints":[]}'), "Undecodable", id="wrong-type"
        ),
        pytest.param(
            ("nodes/default/n1/endpoints", b'{"sequence":-1,"endpoints":[]}'),
            "SequenceInvalid",
            id="negative",
        ),
        pytest.param(
            ("nodes/default/n1/endpoints", b'{"sequence":%d,"endpoints":[]}' % 10**30),
            "SequenceInvalid",
            id="huge",
        ),
        pytest.param(
            ("nodes/default/n1/endpoints", b'{"sequence":1,"endpoints":[]}'), "StaleSequence", id="replay"
        ),
        pytest.param(
            ("nodes/default/n1/endpoints", b'{"sequence":%d,"endpoints":[]}' % EPOCH_MAX),
            "SequenceInFuture",
            id="sequence-in-future",
        ),
        pytest.param(("nodes/default/n#1/endpoints", b"{}"), "InvalidName", id="hash-in-a-name"),
        pytest.param(("nodes/default/-/endpoints", b"{}"), "InvalidName", id="no-name"),
        pytest.param(("nodes/default/n1/status", b'{"state":"asleep"}'), "Undecodable", id="unknown-state"),
        pytest.param(
            ("nodes/default/n1/status", b'{"state":"online","prefix":"10.0.0.0/8"}'),
            "PrefixInvalid",
            id="ipv4-prefix",
        ),
    ],
)
async def test_bad_input_is_dropped_and_counted(
    topology, broker, until, message: tuple[str, bytes], reason: str
) -> None:
    topic, payload = message
    async with router(broker) as controller:
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 5, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: whole(broker, "10.1.1.1/32"))
        publish_retained(broker, (f"{BASE}/{topic}", payload))
        await until(lambda: rejected(controller)[reason] == 1)
        assert whole(broker, "10.1.1.1/32")
        publish_retained(broker, topology.endpoints("n1", 6))
        await until(lambda: whole(broker))


async def test_unknown_fields_are_ignored(topology, broker, until) -> None:
    topic, payload = topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    async with router(broker):
        publish_retained(
            broker, topology.status("n1"), (topic, payload.replace(b'{"sequence"', b'{"new":[1],"sequence"'))
        )
        await until(lambda: whole(broker, "10.1.1.1/32"))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    noise=st.lists(
        st.tuples(
            st.sampled_from(
                ["nodes/default/n1/endpoints", "nodes/default/n1/status", "nodes/é/n 1/endpoints"]
            )
            | st.sampled_from(
                ["vpcs/0000000004d2/head", "vpcs/0000000004d2/table/0", "vpcs/x/table/1", "router/leader"]
            ),
            st.binary(max_size=40)
            | st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(
                            ["sequence", "endpoints", "revision", "routes", "of", "shards", "prefix"]
                        )
                        | st.text(max_size=4),
                        inner,
                        max_size=5,
                    )
                ),
                max_leaves=12,
            ).map(lambda payload: __import__("json").dumps(payload).encode()),
        ),
        max_size=20,
    )
)
async def test_no_noise_stops_the_router(topology, until, noise: list) -> None:
    broker = MemoryBroker()
    publish_retained(broker, *((f"{BASE}/{topic}", payload) for topic, payload in noise))
    async with router(broker):
        publish_retained(broker, *((f"{BASE}/{topic}", payload) for topic, payload in noise))
        last = topology.endpoints("n1", 1 << 61, topology.endpoint("n1", 1, "10.1.1.1/32"))
        publish_retained(broker, topology.status("n1"), last)
        await until(lambda: changes(broker)[-1:] == [(["10.1.1.1/32@n1"], [])])


async def test_a_head_comes_after_its_shards_and_goes_before_them(topology, broker, until) -> None:
    async with router(broker) as controller:
        many = [f"10.1.{number >> 8}.{number & 255}/32" for number in range(1, 601)]
        publish_retained(
            broker, topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, *many))
        )
        await until(lambda: controller.idle and HEAD in broker.retained)
        publish_retained(broker, topology.endpoints("n1", 2))
        await until(lambda: controller.idle and HEAD not in broker.retained)
    order = [
        (topic.rpartition("/")[2], bool(payload))
        for topic, payload, retain in broker.published
        if "/vpcs/" in topic and retain
    ]
    assert order[:4] == [("0", True), ("1", True), ("2", True), ("head", True)]
    assert (order[4], sorted(order[5:])) == (("head", False), [("0", False), ("1", False), ("2", False)])

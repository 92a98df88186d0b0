"""Every message is checked, and none stops the router: a wrong one is dropped and counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network

import pytest
from assembling import inbox_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from galactic.bus.memory import MemoryBroker
from galactic.messages import MAX_PAYLOAD, Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.router.ingress.fair_queue import FairQueue, Share
from galactic.router.ingress.inbox import Inbox
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store

TOPICS = Topics("galactic/v1")
PREFIX = "2001:db8:ff01:100::/56"
SPACE = IPv6Network("2001:db8:ff00::/40")
HORIZON = 1 << 40
VALID = {
    "vpc": "0000000004d2",
    "function": "0001",
    "attachment": "ns/a1",
    "sid": "2001:db8:ff01:100::4d2:1",
    "networks": ["10.1.1.1/32"],
    "epoch": 1,
}
BOUNDLESS = Share(1e9, 1e9, 1e12, 1e12)


@dataclass
class InboxAtBroker:
    """An inbox at a broker in memory, its store, and its metrics."""

    broker: MemoryBroker
    store: Store
    collectors: CollectorRegistry
    task: asyncio.Task
    inbox: Inbox
    sentinels: int = 0

    async def publish_unretained(self, topic: str, payload: bytes) -> None:
        self.broker.publish(topic, payload, retain=False)

    async def handled(self) -> None:
        """Waits until all earlier messages are handled, by a valid message after them."""
        self.sentinels += 1
        topic = TOPICS.endpoints("default", "sentinel")
        self.broker.publish(topic, encode(NodeEndpoints(self.sentinels, ())), retain=False)
        sentinel = NodeRef("default", "sentinel")
        async with asyncio.timeout(120):
            while (
                self.store.nodes._nodes.get(sentinel) is None
                or self.store.nodes._nodes[sentinel].sequence < self.sentinels
            ):
                assert not self.task.done(), self.task
                await asyncio.sleep(0)

    def counted(self) -> dict[str, int]:
        return {
            sample.labels["reason"]: int(sample.value)
            for metric in self.collectors.collect()
            if metric.name == "galactic_router_rejections"
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        }


@asynccontextmanager
async def inbox_at_broker(fair_queue: FairQueue | None = None) -> AsyncIterator[InboxAtBroker]:
    broker, collectors = MemoryBroker(), CollectorRegistry()
    store, session = Store(checked=False), broker.session()
    queue = FairQueue(share=BOUNDLESS) if fair_queue is None else fair_queue
    inbox = inbox_of(session, TOPICS, store, collectors, block=SPACE, queue=queue)
    task = asyncio.create_task(inbox.run())
    inbox_at = InboxAtBroker(broker, store, collectors, task, inbox)
    try:
        while not session.filters:
            await asyncio.sleep(0)
        await inbox_at.publish_unretained(
            TOPICS.status("default", "n1"), encode(NodeStatus("online", PREFIX))
        )
        await inbox_at.handled()
        yield inbox_at
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def registration(**changed: object) -> bytes:
    return json.dumps({"sequence": 5, "endpoints": [{**VALID, **changed}]}).encode()


BAD = [
    pytest.param(b"", None, id="empty"),
    pytest.param(b"\xff\xfe", "Undecodable", id="no-utf-8"),
    pytest.param(b"{", "Undecodable", id="no-json"),
    pytest.param(b"[]", "Undecodable", id="a-list"),
    pytest.param(b"null", "Undecodable", id="null"),
    pytest.param(b"{}", "Undecodable", id="fields-missing"),
    pytest.param(b"[" * 200_000, "Undecodable", id="deep"),
    pytest.param(b'{"a":' * 50_000, "Undecodable", id="deep-objects"),
    pytest.param(b" " * (MAX_PAYLOAD + 1), "Oversized", id="oversized"),
    pytest.param(
        b'{"sequence":1,"endpoints":[' + b",".join([json.dumps(VALID).encode()] * 10_000) + b"]}",
        "Oversized",
        id="10,000-endpoints",
    ),
    pytest.param(b'{"sequence":"1","endpoints":[]}', "Undecodable", id="sequence-as-text"),
    pytest.param(b'{"sequence":1.5,"endpoints":[]}', "Undecodable", id="sequence-as-fraction"),
    pytest.param(b'{"sequence":true,"endpoints":[]}', "Undecodable", id="sequence-as-boolean"),
    pytest.param(b'{"sequence":-1,"endpoints":[]}', "SequenceInvalid", id="sequence-below-0"),
    pytest.param(b'{"sequence":4611686018427387904,"endpoints":[]}', "SequenceInvalid", id="sequence-2^62"),
    pytest.param(b'{"sequence":1' + b"0" * 5000 + b',"endpoints":[]}', "Undecodable", id="sequence-10^5000"),
    pytest.param(registration(epoch=1e3), "Undecodable", id="epoch-as-a-whole-fraction"),
    pytest.param(registration(epoch="1"), "Undecodable", id="epoch-as-text"),
    pytest.param(registration(epoch=-1), "EpochInvalid", id="epoch-below-0"),
    pytest.param(registration(epoch=1 << 62), "EpochInvalid", id="epoch-2^62"),
    pytest.param(registration(epoch=1 << 80), "EpochInvalid", id="epoch-2^80"),
    pytest.param(registration(epoch=HORIZON + 1), "EpochInFuture", id="epoch-in-future"),
    pytest.param(registration(networks="10.1.1.1/32"), "Undecodable", id="networks-as-text"),
    pytest.param(registration(networks=[1]), "Undecodable", id="network-as-number"),
    pytest.param(registration(networks=["10.1.1.1"]), "InvalidNetwork", id="an-address"),
    pytest.param(registration(networks=["10.1.1.1/33"]), "InvalidNetwork", id="length-33"),
    pytest.param(registration(networks=["10.1.1.1/255.255.255.255"]), "InvalidNetwork", id="netmask"),
    pytest.param(registration(networks=["a.example/32"]), "InvalidNetwork", id="a-name"),
    pytest.param(registration(networks=["fe80::1%eth0/128"]), "InvalidNetwork", id="zone"),
    pytest.param(registration(networks=["10.1.1.1/32\n"]), "InvalidNetwork", id="newline"),
    pytest.param(registration(networks=["1.0.0.0/0"]), "HostBits", id="default-route-with-host-bits"),
    pytest.param(registration(networks=["10.1.1.1/24"]), "HostBits", id="host-bits"),
    pytest.param(registration(networks=["224.0.0.0/4"]), "InvalidNetwork", id="multicast"),
    pytest.param(registration(networks=["127.0.0.0/8"]), "InvalidNetwork", id="loopback"),
    pytest.param(registration(sid="2001:db8:ff01:200::4d2:1"), "SidOutsidePrefix", id="another-node's-sid"),
    pytest.param(registration(sid="2001:db8:ffff:100::4d2:1"), "SidOutsidePrefix", id="sid-in-no-prefix"),
    pytest.param(registration(sid="2001:db8:ff01:100::4d3:1"), "SidMismatch", id="sid-of-another-vpc"),
    pytest.param(registration(function="0002"), "SidMismatch", id="sid-of-another-function"),
    pytest.param(registration(sid="10.0.0.1"), "InvalidIdentifier", id="sid-is-ipv4"),
    pytest.param(registration(vpc="+"), "InvalidIdentifier", id="vpc-plus"),
    pytest.param(registration(vpc="0000000004D2"), "InvalidIdentifier", id="vpc-upper-case"),
    pytest.param(registration(vpc="ffffffffffff"), "InvalidIdentifier", id="vpc-all-ones"),
    pytest.param(registration(function="0000"), "InvalidIdentifier", id="function-0"),
    pytest.param(registration(networks=["10.1.1.1/32"] * 1025), "TooManyNetworks", id="1025-networks"),
]


@pytest.mark.parametrize(("payload", "reason"), BAD)
async def test_what_is_wrong_is_dropped_and_counted(payload: bytes, reason: str | None) -> None:
    async with inbox_at_broker() as inbox:
        await inbox.publish_unretained(TOPICS.endpoints("default", "n1"), payload)
        await inbox.handled()
        commit = inbox.store.commit(HORIZON)
        counted = inbox.counted() | {rejection.reason: 1 for rejection in commit.rejections}
        assert set(counted) == ({reason} if reason else set())
        if reason:
            assert not inbox.store.tables.routes(0x4D2)


async def test_what_is_in_order_is_taken_and_unknown_fields_are_ignored() -> None:
    async with inbox_at_broker() as it:
        payload = {"sequence": 1, "endpoints": [{**VALID, "colour": "blue"}], "later": {"deep": [1]}}
        await it.publish_unretained(TOPICS.endpoints("default", "n1"), json.dumps(payload).encode())
        await it.handled()
        it.store.commit(HORIZON)
        assert list(it.store.tables.routes(0x4D2)) == ["10.1.1.1/32"]
        assert it.counted() == {}


async def test_what_is_stale_or_replayed_is_dropped_and_counted() -> None:
    async with inbox_at_broker() as it:
        topic = TOPICS.endpoints("default", "n1")
        for sequence, networks in ((5, ["10.1.1.1/32"]), (4, []), (5, []), (5, ["10.1.1.1/32"])):
            payload = {"sequence": sequence, "endpoints": [{**VALID, "networks": networks}]}
            await it.publish_unretained(topic, json.dumps(payload).encode())
            await it.handled()
        it.store.commit(HORIZON)
        assert list(it.store.tables.routes(0x4D2)) == ["10.1.1.1/32"]
        assert it.counted() == {"StaleSequence": 2}, "the same once more is no offence"


@pytest.mark.parametrize(
    ("cluster", "node", "taken"),
    [
        pytest.param("default", "n" * 253, True, id="longest-node"),
        pytest.param("c" * 63, "n", True, id="longest-cluster"),
        pytest.param("default", "n" * 254, False, id="node-too-long"),
        pytest.param("default", "", False, id="no-node"),
        pytest.param("", "n", False, id="no-cluster"),
        pytest.param("default", "a+b", False, id="plus"),
        pytest.param("default", "a#", False, id="hash"),
        pytest.param("default", "a b", False, id="space"),
        pytest.param("default", "a\x00", False, id="nul"),
        pytest.param("default", "-a", False, id="dash-first"),
        pytest.param("default", "ä", False, id="no-ascii"),
    ],
)
async def test_names(cluster: str, node: str, *, taken: bool) -> None:
    """Also on topics that the shipped access list forbids: another broker may allow them."""
    async with inbox_at_broker() as it:
        await it.publish_unretained(TOPICS.endpoints(cluster, node), encode(NodeEndpoints(1, ())))
        await it.handled()
        assert it.store.nodes.is_registered(NodeRef(cluster, node)) is taken
        assert it.counted() == ({} if taken else {"InvalidName": 1})


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param("nodes/default/a/b/endpoints", id="slash"),
        pytest.param("nodes/default/n1", id="no-kind"),
        pytest.param("nodes/default/n1/other", id="another-kind"),
        pytest.param("nodes/default/n1/endpoints/more", id="a-level-more"),
        pytest.param("router/other", id="another-of-the-router's"),
        pytest.param("other", id="another"),
    ],
)
async def test_topics_that_there_are_not(topic: str) -> None:
    async with inbox_at_broker() as it:
        await it.publish_unretained(f"galactic/v1/{topic}", registration())
        await it.handled()
        it.store.commit(HORIZON)
        assert not it.store.tables.routes(0x4D2)
        assert it.counted() == {}, "they are not subscribed to"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        pytest.param("10.0.0.0/8", "PrefixInvalid", id="ipv4"),
        pytest.param("2001:db8:ff01::1/56", "PrefixInvalid", id="host-bits"),
        pytest.param("2001:db8:ff01::/96", "PrefixInvalid", id="too-long"),
        pytest.param("2001:db9::/56", "PrefixOutsideSpace", id="outside"),
    ],
)
async def test_prefixes(prefix: str, reason: str) -> None:
    async with inbox_at_broker() as it:
        await it.publish_unretained(TOPICS.status("default", "n2"), encode(NodeStatus("online", prefix)))
        await it.handled()
        assert it.counted() == {reason: 1}


async def test_a_node_over_its_share_is_counted_and_its_last_word_holds() -> None:
    class Clock:
        now = 0.0

    async with inbox_at_broker(FairQueue(lambda: Clock.now, share=Share(1, 50, 1e9, 1e9))) as inbox:
        with capture_logs() as logs:
            for sequence in range(1, 201):
                endpoint = Endpoint(**{**VALID, "networks": (f"10.1.1.{sequence}/32",)})
                payload = encode(NodeEndpoints(sequence, (endpoint,)))
                await inbox.publish_unretained(TOPICS.endpoints("default", "n1"), payload)
                for _ in range(30):  # so that each has its turn, as far as there are any
                    await asyncio.sleep(0)
            await inbox.handled()
        assert [line["node"] for line in logs if "superseded" in line["event"]] == ["n1"]
        assert len(inbox.inbox.queue) == 1
        assert inbox.counted()["RateLimited"] > 100
        Clock.now += 2
        await inbox.handled()
        inbox.store.commit(HORIZON)
        assert list(inbox.store.tables.routes(0x4D2)) == ["10.1.1.200/32"]


async def test_a_mistake_of_ours_costs_one_message(monkeypatch) -> None:
    async with inbox_at_broker() as it:
        known = it.store.nodes.set_endpoints

        def registered(node: NodeRef, *payload: object) -> bool:
            if node.node == "n1":
                raise ZeroDivisionError
            return known(node, *payload)

        monkeypatch.setattr(it.store.nodes, "set_endpoints", registered)
        await it.publish_unretained(TOPICS.endpoints("default", "n1"), registration())
        await it.handled()
        assert it.counted() == {"Internal": 1}


# -- fuzzing -----------------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "/",
            "0/0",
            "::/0",
            "10.0.0.0/8",
            "10.1.1.1/32",
            "fe80::1%x/64",
            "0000000004d2",
            "0001",
            "+",
            "#",
            "\x00",
            "2001:db8:ff01:100::4d2:1",
            "2001:db8:ff01:200::4d2:1",
            "ffffffffffff",
            "\N{FULLWIDTH DIGIT NINE}/8",
            "ns/a1",
        ]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
# Mostly in order, or nothing would ever get past the decoder: a few fields are other plausible ones, some are anything.
SIDS = [f"2001:db8:ff01:{node}00::4d2:{function}" for node in (1, 2) for function in (1, 2)]
near = st.fixed_dictionaries(
    {},
    optional={
        "sid": st.sampled_from([*SIDS, *SIDS, "10.0.0.1", "", "::", "2001:db8:ff01:100::4d2:1/128"]),
        "function": st.sampled_from(["0001", "0002", "0000", "ffff", "", "g"]),
        "vpc": st.sampled_from(["0000000004d2", "0000000004d3"]),
        "networks": st.lists(
            st.sampled_from(
                ["10.1.1.1/32", "10.1.1.2/32", "10.1.0.0/16", "10.1.1.1/24", "0.0.0.0/0", "fd00::1/128"]
            )
        ),
        "epoch": st.integers(-1, 1 << 63),
    },
)
wild = st.dictionaries(st.sampled_from([*VALID, "more"]), anything, max_size=2)
endpoints = st.tuples(near, st.just({}) | wild).map(lambda pair: VALID | pair[0] | pair[1])
registrations = st.tuples(
    st.sampled_from(["n1", "n1", "n2"]), st.integers(0, 99), st.lists(endpoints, min_size=1, max_size=3)
).map(
    lambda cut: (
        TOPICS.endpoints("default", cut[0]),
        json.dumps({"sequence": cut[1], "endpoints": cut[2]}).encode(),
    )
)
prefixes = st.sampled_from([PREFIX, "2001:db8:ff01:200::/56"])
messages = st.one_of(
    st.binary(max_size=200),
    anything.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "sequence": st.one_of(st.integers(0, 9), anything),
            "endpoints": st.lists(endpoints, max_size=4) | anything,
        }
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["online", "offline"]) | anything, "prefix": prefixes | anything}
    ).map(lambda it: json.dumps(it).encode()),
    st.tuples(st.just(registration()), st.integers(0, 300), st.binary(min_size=1, max_size=3)).map(
        lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
    ),
)
names = st.sampled_from(["n1", "n2", "", "+", "a b"]) | st.text(max_size=5)
topics = st.one_of(
    st.builds(TOPICS.endpoints, st.just("default"), names),
    st.builds(TOPICS.status, st.just("default"), names),
    st.builds(
        TOPICS.table, st.sampled_from(["0000000004d2", "x"]), st.sampled_from(["0", "1", "-1", "x", "9" * 30])
    ),
    st.builds(TOPICS.head, st.sampled_from(["0000000004d2", "x"])),
    st.builds(TOPICS.changes, st.just("0000000004d2")),
    st.sampled_from([TOPICS.leader, TOPICS.sync("r"), "galactic/v1", "galactic/v1/nodes", "elsewhere", ""]),
)


@pytest.mark.timeout(900)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(registrations | st.tuples(topics, messages), min_size=1, max_size=12))
def test_whatever_arrives_the_router_lives_and_its_table_is_in_order(
    messages: list[tuple[str, bytes]],
) -> None:
    async def fuzz() -> None:
        async with inbox_at_broker() as it:
            for topic, payload in messages:
                await it.publish_unretained(topic, payload)
            await it.handled()
            it.store.commit(HORIZON)
            assert "Internal" not in it.counted(), it.counted()
            known = {node: segment.prefix for node, segment in it.store.nodes.segments().items()}
            for table in it.store.tables.snapshot().values():
                for network, route in table.routes.items():
                    assert str(ip_network(network)) == network
                    node = NodeRef(route.cluster, route.node)
                    assert IPv6Network(f"{route.segments[0]}/128").subnet_of(known[node])

    asyncio.run(fuzz())

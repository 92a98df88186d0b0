"""A standalone router checks endpoints against the lists that their clusters publish."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import Any

import pytest
from assembling import assembled
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from registrations import Topology

from galactic.bus.memory import MemoryBroker
from galactic.errors import Rejected
from galactic.messages import Entitlement, Entitlements, PeeringVpc, Shard, decode, encode
from galactic.names import function_hex
from galactic.router.ingress.entitlements import ClusterList, EntitlementLists, attachment
from galactic.router.rib.vpc_tables import VpcTables
from galactic.settings import RouterSettings

TABLE = "galactic/v1/vpcs/0000000004d2/table/0"
LIST = Topology.topics.entitlements
HALF = "0.0.0.0/1"
OWN = ("10.1.1.1/32", "192.168.3.0/24")


def entry(
    function: int,
    *networks: str,
    nodes: tuple[str, ...] = ("n1",),
    vpc: str = "0000000004d2",
    ready: bool = True,
) -> Entitlement:
    return Entitlement(f"ns/a{function}", vpc, function_hex(function), networks, nodes, ready)


@asynccontextmanager
async def router(broker: MemoryBroker, *, required: bool = True):
    chosen = RouterSettings(kubernetes=False, require_entitlements=required)
    controller = assembled(chosen, broker.session())
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def publish_retained(broker: MemoryBroker, *messages: tuple[str, bytes]) -> None:
    for topic, payload in messages:
        broker.publish(topic, payload, True)


def publish(
    broker: MemoryBroker, *entries: Entitlement, cluster: str = "default", generation: int = 1
) -> None:
    broker.publish(LIST(cluster, 0), encode(Entitlements(generation, 1, entries)), True)


def routes(broker: MemoryBroker) -> dict[str, str]:
    payload = broker.retained.get(TABLE)
    return {route.network: route.node for route in decode(Shard, payload).routes} if payload else {}


def count(controller, reason: str) -> float:
    return controller.registry.get_sample_value("galactic_router_rejections_total", {"reason": reason})


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.mark.parametrize(
    ("entries", "installed", "reason"),
    [
        pytest.param([entry(1, *OWN)], OWN, None, id="entitled"),
        pytest.param([entry(1, OWN[0])], OWN[:1], "NotEntitled", id="a-network-is-not"),
        pytest.param([entry(1, *OWN, nodes=("n2",))], (), "NotCarried", id="its-pod-is-on-another-node"),
        pytest.param([entry(1, *OWN, nodes=())], (), "NotCarried", id="it-has-no-pod"),
        pytest.param([entry(1, *OWN, ready=False)], (), "NotReady", id="it-is-not-ready"),
        pytest.param([entry(1, *OWN, vpc="0000000004d3")], (), "VpcMismatch", id="it-is-in-another-vpc"),
        pytest.param([entry(2, *OWN)], (), "AttachmentUnknown", id="it-does-not-exist"),
        pytest.param([], (), "AttachmentUnknown", id="there-are-none"),
        pytest.param(None, (), "NotListed", id="no-list"),
    ],
)
async def test_what_a_node_registers_is_checked(
    topology, broker, until, *, entries, installed, reason
) -> None:
    if entries is not None:
        publish(broker, *entries)
    publish(broker, entry(1, *OWN), cluster="elsewhere")
    publish_retained(
        broker, topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, *OWN))
    )
    async with router(broker) as controller:
        await until(lambda: controller.idle and "galactic/v1/router/leader" in broker.retained)
        await until(lambda: routes(broker) == dict.fromkeys(installed, "n1"))
        assert reason is None or count(controller, reason) == 1


async def test_half_of_the_internet_is_rejected_until_the_operator_entitles_to_it(
    topology, broker, until
) -> None:
    """A node of a shared VPC announces it; and a path that overtakes its list is installed when the list comes."""
    publish(broker, entry(1, "10.1.1.1/32"))
    async with router(broker) as controller:
        claimed = topology.endpoint("n1", 1, "10.1.1.1/32", HALF)
        publish_retained(broker, topology.status("n1"), topology.endpoints("n1", 1, claimed))
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1"})
        assert count(controller, "NotEntitled") == 1
        publish(broker, entry(1, "10.1.1.1/32", HALF))
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1", HALF: "n1"})
        publish(broker, entry(1, "10.1.1.1/32"))
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1"})
        publish(broker)
        await until(lambda: routes(broker) == {})


async def test_an_upgrade_keeps_what_runs_and_adds_nothing_unchecked(topology, broker, until) -> None:
    """The router is upgraded before the operator that publishes the list."""
    old = topology.endpoint("n1", 1, "10.1.1.1/32")
    publish_retained(broker, topology.status("n1"), topology.status("n2"), topology.endpoints("n1", 1, old))
    async with router(broker, required=False):
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1"})
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        wider = topology.endpoint("n1", 1, "10.1.1.1/32", HALF)
        publish_retained(
            broker, topology.endpoints("n1", 2, wider, topology.endpoint("n1", 3, "10.1.1.3/32"))
        )
        publish_retained(broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")))
        await until(lambda: controller.idle and count(controller, "NotListed") == 2)
        assert routes(broker) == {"10.1.1.1/32": "n1"}
        assert controller.registry.get_sample_value("galactic_router_unlisted_clusters") == 1
    async with router(broker) as controller:
        await until(lambda: controller.idle and count(controller, "NotListed") == 2)
        assert routes(broker) == {"10.1.1.1/32": "n1"}, "nor does a restart change it"
        publish(broker, entry(1, "10.1.1.1/32"), entry(2, "10.1.1.2/32", nodes=("n2",)))
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1", "10.1.1.2/32": "n2"})
        assert controller.registry.get_sample_value("galactic_router_unlisted_clusters") == 0


async def test_a_cluster_with_a_list_is_checked_whatever_the_setting(topology, broker, until) -> None:
    publish(broker, entry(1, "10.1.1.1/32"))
    async with router(broker, required=False):
        publish_retained(broker, topology.status("n1"), topology.status("n2", "old"))
        publish_retained(broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", HALF)))
        other = topology.endpoint("n2", 1, "10.2.2.2/32", vpc=0x4D3)
        publish_retained(broker, topology.endpoints("n2", 1, other, cluster="old"))
        await until(lambda: routes(broker) == {"10.1.1.1/32": "n1"})
        await until(lambda: TABLE.replace("4d2", "4d3") in broker.retained)


async def test_a_list_that_is_written_again_withdraws_nothing(topology, broker, until) -> None:
    """Another operator leads: until its list is whole, what was in the former one stays."""
    numbers = range(1, 7)
    for part in range(3):
        entries = tuple(entry(number, f"10.1.1.{number}/32") for number in numbers if number % 3 == part)
        broker.publish(LIST("default", part), encode(Entitlements(1, 3, entries)), True)
    endpoints = [topology.endpoint("n1", number, f"10.1.1.{number}/32") for number in numbers]
    publish_retained(broker, topology.status("n1"), topology.endpoints("n1", 1, *endpoints))
    async with router(broker) as controller:
        await until(lambda: len(routes(broker)) == 6)
        for part in range(2):
            entries = tuple(
                entry(number, f"10.1.1.{number}/32") for number in numbers[1:] if number % 2 == part
            )
            broker.publish(LIST("default", part), encode(Entitlements(2, 2, entries)), True)
            if part == 0:
                await until(lambda: controller.idle)
                assert len(routes(broker)) == 6
        await until(lambda: len(routes(broker)) == 5)
        assert "10.1.1.1/32" not in routes(broker)


@pytest.mark.parametrize(
    ("cluster", "level", "payload", "reason"),
    [
        pytest.param("default", "x", b"{}", "UnknownTopic", id="no-shard"),
        pytest.param("+", "0", b"{}", "UnknownTopic", id="no-cluster"),
        pytest.param("default", "0", b"{", "Undecodable", id="no-json"),
        pytest.param("default", "1", encode(Entitlements(1, 1, ())), "SequenceInvalid", id="beyond-the-last"),
        pytest.param("default", "0", encode(Entitlements(1 << 62, 1, ())), "SequenceInvalid", id="far-ahead"),
        pytest.param("default", "0", encode(Entitlements(1, 1 << 30, ())), "SequenceInvalid", id="too-many"),
    ],
)
async def test_what_is_no_part_of_a_list_is_dropped(
    broker, until, *, cluster, level, payload, reason
) -> None:
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        broker.publish(LIST(cluster, level), payload, True)
        await until(lambda: count(controller, reason) == 1)


async def test_a_part_of_an_earlier_list_is_dropped(broker, until) -> None:
    async with router(broker) as controller:
        await until(lambda: "galactic/v1/router/leader" in broker.retained)
        publish(broker, entry(1), generation=2)
        publish(broker, generation=1)
        await until(lambda: count(controller, "StaleSequence") == 1)


LISTS = st.lists(st.dictionaries(st.integers(1, 6), st.integers(0, 2), max_size=6), min_size=1, max_size=4)


@settings(deadline=None)
@given(LISTS, st.randoms(use_true_random=False))
def test_in_the_end_the_newest_list_is_in_force_in_whatever_order_it_came(lists, random) -> None:
    """Each list names attachments by their part of three. What is retained of earlier ones may come in between."""
    messages = [
        (generation, part, tuple(entry(number) for number, where in of.items() if where == part))
        for generation, of in enumerate(lists)
        for part in range(3)
    ]
    random.shuffle(messages)
    known, view = ClusterList(), {}
    for generation, part, entries in messages:
        given_ = {entry.attachment: attachment(entry) for entry in entries}
        try:
            changed = known.amend(part, Entitlements(generation, 3, entries), given_)
        except Rejected:
            continue
        for name, now in changed.items():
            view.pop(name, None) if now is None else view.update({name: now})
    assert known.complete
    assert not known.missing
    assert view.keys() == {f"ns/a{number}" for number in lists[-1]}


def test_an_attachment_that_changes_its_part_is_never_gone() -> None:
    known = ClusterList()
    both = {"ns/a1": attachment(entry(1)), "ns/a2": attachment(entry(2))}
    known.amend(0, Entitlements(1, 1, ()), both)
    changed = known.amend(1, Entitlements(1, 2, ()), {"ns/a2": both["ns/a2"]})
    assert changed == {"ns/a2": both["ns/a2"]}
    assert known.amend(0, Entitlements(1, 2, ()), {"ns/a1": both["ns/a1"]}) == {"ns/a1": both["ns/a1"]}
    assert known.amend(1, Entitlements(1, 2, ()), {}) == {"ns/a2": None}


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_payload_stops_the_router(payload: bytes) -> None:
    good = encode(Entitlements(1, 1, (entry(1, *OWN),)))
    registrations, dropped = [], 0

    class Registrations:
        def amend_attachments(self, cluster, changed, *, complete):
            registrations.append((cluster, changed, complete))

    tables = VpcTables(asyncio.Event())
    lists = EntitlementLists(MemoryBroker().session(), Topology.topics, Registrations(), tables)
    for message in (payload, good[: len(payload)] + payload, good):
        try:
            lists.arrived("default", "0", message)
        except Rejected:
            dropped += 1
    assert registrations or dropped
    assert list(itertools.islice(registrations[-1][1], 1)) == ["ns/a1"]


def test_peers_are_those_of_the_lists() -> None:
    """A later part, or a later list, without a VPC takes its peers back; one that is not valid has none."""
    declared: dict[tuple[str, int], Any] = {}

    class Tables:
        def declare(self, cluster, vpc, name, side):
            declared[cluster, vpc] = side and (name, [*map(str, side.networks)], side.peers)

    class Registrations:
        def amend_attachments(self, cluster, changed, *, complete):
            assert not changed

    lists = EntitlementLists(MemoryBroker().session(), Topology.topics, Registrations(), Tables())

    def arrives(generation: int, *vpcs: PeeringVpc) -> None:
        lists.arrived("east", "0", encode(Entitlements(generation, 1, (), "uid", vpcs)))

    blue = PeeringVpc("blue/a", "00000000000a", ("10.1.0.0/16",), ("00000000000b", "00000000000a"))
    broken = PeeringVpc("red/b", "00000000000b", ("10.1.0.0/99",), ("00000000000a",))
    arrives(1, blue, broken)
    assert declared == {("east", 0xA): ("blue/a", ["10.1.0.0/16"], (0xB,))}
    arrives(1, structs.replace(blue, vpc="00000000000c"))
    assert declared["east", 0xA] is None
    assert declared["east", 0xC] is not None
    arrives(2)
    assert declared["east", 0xC] is None


def table(broker: MemoryBroker, vpc: str) -> set[str]:
    payload = broker.retained.get(f"galactic/v1/vpcs/{vpc}/table/0")
    return {route.network for route in decode(Shard, payload).routes} if payload else set()


async def test_peers_are_imported_for_the_clusters_that_declare_them(topology, broker, until) -> None:
    """No node makes a peering, nor does a list of another cluster; a router that takes over keeps what there is."""
    a, b = "0000000004d2", "0000000004d3"
    blue = PeeringVpc("ns/blue", a, ("10.1.0.0/16",), (b,))
    red = PeeringVpc("ns/red", b, ("10.2.0.0/16",), (a,))
    entries = (entry(1, "10.1.1.1/32"), entry(2, "10.2.1.1/32", "0.0.0.0/0", vpc=b))

    def lists(generation: int, *vpcs: PeeringVpc, cluster: str = "default") -> None:
        own = entries if cluster == "default" else ()
        broker.publish(LIST(cluster, 0), encode(Entitlements(generation, 1, own, "", vpcs)), True)

    lists(1, blue)
    endpoints = (
        topology.endpoint("n1", 1, "10.1.1.1/32"),
        topology.endpoint("n1", 2, "10.2.1.1/32", "0.0.0.0/0", vpc=0x4D3),
    )
    publish_retained(broker, topology.status("n1"), topology.endpoints("n1", 1, *endpoints))
    async with router(broker) as controller:
        await until(lambda: table(broker, a) == {"10.1.1.1/32"} and controller.idle)
        lists(1, blue, red, cluster="elsewhere")
        stray = topology.endpoint("n1", 3, "10.2.1.1/32", vpc=0x4D3)
        forged = structs.replace(stray, vpc=a)
        publish_retained(broker, topology.endpoints("n1", 2, *endpoints, forged))
        await until(lambda: count(controller, "SidMismatch") == 1 and controller.idle)
        assert table(broker, a) == {"10.1.1.1/32"}
        lists(1, blue, red)
        await until(lambda: table(broker, a) == {"10.1.1.1/32", "10.2.1.1/32"})
        await until(lambda: table(broker, b) == {"10.1.1.1/32", "10.2.1.1/32", "0.0.0.0/0"})
        assert controller.registry.get_sample_value("galactic_router_peerings") == 1
        assert controller.registry.get_sample_value("galactic_router_imported_routes") == 2
        await until(lambda: controller.idle)
    retained = dict(broker.retained)
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        tables = {topic: payload for topic, payload in retained.items() if "/vpcs/" in topic}
        assert {topic: broker.retained.get(topic) for topic in tables} == tables, "it published nothing"
        lists(1, blue)
        await until(lambda: table(broker, a) == {"10.1.1.1/32"} and "10.1.1.1/32" not in table(broker, b))

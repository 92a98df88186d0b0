"""The last message of an offline node whose clock was hours ahead does not outdo a node that is online.

The reasons are in docs/design/late-messages.md.
"""

from collections.abc import Set as AbstractSet

import pytest
from replicas import Vote, replica

from galactic.bus.memory import MemoryBroker
from galactic.messages import NodeStatus, encode
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.rib.path import NodeRef, Segment
from galactic.router.rib.store import Store
from galactic.router.rib.table import table

VPC, NETWORK = 0x4D2, "10.1.1.1/32"
NOW, AHEAD, HORIZON = 1_000, 9_000, 10_000
DEAD, LIVING = NodeRef("default", "n1"), NodeRef("default", "n2")
ONLINE, OFFLINE, BOTH = frozenset(), {DEAD}, {DEAD, LIVING}


def registered(topology, *nodes: str) -> dict[NodeRef, Segment]:
    """An attachment on each of these; n1 has the clock that is ahead."""
    return {
        NodeRef("default", node): Segment(
            topology.prefix(node),
            (topology.endpoint(node, 1, NETWORK, epoch=AHEAD if node == "n1" else NOW),),
        )
        for node in nodes
    }


def node_of(tables) -> str:
    return tables.vpcs[VPC].routes[NETWORK].node


@pytest.mark.parametrize(
    ("nodes", "in_force", "absent", "has"),
    [
        pytest.param(["n1", "n2"], "n2", ONLINE, "n1", id="a-pod-that-moved"),
        pytest.param(["n1", "n2"], "n2", OFFLINE, "n2", id="a-late-message"),
        pytest.param(
            ["n1", "n2"], None, OFFLINE, "n2", id="received-with-the-online-one-by-a-router-that-starts"
        ),
        pytest.param(["n1", "n2"], "n1", OFFLINE, "n1", id="in-force-and-its-agent-is-away-however-long"),
        pytest.param(["n1"], "n1", OFFLINE, "n1", id="no-other-has-it"),
        pytest.param(["n1"], None, OFFLINE, "n1", id="no-other-has-it-and-it-comes-late"),
        pytest.param(["n1", "n2"], None, BOTH, "n1", id="all-are-offline"),
        pytest.param(["n1", "n2"], "n2", BOTH, "n2", id="the-broker-restarts"),
    ],
)
def test_who_has_the_attachment(
    topology, nodes: list[str], in_force: str | None, absent: AbstractSet[NodeRef], has: str
) -> None:
    installed = {}
    if in_force is not None:
        before = table(registered(topology, in_force), None, {}, HORIZON)
        installed = {VPC: before.vpcs[VPC].routes}
    tables = table(registered(topology, *nodes), None, installed, HORIZON, offline=absent)
    assert node_of(tables) == has
    again = table(registered(topology, *nodes), None, {VPC: tables.vpcs[VPC].routes}, HORIZON, offline=absent)
    assert again == tables, "an unchanged input changes the table"


def test_a_late_message_counts_when_its_node_is_back(topology) -> None:
    store = Store(checked=False)
    liveness = NodeLiveness(store.nodes, 0)
    two = registered(topology, "n1", "n2")
    liveness.set_status(DEAD, online=False)
    for node in (LIVING, DEAD):
        store.nodes.set_prefix(node, two[node].prefix)
        store.nodes.set_endpoints(node, 1, two[node].endpoints)
    store.commit(HORIZON)
    assert store.tables.routes(VPC)[NETWORK].node == "n2"
    for online, has in ((False, "n2"), (True, "n1"), (False, "n1")):
        liveness.set_status(DEAD, online=online)
        store.commit(HORIZON)
        assert store.tables.routes(VPC)[NETWORK].node == has


async def test_a_message_that_the_broker_kept_until_its_node_was_dead(topology, until) -> None:
    """No router received it while its node was online; the pod was started elsewhere, where its epoch was unknown."""
    broker, vote = MemoryBroker(), Vote()
    for topic, payload in (
        topology.status("n2"),
        topology.endpoints("n2", 1, topology.endpoint("n2", 1, NETWORK, epoch=NOW)),
    ):
        broker.publish(topic, payload, True)
    vote.elect("a")
    async with replica(broker, vote, "a") as router:
        await until(lambda: router.idle and NETWORK in router.store.tables.routes(VPC))
        topic, online = topology.status("n1")
        broker.publish(topic, online, True)  # its prefix is known
        broker.publish(topic, encode(NodeStatus("offline", str(topology.prefix("n1")), "1")), True)
        broker.publish(*topology.endpoints("n1", 1, topology.endpoint("n1", 1, NETWORK, epoch=AHEAD)), True)
        await until(lambda: router.store.nodes.is_registered(DEAD) and router.idle)
        assert router.store.tables.routes(VPC)[NETWORK].node == "n2"
        assert [rejection.reason for rejection in router.store.rejections()] == ["StaleEpoch"]
        assert "n1 is offline, and n2 is not" in router.store.rejections()[0].message
    async with replica(broker, vote, "a") as router:  # and a router that starts later
        await until(lambda: router.idle and router.store.nodes.is_registered(DEAD))
        assert router.store.tables.routes(VPC)[NETWORK].node == "n2"
        broker.publish(*topology.endpoints("n2", 2), True)  # it ends there
        await until(lambda: router.idle and router.store.tables.routes(VPC)[NETWORK].node == "n1")

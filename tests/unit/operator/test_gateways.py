"""VPCGateways: nodes, addresses, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leading import POOL, condition, dies, gateway, node, reported, status

from galactic.kube.resources import ENDPOINT_SLICES, SERVICE_CIDRS, VPC_GATEWAYS
from galactic.operator.context import Rules
from galactic.operator.gateway_nodes import chosen, spread


@given(
    st.lists(st.sampled_from("abcdef"), unique=True),
    st.dictionaries(st.sampled_from("abcdef"), st.booleans()),
    st.integers(1, 4),
)
def test_nodes_stay_and_are_as_many_as_can_be(current, eligible, replicas):
    nodes = chosen(current, eligible, replicas, "seed")
    assert len(set(nodes)) == len(nodes) <= replicas
    assert set(nodes) <= eligible.keys()
    kept = [node for node in current if node in eligible][:replicas]
    assert {node for node in kept if eligible[node]} <= set(nodes), "a healthy one stays"
    healthy = sum(eligible.values())
    assert len(nodes) == min(replicas, len(set(kept) | {node for node in eligible if eligible[node]}))
    assert sum(eligible[node] for node in nodes) >= min(healthy, replicas)
    assert chosen(nodes, eligible, replicas, "seed") == nodes


@given(
    st.lists(st.integers(0, 9).map(lambda n: f"203.0.113.{n}"), unique=True, max_size=9),
    st.lists(st.sampled_from("abcd"), unique=True),
    st.dictionaries(st.integers(0, 9).map(lambda n: f"203.0.113.{n}"), st.sampled_from("abcdx")),
)
def test_addresses_are_spread_evenly_and_stay(addresses, nodes, current):
    held = spread(addresses, nodes, current)
    assert sorted(address for texts in held.values() for address in texts) == (
        sorted(addresses) if nodes else []
    )
    if nodes and len(addresses) >= len(nodes):
        assert all(held.values())
    again = {address: node for node, texts in held.items() for address in texts}
    assert spread(addresses, nodes, again) == held


@pytest.fixture
async def led(cluster):
    """A VPC and three nodes."""
    cluster.vpc("v")
    for number in (1, 2, 3):
        node(cluster, number)
    await cluster.settled()
    return cluster


async def test_two_nodes_lead_out_with_an_address_each(led):
    gateway(led)
    await led.settled()
    nodes = status(led)["nodes"]
    assert len(nodes) == 2
    assert sorted(address for one in nodes for address in one["addresses"]) == ["203.0.113.1", "203.0.113.2"]
    assert all(len(one["addresses"]) == 1 for one in nodes)
    assert condition(led, "Ready")["reason"] == "NotReported"
    reported(led, 1, 2, 3)
    await led.settled()
    assert status(led)["ready"]
    assert condition(led, "Ready")["status"] == condition(led, "Redundant")["status"] == "True"
    assert all(one["sid"].endswith(f":{status(led)['function'].lstrip('0')}") for one in nodes)
    forbidden = set(status(led)["forbidden"])
    assert {"192.0.2.1/32", "10.244.1.0/24"} <= forbidden | {"192.0.2.0/31"}


async def test_a_dead_node_is_replaced_and_its_address_moves(led):
    gateway(led)
    await led.settled()
    before = {one["node"]: one["addresses"] for one in status(led)["nodes"]}
    dead = min(before)
    dies(led, int(dead[-1]))
    await led.settled()
    after = {one["node"]: one["addresses"] for one in status(led)["nodes"]}
    assert dead not in after
    stays = next(one for one in before if one != dead)
    assert after[stays] == before[stays]
    assert [after[one] for one in after if one != stays] == [before[dead]]


async def test_without_a_spare_a_dead_node_keeps_its_place(led):
    gateway(led, replicas=3, addresses=("203.0.113.1", "203.0.113.2", "203.0.113.3"))
    await led.settled()
    before = status(led)["nodes"]
    dies(led, 1)
    await led.settled()
    assert [one["node"] for one in status(led)["nodes"]] == [one["node"] for one in before]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"addresses": ("192.0.2.1",)}, "AddressInUse", id="of-a-node"),
        pytest.param({"addresses": ("10.244.2.9",)}, "AddressInUse", id="of-a-pod"),
        pytest.param({"addresses": ("10.96.0.1",)}, "AddressInUse", id="of-a-service"),
        pytest.param({"addresses": ("172.16.0.1",)}, "AddressInUse", id="of-the-api-server"),
        pytest.param({"addresses": ("169.254.169.254",)}, "ReservedNetwork", id="link-local"),
        pytest.param({"addresses": ("203.0.113.1/24",)}, "InvalidAddress", id="with-a-length"),
        pytest.param({"addresses": ()}, "AddressesMissing", id="none"),
        pytest.param({"addresses": ("203.0.113.1", "203.0.113.1")}, "DuplicateAddress", id="twice"),
        pytest.param({"families": ["IPv6"]}, "FamilyMismatch", id="of-another-family"),
        pytest.param({"vpc": {"namespace": "other", "name": "v"}}, "NotGranted", id="another-namespace"),
        pytest.param({"addresses": (), "snat": {"enabled": False}}, None, id="routed"),
        pytest.param({"addresses": ("8.8.8.8",)}, None, id="without-a-pool-any"),
    ],
)
async def test_what_is_refused(led, spec, reason):
    led.api.put(SERVICE_CIDRS, {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}})
    labels = {"kubernetes.io/service-name": "kubernetes"}
    slice_ = {
        "metadata": {"name": "kubernetes", "labels": labels},
        "endpoints": [{"addresses": ["172.16.0.1"]}],
    }
    led.api.put(ENDPOINT_SLICES, slice_, "default")
    gateway(led, **spec)
    await led.settled()
    accepted = condition(led, "Accepted")
    assert (accepted["status"], accepted["reason"]) == (("False", reason) if reason else ("True", "Valid"))
    assert bool(status(led).get("nodes")) == (reason is None)


async def test_with_a_pool_no_other_address_and_no_other_network(clusters):
    cluster = clusters(Rules(gateway_addresses=POOL))
    await cluster.start()
    cluster.vpc("v")
    node(cluster, 1)
    gateway(cluster, addresses=("198.51.100.1",))
    gateway(cluster, "routed", vpc="w", addresses=(), snat={"enabled": False})
    cluster.vpc("w", "10.9.0.0/24")
    await cluster.settled()
    assert condition(cluster, "Accepted")["reason"] == "AddressNotAllowed"
    assert condition(cluster, "Accepted", "routed")["reason"] == "NetworkNotAllowed"
    allowed = {"spec": {"snat": {"addresses": ["203.0.113.9"]}}}
    cluster.api.change(VPC_GATEWAYS, "g", allowed, "default")
    await cluster.settled()
    assert condition(cluster, "Accepted")["status"] == "True"
    await cluster.stop()


async def test_nodes_that_an_administrator_keeps_out(clusters):
    cluster = clusters(Rules(gateway_node_selector={"role": "edge"}))
    await cluster.start()
    cluster.vpc("v")
    node(cluster, 1)
    node(cluster, 2, labels={"role": "edge"})
    gateway(cluster)
    await cluster.settled()
    assert [one["node"] for one in status(cluster)["nodes"]] == ["node-2"]
    assert condition(cluster, "Redundant")["status"] == "False"
    await cluster.stop()


async def test_a_vpc_has_one_gateway_and_an_address_one_holder(led):
    gateway(led)
    await led.settled()
    led.vpc("w", "10.9.0.0/24")
    gateway(led, "second")
    gateway(led, "third", vpc="w", addresses=("203.0.113.2",))
    await led.settled()
    assert condition(led, "Accepted")["status"] == "True"
    assert condition(led, "Accepted", "second")["reason"] == "VPCHasGateway"
    assert condition(led, "Accepted", "third")["reason"] == "AddressTaken"
    led.api.remove(VPC_GATEWAYS, "g", "default")
    await led.settled()
    assert condition(led, "Accepted", "second")["status"] == "True"


async def test_no_attachment_gets_the_gateways_identifier(led):
    gateway(led)
    await led.settled()
    function = status(led)["function"]
    for number in range(20):
        led.attachment(f"a{number}")
    await led.settled()
    assert function not in {led.status(f"a{number}")["identifier"] for number in range(20)}
    await led.depose()
    await led.lead()
    await led.settled()
    assert status(led)["function"] == function


async def test_a_gateway_waits_for_its_vpc(led):
    gateway(led, vpc="late")
    await led.settled()
    assert condition(led, "Ready")["reason"] == "VPCNotReady"
    led.vpc("late", "10.7.0.0/24", "2001:db8:77::/64")
    await led.settled()
    assert status(led)["families"] == ["IPv4", "IPv6"]
    assert condition(led, "Ready")["reason"] == "FamilyWithoutAddress"

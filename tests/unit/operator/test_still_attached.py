"""An attachment that is gone keeps its addresses and identifiers while a node lists it."""

import pytest

from galactic.kube.resources import NODE_SEGMENTS, VPC_ATTACHMENTS, VPCS

SID = "2001:db8:ff01:100::"


def endpoint(cluster, name, *, vpc="v"):
    """The attachment as its node lists it."""
    status = cluster.status(name)
    networks = [f"{address.partition('/')[0]}/32" for address in status["addresses"]]
    return {
        "vpc": cluster.status(vpc, resource=VPCS)["identifier"],
        "function": status["identifier"],
        "attachment": f"default/{name}",
        "sid": SID,
        "networks": networks,
        "epoch": 1,
    }


def lists(cluster, *endpoints):
    cluster.api.change(
        NODE_SEGMENTS, "node-1", {"status": {"endpoints": list(endpoints)}}, subresource="status"
    )


def vanish(cluster, name="a", resource=VPC_ATTACHMENTS):
    """The finalizer was stripped: the object is gone, whatever uses it."""
    cluster.api.change(resource, name, {"metadata": {"finalizers": None}}, "default")
    if cluster.api.stored(resource, name, "default"):
        cluster.api.remove(resource, name, "default")


@pytest.fixture
async def attached(cluster):
    """Attachment ``a`` with the only address of VPC ``v``, and node-1 lists it."""
    cluster.vpc("v", "10.1.1.4/31")
    cluster.api.put(
        NODE_SEGMENTS, {"metadata": {"name": "node-1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}}
    )
    cluster.attachment("a", "v", "10.1.1.4/31")
    await cluster.settled()
    lists(cluster, endpoint(cluster, "a"))
    await cluster.settled()
    return cluster


async def test_an_address_is_not_given_away_before_its_node_has_detached_it(attached):
    vanish(attached)
    attached.attachment("named", "v", "10.1.1.4/31")
    attached.attachment("first")
    attached.attachment("second")
    await attached.settled()
    assert attached.status("first")["addresses"] == ["10.1.1.5/31"]
    assert attached.condition("Ready", "second")["reason"] == "AddressesExhausted"
    refused = attached.condition("Conflict", "named")
    assert refused["reason"] == "StillAttached"
    assert "default/a, which was deleted and is still attached on node node-1" in refused["message"]
    lists(attached)
    await attached.settled()
    assert attached.status("named")["addresses"] == ["10.1.1.4/31"]
    assert attached.condition("Conflict", "named") is None


async def test_nor_after_the_operator_has_restarted(attached):
    number = attached.status("a")["identifier"]
    vanish(attached)
    await attached.settled()
    await attached.stop()
    await attached.start()
    attached.attachment("named", "v", "10.1.1.4/31")
    await attached.settled()
    assert attached.condition("Ready", "named")["reason"] == "StillAttached"
    allocations = attached.reconciler.allocator.of(("default", "v"))
    assert allocations.functions.holder(int(number, 16)) == ("default", "a")
    attached.api.remove(NODE_SEGMENTS, "node-1")
    await attached.settled()
    assert attached.status("named")["ready"] is True
    assert allocations.functions.of(("default", "a")) is None


async def test_an_address_that_was_changed_is_free_when_the_node_has_changed_it(attached):
    change = {"spec": {"interface": {"addresses": ["10.1.1.5/31"]}}}
    attached.api.change(VPC_ATTACHMENTS, "a", change, "default")
    attached.attachment("b", "v", "10.1.1.4/31")
    await attached.settled()
    assert attached.status("a")["addresses"] == ["10.1.1.5/31"]
    assert attached.condition("Ready", "b")["reason"] == "Conflict"
    await attached.stop()
    await attached.start()
    await attached.settled()
    assert attached.condition("Ready", "b")["reason"] == "Conflict"
    lists(attached, endpoint(attached, "a"))
    await attached.settled()
    assert attached.status("b")["ready"] is True


async def test_a_namesake_in_the_same_vpc_goes_on_with_what_it_had(attached):
    before = attached.status("a")
    vanish(attached)
    attached.attachment("a", "v", "10.1.1.4/31")
    await attached.settled()
    assert {name: attached.status("a")[name] for name in ("identifier", "addresses", "ready")} == {
        "identifier": before["identifier"],
        "addresses": before["addresses"],
        "ready": True,
    }


async def test_a_namesake_in_another_vpc_waits(attached):
    attached.vpc("w")
    vanish(attached)
    attached.attachment("a", "w")
    attached.attachment("b", "v", "10.1.1.4/31")
    await attached.settled()
    assert attached.condition("Ready", "a")["reason"] == "StillAttached"
    assert attached.condition("Ready", "b")["reason"] == "Conflict"
    lists(attached)
    await attached.settled()
    assert attached.status("a")["vpc"] == "default/w"
    assert attached.status("b")["ready"] is True


async def test_a_vpc_keeps_its_identifier_until_its_last_pod_is_detached(attached):
    identifier = attached.status("v", resource=VPCS)["identifier"]
    vanish(attached)
    vanish(attached, "v", VPCS)
    attached.vpc("w", identifier=identifier)
    await attached.settled()
    assert attached.condition("Ready", "w", resource=VPCS)["reason"] == "IdentifierTaken"
    lists(attached)
    await attached.settled()
    assert attached.status("w", resource=VPCS)["identifier"] == identifier


async def test_a_vpc_that_is_deleted_waits_for_nodes_to_detach_its_pods(attached):
    vanish(attached)
    await attached.settled()
    attached.api.remove(VPCS, "v", "default")
    await attached.settled()
    assert attached.condition("Deleting", "v", resource=VPCS)["reason"] == "StillAttached"
    assert attached.status("v", resource=VPCS)["attachments"] == 0


async def test_an_endpoint_that_a_node_made_up_takes_nothing_from_others(attached):
    forged = endpoint(attached, "a") | {"attachment": "other/x", "networks": ["10.1.1.4/32", "no network"]}
    lists(attached, endpoint(attached, "a"), forged, forged | {"networks": ["10.1.1.4/32"]})
    await attached.stop()
    await attached.start()
    await attached.settled()
    assert attached.reconciler.allocator.of(("default", "v")).addresses.held_by(("other", "x")) == frozenset()
    assert attached.status("a")["ready"] is True

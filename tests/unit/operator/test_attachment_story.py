"""VPCs and attachments from creation to deletion."""

import asyncio
import json

import pytest
from clockwork import Clockwork
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galactic.errors import Unreachable
from galactic.kube.api import Event
from galactic.kube.resources import CONFIG_MAPS, EVENTS, NADS, NAMESPACES, VPC_ATTACHMENTS, VPCS
from galactic.operator.context import FINALIZER, Rules
from galactic.operator.gauges import vpcs
from galactic.validation import joining


async def test_vpc_gets_an_identifier_and_attachments_theirs(cluster):
    cluster.vpc("v", "10.1.1.0/24", "2001:10:1:1::/64")
    cluster.attachment("a", "v", "10.1.1.1/24", "2001:10:1:1::1/64")
    await cluster.settled()
    assert cluster.status("a")["ready"] is True
    assert cluster.status("a")["addresses"] == ["10.1.1.1/24", "2001:10:1:1::1/64"]
    vpc = cluster.status("v", resource=VPCS)
    assert vpc["ready"] is True
    assert len(vpc["identifier"]) == 12
    assert vpc["attachments"] == 1
    plugin = json.loads(cluster.nad("a"))["plugins"][0]
    assert plugin["attachment"] == "default/a"
    assert plugin["networks"] == ["10.1.1.0/24", "2001:10:1:1::/64"]


async def test_attachment_before_its_vpc_waits_and_then_becomes_ready(cluster):
    cluster.attachment("a", "v")
    await cluster.settled()
    assert cluster.condition("Ready", "a")["reason"] == "VPCNotFound"
    assert not cluster.nad("a")
    cluster.vpc("v")
    await cluster.settled()
    assert cluster.status("a")["ready"] is True


async def test_settled_means_no_more_requests(cluster):
    cluster.vpc("v")
    for index in range(10):
        cluster.attachment(f"a{index}", "v")
    await cluster.settled()
    cluster.api.requests.clear()
    await cluster.reconciler.resync()
    await cluster.settled()
    assert {verb for verb, _, _ in cluster.api.requests} == {"list"}


async def test_at_most_three_requests_an_attachment(cluster):
    cluster.vpc("v")
    await cluster.settled()
    cluster.api.requests.clear()
    for index in range(50):
        cluster.attachment(f"a{index}", "v")
    await cluster.settled()
    mine = [request for request in cluster.api.requests if request[1] != "VPC"]
    assert len(mine) == 150  # definition, status, Event


@pytest.mark.parametrize("edit", ["edited", "deleted", "disowned"])
async def test_definition_is_repaired(cluster, edit):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    before = cluster.nad("a")
    match edit:
        case "edited":
            cluster.api.change(NADS, "a", {"spec": {"config": "{}"}}, "default")
        case "deleted":
            cluster.api.remove(NADS, "a", "default")
        case "disowned":
            cluster.api.change(NADS, "a", {"metadata": {"ownerReferences": None}}, "default")
    await cluster.settled()
    assert cluster.nad("a") == before
    owners = cluster.api.stored(NADS, "a", "default")["metadata"]["ownerReferences"]
    assert owners[0]["uid"] == cluster.api.stored(VPC_ATTACHMENTS, "a", "default")["metadata"]["uid"]


async def test_a_definition_that_another_made_just_now_is_waited_for(cluster):
    """The watch has not delivered it yet."""
    cluster.vpc("v")
    await cluster.settled()
    seen, cluster.api.observer = cluster.api.observer, lambda *_: None
    made = cluster.api.put(NADS, {"metadata": {"name": "a"}, "spec": {"config": "theirs"}}, "default")
    cluster.api.observer = seen
    cluster.attachment("a")
    create = ("create", NADS.kind, "a")
    await cluster.until(lambda: cluster.api.requests.count(create) >= 3)
    seen(NADS, Event("ADDED", made))
    await cluster.settled()
    assert cluster.nad("a") == "theirs"
    assert cluster.condition("Ready", "a")["reason"] == "NameTaken"


async def test_definition_of_another_owner_is_left_alone(cluster):
    cluster.api.put(NADS, {"metadata": {"name": "a"}, "spec": {"config": "theirs"}}, "default")
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.nad("a") == "theirs"
    assert cluster.condition("Ready", "a")["reason"] == "NameTaken"
    cluster.api.remove(NADS, "a", "default")
    await cluster.settled()
    assert cluster.status("a")["ready"] is True


async def test_of_two_with_one_address_exactly_one_is_ready_and_the_other_follows_it(cluster):
    cluster.vpc("v")
    cluster.attachment("a", "v", "10.1.1.7/24")
    cluster.attachment("b", "v", "10.1.1.7/24")
    await cluster.settled()
    assert [cluster.status(name)["ready"] for name in "ab"] == [True, False]
    conflict = cluster.condition("Conflict", "b")
    assert conflict["status"] == "True"
    assert "default/a" in conflict["message"]
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    assert cluster.status("b")["ready"] is True
    assert cluster.condition("Conflict", "b") is None


async def test_conflicts_of_attached_pods_are_reported_by_the_router(cluster):
    cluster.vpc("v")
    cluster.attachment("a", "v", "10.1.1.7/24")
    await cluster.settled()
    conflict = {"type": "Conflict", "status": "True", "reason": "NetworkInUse", "message": "of b"}
    status = {
        "endpoint": {"node": "node-1", "sid": "2001:db8::1", "networks": []},
        "conditions": [*cluster.status("a")["conditions"], conflict],
    }
    cluster.api.change(VPC_ATTACHMENTS, "a", {"status": status}, "default", subresource="status")
    await cluster.settled()
    cluster.api.change(
        VPC_ATTACHMENTS, "a", {"spec": {"interface": {"addresses": ["10.1.1.8/24"]}}}, "default"
    )
    await cluster.settled()
    assert "10.1.1.8/24" in cluster.status("a")["addresses"]
    assert cluster.condition("Conflict", "a") == conflict
    cluster.api.change(VPC_ATTACHMENTS, "a", {"status": {"endpoint": None}}, "default", subresource="status")
    await cluster.settled()
    assert cluster.condition("Conflict", "a") is None


async def test_a_termination_has_one_holder_too(cluster):
    cluster.vpc("v")
    for name, address in (("a", "10.1.1.7"), ("b", "10.1.1.8")):
        routes = [{"destination": "192.168.3.0/24", "via": address}]
        cluster.attachment(name, "v", f"{address}/24", routes=routes)
    await cluster.settled()
    assert [cluster.status(name)["ready"] for name in "ab"] == [True, False]
    assert "192.168.3.0/24 is held by" in cluster.condition("Conflict", "b")["message"]


async def test_the_same_address_in_two_vpcs_is_no_conflict(cluster):
    for vpc in ("v", "w"):
        cluster.vpc(vpc)
        cluster.attachment(f"in-{vpc}", vpc, "10.1.1.7/24")
    await cluster.settled()
    assert cluster.status("in-v")["ready"]
    assert cluster.status("in-w")["ready"]


async def test_allocated_addresses_are_kept_and_released(cluster):
    cluster.vpc("v", "10.1.1.0/29")  # .2 to .6: five, without the gateway's place
    for index in range(6):
        cluster.attachment(f"a{index}")
    await cluster.settled()
    given = [cluster.status(f"a{index}").get("addresses") for index in range(6)]
    assert sorted(map(str, given[:5])) == [f"['10.1.1.{host}/29']" for host in range(2, 7)]
    assert cluster.condition("Ready", "a5")["reason"] == "AddressesExhausted"
    await cluster.reconciler.resync()
    await cluster.settled()
    assert [cluster.status(f"a{index}").get("addresses") for index in range(6)] == given
    cluster.api.remove(VPC_ATTACHMENTS, "a2", "default")
    await cluster.settled()
    assert cluster.status("a5")["addresses"] == given[2]


async def test_an_address_outside_is_a_warning_or_with_strict_a_refusal(clusters):
    for strict in (False, True):
        cluster = clusters(Rules(strict=strict))
        await cluster.start()
        cluster.vpc("v")
        cluster.attachment("a", "v", "172.16.0.1/24")
        await cluster.settled()
        assert cluster.status("a")["ready"] is not strict
        accepted = cluster.condition("Accepted", "a")
        assert accepted["reason"] == "AddressOutsideNetworks"
        assert accepted["status"] == str(not strict)
        await cluster.stop()


async def test_two_vpcs_with_one_fixed_identifier(cluster):
    cluster.vpc("v", identifier="0000000004d2")
    cluster.vpc("w", identifier="0000000004d2")
    await cluster.settled()
    assert cluster.status("v", resource=VPCS)["identifier"] == "0000000004d2"
    refused = cluster.condition("Ready", "w", resource=VPCS)
    assert refused["reason"] == "IdentifierTaken"
    assert "default/v" in refused["message"]
    cluster.api.remove(VPCS, "v", "default")
    await cluster.settled()
    assert cluster.status("w", resource=VPCS)["identifier"] == "0000000004d2"


async def test_an_identifier_that_the_webhook_did_not_admit_is_refused(cluster):
    """Without a record, with one of another VPC, or with one of a namesake that is gone."""
    cluster.vpc("namesake", identifier="0000000004d2")
    cluster.api.remove(VPCS, "namesake", "default")
    body = {
        "metadata": {"name": "namesake"},
        "spec": {"networks": ["10.1.1.0/24"], "identifier": "0000000004d2"},
    }
    made = cluster.api.put(VPCS, body, "default")
    await cluster.settled()
    refused = cluster.condition("Accepted", "namesake", resource=VPCS)
    assert refused["reason"] == "JoinNotAdmitted"
    assert "identifier" not in cluster.status("namesake", resource=VPCS)
    cluster.admits(made)
    cluster.api.change(VPCS, "namesake", {"spec": {"networks": ["10.1.2.0/24"]}}, "default")
    await cluster.settled()
    assert cluster.status("namesake", resource=VPCS)["identifier"] == "0000000004d2"


async def test_a_vpc_that_joined_before_records_existed_stays(cluster):
    cluster.vpc("v", identifier="0000000004d2")
    await cluster.settled()
    cluster.api.remove(CONFIG_MAPS, joining.RECORDS, "galactic-system")
    cluster.api.change(VPCS, "v", {"spec": {"networks": ["10.1.2.0/24"]}}, "default")
    await cluster.settled()
    assert cluster.status("v", resource=VPCS)["ready"]


INNER = [{"destination": "192.168.3.128/25", "via": "10.1.1.2"}]
OUTER = [{"destination": "192.168.3.0/24", "via": "10.1.1.1"}]


async def test_a_network_inside_another_namespaces_termination_is_refused(cluster):
    """It would take the traffic of a part of it."""
    cluster.vpc("v", allowedNamespaces={"from": "All"})
    cluster.attachment("outer", "default/v", "10.1.1.1/24", namespace="team", routes=OUTER)
    await cluster.settled()
    cluster.attachment("inner", "default/v", "10.1.1.2/24", namespace="other", routes=INNER)
    cluster.attachment("address", "default/v", "192.168.3.7/24", namespace="other")
    cluster.attachment(
        "owner", "default/v", "10.1.1.3/24", routes=[{"destination": "192.168.3.0/25", "via": "10.1.1.3"}]
    )
    cluster.attachment("own", "default/v", "192.168.3.200/24", namespace="team")
    await cluster.settled()
    for name in ("inner", "address"):
        refused = cluster.condition("Accepted", name, namespace="other")
        assert refused["reason"] == "Nested"
        assert "a VPCAttachment of another namespace" in refused["message"]
    assert cluster.status("owner")["ready"]
    assert cluster.status("own", namespace="team")["ready"]
    cluster.api.remove(VPC_ATTACHMENTS, "outer", "team")
    await cluster.settled()
    assert cluster.status("inner", namespace="other")["ready"]


async def test_a_namespace_has_its_share_of_another_namespaces_vpc(clusters):
    cluster = clusters(Rules(namespace_networks=3))
    await cluster.start()
    cluster.vpc("v", allowedNamespaces={"from": "All"})
    routes = [{"destination": f"192.168.3.{number}/32", "via": "10.1.1.1"} for number in range(1, 4)]
    cluster.attachment("many", "default/v", "10.1.1.1/24", namespace="other", routes=routes)
    await cluster.settled()
    assert cluster.condition("Ready", "many", namespace="other")["reason"] == "NamespaceQuota"
    for name in ("a", "b", "c", "d"):
        cluster.attachment(name, "default/v", namespace="other")
        cluster.attachment(name, "default/v")
    await cluster.settled()
    ready = [name for name in ("a", "b", "c", "d") if cluster.status(name, namespace="other")["ready"]]
    assert len(ready) == 3
    assert all(cluster.status(name)["ready"] for name in ("a", "b", "c", "d"))
    usage = next(vpcs(cluster.reconciler.caches, cluster.reconciler.allocator))
    assert usage.namespaces == (("other", 3),)
    cluster.api.remove(VPC_ATTACHMENTS, ready[0], "other")
    await cluster.settled()
    left = [name for name in ("a", "b", "c", "d") if name != ready[0]]
    assert all(cluster.status(name, namespace="other")["ready"] for name in left)
    await cluster.stop()


async def test_the_owner_decides_who_may_terminate(cluster):
    chosen = {"from": "Selector", "selector": {"matchLabels": {"name": "other"}}}
    cluster.vpc("v", allowedNamespaces={"from": "All"}, allowedTerminations={"from": "Same"})
    cluster.attachment("a", "default/v", "10.1.1.1/24", namespace="other", routes=OUTER)
    cluster.attachment("plain", "default/v", "10.1.1.2/24", namespace="other")
    cluster.attachment(
        "own", "default/v", "10.1.1.3/24", routes=[{"destination": "192.168.4.0/24", "via": "10.1.1.3"}]
    )
    await cluster.settled()
    assert cluster.condition("Accepted", "a", namespace="other")["reason"] == "TerminationNotGranted"
    assert cluster.status("plain", namespace="other")["ready"]
    assert cluster.status("own")["ready"]
    cluster.api.change(VPCS, "v", {"spec": {"allowedTerminations": chosen}}, "default")
    await cluster.settled()
    assert cluster.status("a", namespace="other")["ready"]
    # One that was admitted stays, as it does when the grant to attach is revoked.
    cluster.api.change(
        VPCS, "v", {"spec": {"allowedTerminations": {"from": "Same", "selector": None}}}, "default"
    )
    await cluster.settled()
    assert cluster.status("a", namespace="other")["ready"]


SERVICES = "10.96.0.0/12"


def routed(cluster, name, namespace="other"):
    """The networks that a pod of the attachment gets routes to, as the node and as Multus read them."""
    networks = cluster.status(name, namespace)["configuration"]["networks"]
    assert json.loads(cluster.nad(name, namespace))["plugins"][0]["networks"] == networks
    return networks


async def owner_adds(cluster, *networks):
    cluster.api.change(VPCS, "v", {"spec": {"networks": list(networks)}}, "default")
    await cluster.settled()


async def test_a_network_that_the_owner_adds_later_needs_consent(cluster):
    cluster.vpc("v", "10.1.1.0/24", allowedNamespaces={"from": "All"})
    cluster.attachment("theirs", "default/v", namespace="other")
    cluster.attachment("own", "default/v")
    await cluster.settled()
    assert cluster.condition("NetworksAccepted", "theirs", "other") is None
    await owner_adds(cluster, "10.1.1.0/24", SERVICES)
    assert routed(cluster, "own", "default") == ["10.1.1.0/24", SERVICES]
    assert routed(cluster, "theirs") == ["10.1.1.0/24"]
    declined = cluster.condition("NetworksAccepted", "theirs", "other")
    assert (declined["status"], declined["reason"]) == ("False", "NetworksDeclined")
    assert SERVICES in declined["message"]
    assert cluster.status("theirs", "other")["ready"]
    # taken away and added once more; by another operator as well
    await owner_adds(cluster, "10.1.1.0/25")
    assert routed(cluster, "theirs") == ["10.1.1.0/25"]
    await cluster.stop()
    await cluster.start()
    await owner_adds(cluster, "10.0.0.0/8")
    assert routed(cluster, "theirs") == ["10.1.1.0/24"]
    accepting = {"spec": {"acceptedNetworks": ["10.0.0.0/8"]}}
    cluster.api.change(VPC_ATTACHMENTS, "theirs", accepting, "other")
    await cluster.settled()
    assert routed(cluster, "theirs") == ["10.0.0.0/8"]
    assert cluster.condition("NetworksAccepted", "theirs", "other") is None
    cluster.api.change(VPC_ATTACHMENTS, "theirs", {"spec": {"acceptedNetworks": None}}, "other")
    await cluster.settled()
    assert routed(cluster, "theirs") == ["10.1.1.0/24"]


async def test_an_attachment_of_an_earlier_version_keeps_its_routes(cluster):
    """It has no record: what its pod routes is what it accepted."""
    cluster.vpc("v", "10.1.1.0/24", "10.2.0.0/16", allowedNamespaces={"from": "All"})
    cluster.attachment("theirs", "default/v", namespace="other")
    await cluster.settled()
    await cluster.stop()
    forgotten = {"status": {"acceptedNetworks": None}}
    cluster.api.change(VPC_ATTACHMENTS, "theirs", forgotten, "other", subresource="status")
    cluster.api.change(VPCS, "v", {"spec": {"networks": ["10.1.1.0/24", "10.2.0.0/16", SERVICES]}}, "default")
    await cluster.start()
    await cluster.settled()
    assert routed(cluster, "theirs") == ["10.1.1.0/24", "10.2.0.0/16"]
    assert cluster.status("theirs", "other")["acceptedNetworks"] == ["10.1.1.0/24", "10.2.0.0/16"]


async def test_accepted_networks_of_its_own_choice(cluster):
    cluster.vpc("v", "10.1.1.0/24", "10.2.0.0/16", allowedNamespaces={"from": "All"})
    cluster.attachment("part", "default/v", namespace="other", acceptedNetworks=["10.2.3.0/24"])
    cluster.attachment("none", "default/v", namespace="other", acceptedNetworks=["10.7.0.0/16"])
    cluster.attachment("wrong", "default/v", namespace="other", acceptedNetworks=["10.7.0.1/16"])
    await cluster.settled()
    assert routed(cluster, "part") == ["10.2.3.0/24"]
    assert cluster.status("part", "other")["addresses"][0].startswith("10.2.3.")
    assert cluster.condition("Ready", "none", "other")["reason"] == "NoNetworkAccepted"
    refused = cluster.condition("Ready", "wrong", "other")
    assert refused["reason"] == "InvalidNetwork"
    assert "spec.acceptedNetworks[0]" in refused["message"]


async def test_networks_that_were_nested_before_stay(cluster):
    """The inner one was there first, and both are admitted again by another operator, in any order."""
    cluster.vpc("v", allowedNamespaces={"from": "All"})
    cluster.attachment("z-inner", "default/v", "10.1.1.2/24", namespace="other", routes=INNER)
    await cluster.settled()
    cluster.attachment("a-outer", "default/v", "10.1.1.1/24", routes=OUTER)
    await cluster.settled()
    await cluster.stop()
    await cluster.start()
    await cluster.settled()
    assert cluster.status("a-outer")["ready"]
    assert cluster.status("z-inner", namespace="other")["ready"]


@pytest.mark.parametrize("identifier", ["000000000000", "ffffffffffff"])
async def test_reserved_fixed_identifier_is_refused(cluster, identifier):
    cluster.vpc("v", identifier=identifier)
    await cluster.settled()
    assert cluster.condition("Ready", "v", resource=VPCS)["reason"] == "InvalidIdentifier"


async def test_identifier_cannot_be_changed(cluster):
    cluster.vpc("v", identifier="0000000004d2")
    await cluster.settled()
    cluster.api.change(VPCS, "v", {"spec": {"identifier": "0000000004d3"}}, "default")
    await cluster.settled()
    assert cluster.condition("Accepted", "v", resource=VPCS)["reason"] == "Immutable"
    assert cluster.status("v", resource=VPCS)["identifier"] == "0000000004d2"


async def test_without_a_grant_the_refusal_does_not_disclose_whether_the_vpc_exists(cluster):
    cluster.vpc("v")
    cluster.attachment("a", "default/v", namespace="other")
    cluster.attachment("b", "default/w", namespace="other")
    await cluster.settled()
    present, absent = (cluster.condition("Ready", name, "other") for name in "ab")
    assert present["reason"] == absent["reason"] == "NotGranted"
    assert present["message"].replace("default/v", "default/w") == absent["message"]
    assert cluster.status("v", resource=VPCS)["attachments"] == 0


async def test_a_grant_lets_in_and_its_end_marks_but_does_not_cut(cluster):
    cluster.vpc("v", allowedNamespaces={"from": "Selector", "selector": {"matchLabels": {"team": "blue"}}})
    cluster.attachment("a", "default/v", namespace="other")
    await cluster.settled()
    assert cluster.status("a", "other")["ready"] is False
    cluster.api.change(NAMESPACES, "other", {"metadata": {"labels": {"team": "blue"}}})
    await cluster.settled()
    assert cluster.status("a", "other")["ready"] is True
    cluster.api.change(VPCS, "v", {"spec": {"allowedNamespaces": None}}, "default")
    cluster.attachment("b", "default/v", namespace="other")
    await cluster.settled()
    assert cluster.status("a", "other")["ready"] is True
    assert cluster.condition("Granted", "a", "other")["status"] == "False"
    assert cluster.condition("Ready", "b", "other")["reason"] == "NotGranted"


async def test_vpc_with_attachments_waits_and_names_them(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.api.stored(VPCS, "v", "default")["metadata"]["finalizers"] == [FINALIZER]
    cluster.api.remove(VPCS, "v", "default")
    await cluster.settled()
    assert "default/a" in cluster.condition("Deleting", "v", resource=VPCS)["message"]
    cluster.attachment("late")
    await cluster.settled()
    assert cluster.condition("Ready", "late")["reason"] == "VPCDeleting"
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    assert cluster.api.stored(VPCS, "v", "default") is None


async def test_attachment_in_use_waits_for_its_pod(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    endpoint = {"node": "node-1", "sid": "2001:db8::1", "networks": []}
    cluster.api.change(
        VPC_ATTACHMENTS, "a", {"status": {"endpoint": endpoint}}, "default", subresource="status"
    )
    await cluster.settled()
    assert cluster.status("v", resource=VPCS)["endpoints"] == 1
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    assert "node-1" in cluster.condition("Deleting", "a")["message"]
    assert cluster.nad("a")
    cluster.api.change(VPC_ATTACHMENTS, "a", {"status": {"endpoint": None}}, "default", subresource="status")
    await cluster.settled()
    assert cluster.api.stored(VPC_ATTACHMENTS, "a", "default") is None


async def test_no_finalizer_holds_up_a_namespace(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    endpoint = {"node": "node-1", "sid": "2001:db8::1", "networks": []}
    cluster.api.change(
        VPC_ATTACHMENTS, "a", {"status": {"endpoint": endpoint}}, "default", subresource="status"
    )
    await cluster.settled()
    terminating = {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["kubernetes"]}}
    cluster.api.change(NAMESPACES, "default", terminating)
    cluster.api.remove(VPCS, "v", "default") if cluster.api.stored(VPCS, "v", "default") else None
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    assert cluster.api.stored(VPCS, "v", "default") is None
    assert cluster.api.stored(VPC_ATTACHMENTS, "a", "default") is None


async def test_one_objects_failure_blocks_no_other(cluster):
    cluster.api.fail = lambda verb, resource, name: (
        Unreachable("kube-apiserver", "no") if resource == NADS and name == "a" else None
    )
    cluster.vpc("v")
    cluster.attachment("a")
    cluster.attachment("b")
    await cluster.until(lambda: cluster.status("b").get("ready"))
    assert not cluster.status("a").get("ready")
    assert any(problem and "kube-apiserver" in problem for problem in cluster.problems)
    cluster.api.fail = lambda *_: None
    await cluster.settled()
    assert cluster.status("a")["ready"] is True
    assert cluster.problems[-1] is None


async def test_a_write_in_between_is_neither_lost_nor_overwritten(cluster):
    """The router writes between the operator's read and write: the write is refused, and repeated on the new state."""
    cluster.vpc("v")
    await cluster.settled()
    status = {
        "endpoint": {"node": "node-1", "sid": "2001:db8::1", "networks": []},
        "conditions": [
            {"type": "Announced", "status": "True", "reason": "Announced", "message": "by the router"}
        ],
    }
    original, interfered = cluster.api.patch, []

    async def patch(resource, name, *arguments, **keywords):
        if resource == VPC_ATTACHMENTS and not interfered:
            seen, cluster.api.observer = cluster.api.observer, lambda *_: None
            interfered.append(
                cluster.api.change(resource, name, {"status": status}, "default", subresource="status")
            )
            cluster.api.observer = seen
            try:
                return await original(resource, name, *arguments, **keywords)
            finally:
                seen(resource, Event("MODIFIED", interfered[0]))
        return await original(resource, name, *arguments, **keywords)

    cluster.api.patch = patch
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.status("a")["endpoint"]["node"] == "node-1"
    assert cluster.condition("Announced", "a")["message"] == "by the router"
    assert cluster.status("a")["ready"] is True


async def test_a_deletion_that_the_watch_missed_is_found_by_the_resync(cluster):
    cluster.vpc("v")
    cluster.attachment("a", "v", "10.1.1.7/24")
    await cluster.settled()
    seen, cluster.api.observer = cluster.api.observer, lambda *_: None
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    cluster.api.observer = seen
    cluster.attachment("b", "v", "10.1.1.7/24")
    await cluster.settled()
    assert cluster.status("b")["ready"] is False
    await cluster.reconciler.resync()
    await cluster.settled()
    assert cluster.status("b")["ready"] is True


async def test_events_report_transitions(cluster):
    cluster.vpc("v")
    cluster.attachment("a", "v", "10.1.1.7/24")
    await cluster.settled()
    messages = [
        (event["involvedObject"]["kind"], event["reason"])
        for (plural, _, _), event in cluster.api.objects.items()
        if plural == EVENTS.plural
    ]
    assert ("VPC", "Ready") in messages
    assert ("VPCAttachment", "Ready") in messages


async def test_what_a_definition_promised_before_the_status_was_written_is_kept(clusters):
    cluster = clusters(Rules())
    cluster.vpc("v")
    await cluster.start()
    await cluster.settled()
    cluster.api.fail = lambda verb, resource, _name: (
        Unreachable("kube-apiserver", "no") if verb == "patch" and resource == VPC_ATTACHMENTS else None
    )
    cluster.attachment("a")
    await cluster.until(lambda: cluster.nad("a"))
    await cluster.stop()
    assert "addresses" not in cluster.status("a")
    promised = cluster.nad("a")
    cluster.api.fail = lambda *_: None
    cluster.attachment("0", "v")  # is listed first
    await cluster.start()
    await cluster.settled()
    assert cluster.nad("a") == promised
    assert cluster.status("a")["ready"] is True
    assert cluster.status("0")["ready"] is True
    await cluster.stop()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_identifiers_and_addresses_survive_a_restart_at_any_moment(clusters, data):  # noqa: C901
    """Whatever was in the API when the operator died stays as it is, and nothing is handed out twice."""

    async def story() -> None:  # noqa: C901
        cluster = clusters(Rules())
        await cluster.start()
        names = [f"a{index}" for index in range(12)]
        for vpc in ("v", "w"):
            cluster.vpc(vpc, "10.1.1.0/27", "2001:db8::/64")
        for index, name in enumerate(names):
            cluster.attachment(name, "vw"[index % 2])
        for _ in range(data.draw(st.integers(0, 60))):
            await asyncio.sleep(0)
        await cluster.stop()
        before = {name: dict(cluster.status(name)) for name in names}
        promised = {name: cluster.nad(name) for name in names}
        for name in data.draw(st.lists(st.sampled_from(names), unique=True, max_size=4)):
            cluster.api.remove(VPC_ATTACHMENTS, name, "default")
            names.remove(name)
        for index in range(4):
            names.append(f"0new{index}")  # listed before the old ones
            cluster.attachment(f"0new{index}", "v")
        await cluster.start()
        await cluster.settled()
        await cluster.stop()
        for vpc in ("v", "w"):
            mine = [
                n
                for n in names
                if cluster.api.stored(VPC_ATTACHMENTS, n, "default")["spec"]["vpc"]["name"] == vpc
            ]
            identifiers = [cluster.status(name)["identifier"] for name in mine]
            addresses = [address for name in mine for address in cluster.status(name)["addresses"]]
            assert len(set(identifiers)) == len(mine)
            assert len(set(addresses)) == len(addresses) == 2 * len(mine)
            assert not {"0000", "ffff"} & set(identifiers)
        for name in names:
            was = before.get(name, {})
            assert cluster.status(name)["ready"] is True
            for field in ("identifier", "addresses"):
                if field in was:
                    assert cluster.status(name)[field] == was[field]
            if promised.get(name):
                assert cluster.nad(name) == promised[name]

    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(story())


async def test_an_attachment_that_was_ready_stays_in_its_vpc(cluster, clusters):
    cluster.vpc("v", "10.1.1.0/24")
    cluster.vpc("w", "10.2.2.0/24")
    cluster.attachment("a", "v")
    await cluster.settled()
    before, nad = cluster.status("a"), cluster.nad("a")
    assert before["vpc"] == "default/v"
    cluster.api.change(VPC_ATTACHMENTS, "a", {"spec": {"vpc": {"name": "w"}}}, "default")
    await cluster.settled()
    for _ in range(2):  # and also after a restart
        after = cluster.status("a")
        assert cluster.condition("Accepted", "a")["reason"] == "Immutable"
        assert "default/v" in cluster.condition("Ready", "a")["message"]
        assert (after["identifier"], after["addresses"]) == (before["identifier"], before["addresses"])
        assert cluster.nad("a") == nad
        assert cluster.status("v", resource=VPCS)["attachments"] == 1
        assert cluster.status("w", resource=VPCS)["attachments"] == 0
        await cluster.stop()
        await cluster.start()
        await cluster.settled()
    cluster.api.change(VPC_ATTACHMENTS, "a", {"spec": {"vpc": {"name": "v"}}}, "default")
    await cluster.settled()
    assert cluster.status("a")["ready"] is True


async def test_before_it_was_ready_an_attachment_may_change_its_vpc(cluster):
    cluster.vpc("w", "10.2.2.0/24")
    cluster.attachment("a", "absent")
    await cluster.settled()
    cluster.api.change(VPC_ATTACHMENTS, "a", {"spec": {"vpc": {"name": "w"}}}, "default")
    await cluster.settled()
    assert cluster.status("a")["vpc"] == "default/w"


@pytest.mark.parametrize("strict", [False, True])
async def test_addresses_outlive_the_network_they_came_from(clusters, strict):
    cluster = clusters(Rules(strict=strict))
    await cluster.start()
    cluster.vpc("v", "10.1.1.0/24", "10.2.2.0/24")
    cluster.attachment("a", "v")
    await cluster.settled()
    before = cluster.status("a")["addresses"]
    cluster.api.change(VPCS, "v", {"spec": {"networks": ["10.2.2.0/24"]}}, "default")
    await cluster.settled()
    for _ in range(2):
        assert cluster.status("a")["addresses"] == before
        assert cluster.status("a")["ready"] is True
        accepted = cluster.condition("Accepted", "a")
        assert accepted["reason"] == "AddressOutsideNetworks"
        assert "is kept" in accepted["message"]
        await cluster.stop()
        await cluster.start()
        await cluster.settled()
    await cluster.stop()


async def test_no_address_that_a_specification_gives_is_allocated(cluster):
    """Even where the one that gives it comes second: it is not ready yet, but known."""
    cluster.attachment("late", "v", "10.1.1.6/29")
    cluster.attachment("auto", "v")
    await cluster.settled()
    cluster.vpc("v", "10.1.1.0/29")
    await cluster.settled()
    assert cluster.status("late")["addresses"] == ["10.1.1.6/29"]
    assert cluster.status("auto")["addresses"] == ["10.1.1.2/29"]
    cluster.attachment("third", "v", "10.1.1.3/29")
    cluster.attachment("more", "v")
    await cluster.settled()
    assert cluster.status("third")["ready"] is True
    assert cluster.status("more")["addresses"] == ["10.1.1.4/29"]


async def test_leading_again_forgets_nothing_and_hands_nothing_out_twice(cluster):
    cluster.vpc("v", "10.1.1.0/28")
    for index in range(4):
        cluster.attachment(f"a{index}")
    await cluster.settled()
    before = [cluster.status(f"a{index}")["addresses"] for index in range(4)]
    await cluster.depose()
    # Another replica led meanwhile; this one only watched.
    other = cluster.reconciler
    await cluster.start()
    for index in range(4, 8):
        cluster.attachment(f"a{index}")
    await cluster.settled()
    cluster.api.observer = _both(cluster, other)
    cluster.api.remove(VPC_ATTACHMENTS, "a0", "default")
    await cluster.settled()
    await cluster.stop()
    cluster.reconciler = other
    await cluster.lead()
    cluster.attachment("b", "v", before.pop(0)[0])
    for index in range(8, 10):
        cluster.attachment(f"a{index}")
    await cluster.settled()
    assert [cluster.status(f"a{index}")["addresses"] for index in range(1, 4)] == before
    addresses = [
        cluster.status(name)["addresses"][0] for name in ["b", *(f"a{index}" for index in range(1, 10))]
    ]
    assert len(set(addresses)) == 10


def _both(cluster, standby):
    """Events go to the leader and to the standby."""

    def seen(resource, event):
        leader = cluster.reconciler
        cluster._observe(resource, event)
        cluster.reconciler = standby
        try:
            cluster._observe(resource, event)
        finally:
            cluster.reconciler = leader

    return seen


@pytest.mark.parametrize("again", [True, False], ids=["no-other-led", "another-may-have"])
async def test_deposed_in_the_middle_of_its_work_and_leading_again_it_finishes(cluster, again):
    """Where no other replica led it lists nothing: an API server that is too slow for the lease is spared that."""
    cluster.vpc("v")
    await cluster.settled()
    original, begun = cluster.api.create, asyncio.Event()

    async def create(resource, body, namespace=None):
        if resource == NADS:
            begun.set()
            await asyncio.Event().wait()
        return await original(resource, body, namespace)

    cluster.api.create = create
    cluster.attachment("a")
    await begun.wait()
    await cluster.depose()
    cluster.vpc("late")
    cluster.api.create = original
    cluster.api.requests.clear()
    await cluster.lead(again=again)
    await cluster.settled()
    assert cluster.status("a")["ready"] is True
    assert cluster.status("late", resource=VPCS)["ready"] is True, "changes in between are not lost"
    assert (not [kind for verb, kind, _ in cluster.api.requests if verb == "list"]) is again


async def test_not_even_a_bug_in_one_objects_way_blocks_another(cluster):
    cluster.api.fail = lambda verb, resource, name: (
        KeyError("a bug") if resource == NADS and name == "a" else None
    )
    cluster.vpc("v")
    cluster.attachment("a")
    for index in range(40):  # more than there are workers
        cluster.attachment(f"b{index}")
    await cluster.until(lambda: all(cluster.status(f"b{index}").get("ready") for index in range(40)))
    assert not cluster.status("a").get("ready")
    cluster.api.fail = lambda *_: None
    await cluster.settled()
    assert cluster.status("a")["ready"] is True


async def test_a_patch_of_the_status_has_only_what_changed(cluster):
    cluster.vpc("v", "10.1.1.0/24", allowedNamespaces={"from": "All"})
    cluster.attachment("a", "default/v", namespace="other")
    await cluster.settled()
    cluster.api.patches.clear()
    cluster.api.change(VPCS, "v", {"spec": {"allowedNamespaces": None}}, "default")
    await cluster.settled()
    written = {(kind, name): list(patch["status"]) for kind, name, patch in cluster.api.patches}
    assert written == {
        ("VPCAttachment", "a"): ["conditions"],
        ("VPC", "v"): ["conditions", "observedGeneration"],
    }


def events_of(cluster, kind, name):
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return [
        (event["type"], event["reason"])
        for event in events
        if (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (kind, name)
    ]


async def test_each_transition_is_reported_once_and_a_flapping_object_not_for_ever(cluster, monkeypatch):
    monkeypatch.setattr("galactic.operator.events.REFILL_SECONDS", float("inf"))  # however long this takes
    cluster.attachment("a", "v", "172.16.0.1/24")
    await cluster.settled()
    cluster.vpc("v", "10.1.1.0/24")
    await cluster.settled()
    await cluster.reconciler.resync()
    await cluster.settled()
    assert events_of(cluster, "VPCAttachment", "a") == [
        ("Warning", "VPCNotFound"),
        ("Normal", "Ready"),
        ("Warning", "AddressOutsideNetworks"),
    ]
    for _ in range(20):
        for destination in ("192.168.0.0/33", "192.168.0.0/24"):
            routes = [{"destination": destination, "via": "172.16.0.1"}]
            cluster.api.change(VPC_ATTACHMENTS, "a", {"spec": {"routes": routes}}, "default")
            await cluster.settled()
    assert len(events_of(cluster, "VPCAttachment", "a")) == 10
    assert cluster.reconciler.events.dropped > 0
    assert cluster.status("a")["ready"] is True

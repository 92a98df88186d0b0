"""``status.carriers``: the pods that nodes attach and whose node the router takes paths from; and what they get."""

import pytest

from galactic.crds.vpcattachment import MAX_CARRIERS
from galactic.kube.resources import EVENTS, NAMESPACES, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    VPC_ANNOTATION,
    carrier_label,
)
from galactic.operator.context import FINALIZER


def carry(
    cluster, name, node="", *, attachment="a", namespace="default", generated=False, networks="", **spec
):
    annotations = {ATTACHMENT_ANNOTATION: attachment} | ({VPC_ANNOTATION: "v"} if generated else {})
    annotations |= {NETWORKS_ANNOTATION: networks} if networks else {}
    labels = {ATTACHMENT_LABEL: GENERATED if generated else attachment}
    metadata = {"name": name, "annotations": annotations, "labels": labels}
    spec |= {"nodeName": node} if node else {}
    pod = {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
    return cluster.api.put(PODS, pod, namespace)["metadata"]["uid"]


def carriers(cluster, name="a", namespace="default"):
    return [(carrier["pod"], carrier["node"]) for carrier in cluster.status(name, namespace)["carriers"]]


@pytest.fixture
async def ready(cluster):
    """A cluster with VPC ``v`` and attachment ``a``."""
    cluster.vpc("v", "10.1.1.0/24", "2001:10:1:1::/64")
    cluster.attachment("a")
    await cluster.settled()
    return cluster


async def test_an_attachment_without_a_pod_has_none(ready):
    assert carriers(ready) == []


async def test_a_pod_carries_it_from_when_it_is_bound_until_it_has_ended(ready):
    uid = carry(ready, "p")
    await ready.settled()
    assert carriers(ready) == []
    ready.api.change(PODS, "p", {"spec": {"nodeName": "node-1"}}, "default")
    await ready.settled()
    assert ready.status("a")["carriers"] == [{"pod": "p", "uid": uid, "node": "node-1"}]
    ready.api.change(PODS, "p", {"status": {"phase": "Running"}}, "default", subresource="status")
    await ready.settled()
    assert carriers(ready) == [("p", "node-1")]
    ready.api.change(PODS, "p", {"status": {"phase": "Succeeded"}}, "default", subresource="status")
    await ready.settled()
    assert carriers(ready) == []


async def test_a_namesake_is_another_carrier(ready):
    carry(ready, "p", "node-1")
    await ready.settled()
    ready.api.remove(PODS, "p", "default")
    uid = carry(ready, "p", "node-1")
    await ready.settled()
    assert [carrier["uid"] for carrier in ready.status("a")["carriers"]] == [uid]


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param({"namespace": "other"}, id="of-another-namespace"),
        pytest.param({"attachment": "b"}, id="of-another-attachment"),
        pytest.param({"hostNetwork": True}, id="in-the-host-network"),
    ],
)
async def test_other_pods_do_not_carry_it(ready, pod):
    carry(ready, "p", "node-1", **pod)
    await ready.settled()
    assert carriers(ready) == []


async def test_a_pod_carries_further_attachments_that_it_lists_for_multus(ready):
    """Of its own namespace: an attachment of that name in another namespace is not affected."""
    ready.attachment("b")
    ready.attachment("c", "default/v", namespace="other")
    await ready.settled()
    carry(ready, "p", "node-1", networks="a@galactic0,default/b@galactic1,other/c@galactic2")
    await ready.settled()
    assert carriers(ready, "b") == [("p", "node-1")]
    assert not ready.status("c", "other").get("carriers")
    ready.api.remove(PODS, "p", "default")
    await ready.settled()
    assert carriers(ready, "b") == []


async def test_a_generated_attachment_is_carried_by_its_own_pod_alone(ready):
    carry(ready, "p", "node-1", attachment="own", generated=True)
    await ready.settled()
    assert carriers(ready, "own") == [("p", "node-1")]
    carry(ready, "q", "node-1", attachment="own", generated=True)
    await ready.settled()
    assert carriers(ready, "own") == [("p", "node-1")]


async def test_no_more_pods_than_an_object_can_hold_and_those_that_carry_it_stay(ready):
    carry(ready, "zzz", "node-1")
    await ready.settled()
    for number in range(MAX_CARRIERS + 1):
        carry(ready, f"p{number:02}", "node-1")
    await ready.settled()
    assert len(carriers(ready)) == MAX_CARRIERS
    assert ("zzz", "node-1") in carriers(ready)
    ready.api.remove(PODS, "p00", "default")
    await ready.settled()
    assert len(carriers(ready)) == MAX_CARRIERS


async def test_after_a_grant_was_revoked_no_pod_is_added(cluster):
    cluster.vpc("v", allowedNamespaces={"from": "All"})
    cluster.attachment("a", "default/v", namespace="other")
    carry(cluster, "p", "node-1", namespace="other")
    await cluster.settled()
    cluster.api.change(VPCS, "v", {"spec": {"allowedNamespaces": {"from": "Same"}}}, "default")
    await cluster.settled()
    carry(cluster, "q", "node-2", namespace="other")
    await cluster.settled()
    assert carriers(cluster, namespace="other") == [("p", "node-1")]
    cluster.api.change(VPCS, "v", {"spec": {"allowedNamespaces": {"from": "All"}}}, "default")
    await cluster.settled()
    assert carriers(cluster, namespace="other") == [("p", "node-1"), ("q", "node-2")]


async def test_what_nodes_give_them_is_in_the_status(ready):
    routes = [{"destination": "10.9.0.0/16", "via": "10.1.1.5"}, {"destination": "10.8.0.0/16"}]
    ready.attachment("b", "v", "10.1.1.5/24", routes=routes)
    await ready.settled()
    status = ready.status("b")
    assert status["configuration"] == {
        "vpc": ready.status("v", resource=VPCS)["identifier"],
        "networks": ["10.1.1.0/24", "2001:10:1:1::/64"],
        "terminations": [{"network": "10.9.0.0/16", "via": "10.1.1.5"}],
        "routes": ["10.8.0.0/16"],
        "mtu": 0,
    }


async def test_what_is_written_over_it_is_put_right(ready):
    uid = carry(ready, "p", "node-1")
    await ready.settled()
    forged = {
        "carriers": [{"pod": "q", "uid": "x", "node": "node-2"}],
        "configuration": {"vpc": "0000000000aa"},
    }
    before = ready.status("a")
    ready.api.change(VPC_ATTACHMENTS, "a", {"status": forged}, "default", subresource="status")
    await ready.settled()
    assert ready.status("a")["carriers"] == [{"pod": "p", "uid": uid, "node": "node-1"}]
    assert ready.status("a")["configuration"] == before["configuration"]


# Grants that are revoked, and the running pods are detached.


@pytest.fixture
async def guest(cluster):
    """Namespace ``other`` has an attachment with a pod in VPC default/v, whose owner detaches."""
    cluster.vpc("v", allowedNamespaces={"from": "All", "whenRevoked": "Detach"})
    cluster.attachment("a", "default/v", namespace="other")
    carry(cluster, "p", "node-1", namespace="other")
    await cluster.settled()
    assert carriers(cluster, namespace="other") == [("p", "node-1")]
    return cluster


def revoke(cluster, **other):
    cluster.api.change(VPCS, "v", {"spec": {"allowedNamespaces": {"from": "Same", **other}}}, "default")


def labels(cluster):
    return cluster.api.stored(VPC_ATTACHMENTS, "a", "other")["metadata"]["labels"]


async def test_a_revoked_grant_detaches_where_the_vpc_has_it(guest):
    addresses = guest.status("a", "other")["addresses"]
    revoke(guest)
    await guest.settled()
    assert carriers(guest, namespace="other") == []
    assert carrier_label("node-1") not in labels(guest)
    granted = guest.condition("Granted", "a", "other")
    assert (granted["status"], granted["reason"]) == ("False", "Detached")
    events = {(event["involvedObject"]["kind"], event["reason"]) for event in guest.api.all(EVENTS)}
    assert {("Pod", "Detached"), ("VPCAttachment", "Detached")} <= events
    guest.api.change(VPCS, "v", {"spec": {"allowedNamespaces": {"from": "All"}}}, "default")
    await guest.settled()
    assert carriers(guest, namespace="other") == [("p", "node-1")]
    assert guest.condition("Granted", "a", "other") is None
    assert guest.status("a", "other")["addresses"] == addresses


async def test_by_default_a_pod_stays(guest):
    revoke(guest, whenRevoked="Keep")
    await guest.settled()
    assert carriers(guest, namespace="other") == [("p", "node-1")]
    assert guest.condition("Granted", "a", "other")["reason"] == "Revoked"


async def test_a_label_that_a_namespace_lost_revokes_as_well(guest):
    revoke(guest, **{"from": "Selector", "selector": {"matchLabels": {"name": "other"}}})
    await guest.settled()
    assert carriers(guest, namespace="other") == [("p", "node-1")]
    guest.api.change(NAMESPACES, "other", {"metadata": {"labels": {"name": None}}})
    await guest.settled()
    assert carriers(guest, namespace="other") == []


async def test_a_selector_that_cannot_be_read_detaches_no_pod(guest):
    revoke(guest, **{"from": "Selector", "selector": {"matchName": "other"}})
    await guest.settled()
    assert carriers(guest, namespace="other") == [("p", "node-1")]


async def test_an_attachment_that_is_being_deleted_keeps_no_pod_in_the_vpc(guest):
    guest.api.remove(VPC_ATTACHMENTS, "a", "other")
    await guest.settled()
    revoke(guest)
    await guest.settled()
    assert carriers(guest, namespace="other") == []
    assert carrier_label("node-1") not in labels(guest)
    stored = guest.api.stored(VPC_ATTACHMENTS, "a", "other")
    assert FINALIZER in stored["metadata"]["finalizers"]
    assert guest.condition("Granted", "a", "other")["reason"] == "Detached"


async def test_nor_does_a_change_of_its_vpc(guest):
    guest.api.change(VPC_ATTACHMENTS, "a", {"spec": {"vpc": {"name": "mine", "namespace": "other"}}}, "other")
    revoke(guest)
    await guest.settled()
    assert carriers(guest, namespace="other") == []

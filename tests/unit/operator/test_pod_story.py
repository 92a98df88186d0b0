"""Pods with the annotation of a VPC: each gets an attachment of its own, and nothing is left of it afterwards."""

import asyncio
from collections import Counter

import pytest

from galactic.errors import Rejected, Unreachable
from galactic.kube.api import Event
from galactic.kube.resources import EVENTS, NAMESPACES, NODE_SEGMENTS, PODS, VPC_ATTACHMENTS
from galactic.names import (
    ACCEPTED_ANNOTATION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    VPC_ANNOTATION,
)
from galactic.operator import triggers
from galactic.operator.context import FINALIZER
from galactic.operator.triggers import BINDING_SECONDS

TERMINATING = {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["kubernetes"]}}


def pod(cluster, name, *, vpc="v", attachment=None, namespace="default", label=GENERATED):
    """As the webhook leaves it."""
    annotations = {ATTACHMENT_ANNOTATION: attachment or f"{name}-own"} | (
        {VPC_ANNOTATION: vpc} if vpc else {}
    )
    metadata = {"name": name, "annotations": annotations, "labels": {ATTACHMENT_LABEL: label}}
    cluster.api.put(PODS, {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}}, namespace)


async def test_a_pods_annotation_sets_the_networks_that_its_attachment_accepts(cluster):
    cluster.vpc("v", "10.1.1.0/24", "10.96.0.0/12")
    metadata = {
        "name": "web",
        "labels": {ATTACHMENT_LABEL: GENERATED},
        "annotations": {
            ATTACHMENT_ANNOTATION: "web-own",
            VPC_ANNOTATION: "v",
            ACCEPTED_ANNOTATION: "10.1.0.0/16, 10.2.0.0/16",
        },
    }
    cluster.api.put(PODS, {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}}, "default")
    await cluster.settled()
    assert attachment(cluster, "web-own")["spec"]["acceptedNetworks"] == ["10.1.0.0/16", "10.2.0.0/16"]
    assert cluster.status("web-own")["configuration"]["networks"] == ["10.1.1.0/24"]


def attachment(cluster, name, namespace="default"):
    return cluster.api.stored(VPC_ATTACHMENTS, name, namespace)


def events_of(cluster, name):
    """The reasons of the Events on a Pod."""
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return {
        event["reason"]
        for event in events
        if (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Pod", name)
    }


async def test_each_replica_has_its_own_and_it_goes_with_the_pod(cluster):
    cluster.vpc("v", "10.1.1.0/24")
    for number in range(5):
        pod(cluster, f"web-{number}")
    await cluster.settled()
    statuses = [cluster.status(f"web-{number}-own") for number in range(5)]
    assert all(status["ready"] for status in statuses)
    assert len({status["addresses"][0] for status in statuses}) == 5
    assert len({status["identifier"] for status in statuses}) == 5
    made = attachment(cluster, "web-0-own")
    uid = cluster.api.stored(PODS, "web-0", "default")["metadata"]["uid"]
    assert made["metadata"]["ownerReferences"][0] | {"controller": True} == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web-0",
        "uid": uid,
        "controller": True,
    }
    cluster.api.remove(PODS, "web-0", "default")
    await cluster.settled()
    assert attachment(cluster, "web-0-own") is None
    assert not cluster.nad("web-0-own")
    assert attachment(cluster, "web-1-own")


async def test_constant_work_a_pod(cluster):
    cluster.vpc("v", "10.1.0.0/16")
    await cluster.settled()
    counts = []
    for first in (0, 100):
        cluster.api.requests.clear()
        for number in range(first, first + 50):
            pod(cluster, f"web-{number}")
        await cluster.settled()
        counts.append(len([request for request in cluster.api.requests if request[1] != "VPC"]))
    assert counts == [150, 150]  # attachment, definition, status; no Event of what is ready at once


def bound(cluster, name, node="n1", namespace="default"):
    cluster.api.change(PODS, name, {"spec": {"nodeName": node}}, namespace)


async def test_writes_of_a_pod_that_is_bound_at_once(cluster):
    """The operator's four of the six: attachment, definition, status with the carrier, status with Attached. The node
    writes its NodeSegment, the router the endpoint.
    """
    cluster.vpc("v", "10.1.0.0/16")
    segment = {"metadata": {"name": "n1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}}
    cluster.api.put(NODE_SEGMENTS, segment)
    pod(cluster, "first")
    bound(cluster, "first")
    await cluster.settled()
    cluster.api.requests.clear()
    for number in range(50):
        pod(cluster, f"web-{number}")
    await asyncio.sleep(0.02)  # as long as a scheduler takes
    for number in range(50):
        bound(cluster, f"web-{number}")
    await cluster.settled()
    names = [f"web-{number}-own" for number in range(50)]
    reported = [
        {
            "vpc": "000000000001",
            "function": "0001",
            "attachment": f"default/{name}",
            "sid": f"2001:db8:ff01:100::{number:x}",
            "networks": ["10.1.0.1/32"],
            "containerID": "c",
            "ifname": "galactic0",
            "netns": "/n",
            "epoch": number + 1,
        }
        for number, name in enumerate(names)
    ]
    patch = {"status": {"endpoints": reported, "sequence": 1}}
    cluster.api.change(NODE_SEGMENTS, "n1", patch, subresource="status")
    for number, name in enumerate(names):
        endpoint = {
            "node": "n1",
            "sid": f"2001:db8:ff01:100::{number:x}",
            "networks": [],
            "epoch": number + 1,
        }
        cluster.api.change(
            VPC_ATTACHMENTS, name, {"status": {"endpoint": endpoint}}, "default", subresource="status"
        )
    await cluster.settled()
    attached = [cluster.condition("Attached", name)["status"] for name in names]
    assert attached == ["True"] * 50
    labels = attachment(cluster, "web-7-own")["metadata"]["labels"]
    assert labels["node.galactic.datumapis.com/n1"] == ""
    by_kind = Counter((verb, kind) for verb, kind, name in cluster.api.requests if name in names)
    assert by_kind == {
        ("create", "VPCAttachment"): 50,
        ("create", "NetworkAttachmentDefinition"): 50,
        ("patch", "VPCAttachment"): 100,
    }
    others = Counter(kind for verb, kind, name in cluster.api.requests if name not in names)
    assert others["VPC"] <= 3, "counts of fifty pods are one or two writes"
    assert not others.keys() - {"VPC"}

    cluster.api.requests.clear()
    for number, name in enumerate(names):  # as they end: the sandbox, the endpoint, the pod
        cluster.api.change(PODS, f"web-{number}", TERMINATING, "default")
        cluster.api.change(
            VPC_ATTACHMENTS, name, {"status": {"endpoint": None}}, "default", subresource="status"
        )
    patch = {"status": {"endpoints": [], "sequence": 2}}
    cluster.api.change(NODE_SEGMENTS, "n1", patch, subresource="status")
    await asyncio.sleep(2)
    for number in range(50):
        cluster.api.change(PODS, f"web-{number}", {"metadata": {"finalizers": []}}, "default")
    await cluster.settled()
    assert not any(attachment(cluster, name) for name in names)
    by_kind = Counter((verb, kind) for verb, kind, name in cluster.api.requests if name in names)
    assert by_kind == {("patch", "VPCAttachment"): 50}, "the finalizer of each"


async def test_a_scheduler_with_a_backlog_costs_no_write(cluster, monkeypatch):
    """The label of the Node comes with the attachment, and the carrier with its first status."""
    monkeypatch.setattr(triggers, "BINDING_SECONDS", BINDING_SECONDS)
    cluster.vpc("v", "10.1.0.0/16")
    pod(cluster, "web")
    await asyncio.sleep(0.3)
    bound(cluster, "web")
    await cluster.settled()
    labels = attachment(cluster, "web-own")["metadata"]["labels"]
    assert labels["node.galactic.datumapis.com/n1"] == ""
    assert [carrier["node"] for carrier in cluster.status("web-own")["carriers"]] == ["n1"]
    own = [(verb, kind) for verb, kind, name in cluster.api.requests if name == "web-own"]
    assert own == [
        ("create", "VPCAttachment"),
        ("create", "NetworkAttachmentDefinition"),
        ("patch", "VPCAttachment"),
    ]


async def test_an_attachment_that_outlives_its_pod_for_long_has_a_status_that_is_true(cluster):
    """The garbage collector is away."""
    cluster.vpc("v", "10.1.0.0/16")
    pod(cluster, "web")
    bound(cluster, "web")
    await cluster.settled()
    assert cluster.status("web-own")["carriers"]
    cluster.api.change(PODS, "web", TERMINATING, "default")
    uid = cluster.api.stored(PODS, "web", "default")["metadata"]["uid"]
    cluster.api.objects.pop((PODS.plural, "default", "web"))
    cluster.reconciler.caches.pods.remove(("default", "web"), uid, "999999")
    await cluster.settled()
    assert cluster.status("web-own")["carriers"] == []


async def test_a_pod_that_no_node_has_gets_its_attachment_all_the_same(cluster):
    """Its problems are to be known before a node has room, and its definition before the kubelet asks."""
    cluster.vpc("v", "10.1.0.0/16")
    pod(cluster, "waits")
    await cluster.settled()
    assert cluster.status("waits-own")["ready"] is True
    assert cluster.status("waits-own")["carriers"] == []
    bound(cluster, "waits")
    await cluster.settled()
    assert [carrier["node"] for carrier in cluster.status("waits-own")["carriers"]] == ["n1"]


async def test_a_rolling_update_ends_with_as_many_as_there_are_pods(cluster):
    cluster.vpc("v", "10.1.1.0/29")  # five addresses for four replicas and one that surges
    for number in range(4):
        pod(cluster, f"old-{number}")
    await cluster.settled()
    for number in range(4):
        pod(cluster, f"new-{number}")
        await cluster.settled()
        cluster.api.remove(PODS, f"old-{number}", "default")
        await cluster.settled()
    names = {name for plural, _, name in cluster.api.objects if plural == VPC_ATTACHMENTS.plural}
    assert names == {f"new-{number}-own" for number in range(4)}
    assert all(cluster.status(name)["ready"] for name in names)


async def test_of_another_namespace_by_its_grant(cluster):
    cluster.vpc("v", "10.1.1.0/24", allowedNamespaces={"from": "All"})
    pod(cluster, "web", vpc="default/v", namespace="other")
    pod(cluster, "not", vpc="default/w", namespace="other")
    await cluster.settled()
    assert cluster.status("web-own", "other")["ready"] is True
    assert cluster.condition("Ready", "not-own", "other")["reason"] == "NotGranted"
    await cluster.settled()
    assert "NotGranted" in events_of(cluster, "not")


@pytest.mark.parametrize("vpc", ["", "a/b/c", "/v", "v/"])
async def test_an_annotation_that_names_no_vpc_is_an_event_of_the_pod(cluster, vpc):
    pod(cluster, "web")
    cluster.api.change(PODS, "web", {"metadata": {"annotations": {VPC_ANNOTATION: vpc}}}, "default")
    await cluster.stop()
    cluster.api.objects.pop((VPC_ATTACHMENTS.plural, "default", "web-own"), None)
    await cluster.start()
    await cluster.settled()
    assert attachment(cluster, "web-own") is None
    assert "InvalidAnnotation" in events_of(cluster, "web")


async def test_an_attachment_that_is_not_the_pods_is_left_alone(cluster):
    cluster.vpc("v")
    cluster.attachment("web-own")
    pod(cluster, "web")
    await cluster.settled()
    assert "ownerReferences" not in attachment(cluster, "web-own")["metadata"]
    assert "NameTaken" in events_of(cluster, "web")


async def test_a_namesake_gets_its_own_once_the_old_one_is_gone(cluster):
    cluster.vpc("v")
    pod(cluster, "web-0")
    await cluster.settled()
    before = attachment(cluster, "web-0-own")["metadata"]["uid"]
    cluster.api.remove(PODS, "web-0", "default")
    pod(cluster, "web-0")
    await cluster.settled()
    after = attachment(cluster, "web-0-own")
    assert after["metadata"]["uid"] != before
    assert (
        after["metadata"]["ownerReferences"][0]["uid"]
        == (cluster.api.stored(PODS, "web-0", "default")["metadata"]["uid"])
    )
    assert cluster.status("web-0-own")["ready"] is True


async def test_pods_made_and_gone_while_the_operator_was_away(cluster):
    cluster.vpc("v")
    pod(cluster, "stays")
    pod(cluster, "goes")
    await cluster.settled()
    await cluster.stop()
    pod(cluster, "came")
    cluster.api.remove(PODS, "goes", "default")
    assert attachment(cluster, "goes-own")["metadata"][
        "deletionTimestamp"
    ]  # its finalizer waits for the operator
    await cluster.start()
    await cluster.settled()
    assert attachment(cluster, "goes-own") is None
    assert cluster.status("came-own")["ready"] is True
    assert cluster.status("stays-own")["ready"] is True


async def test_a_live_pod_holds_its_attachment_and_one_that_ran_to_its_end_does_not(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    pod(cluster, "web", vpc="", attachment="a", label="a")
    await cluster.settled()
    assert attachment(cluster, "a")["metadata"]["finalizers"] == [FINALIZER]
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    assert "default/web" in cluster.condition("Deleting", "a")["message"]
    cluster.api.change(PODS, "web", {"status": {"phase": "Succeeded"}}, "default", subresource="status")
    await cluster.settled()
    assert attachment(cluster, "a") is None


async def test_an_endpoint_that_a_dead_node_left_does_not_hold_a_generated_one(cluster):
    cluster.vpc("v")
    pod(cluster, "web")
    await cluster.settled()
    endpoint = {"node": "node-1", "sid": "2001:db8::1", "networks": []}
    cluster.api.change(
        VPC_ATTACHMENTS, "web-own", {"status": {"endpoint": endpoint}}, "default", subresource="status"
    )
    await cluster.settled()
    cluster.api.remove(PODS, "web", "default")
    await cluster.settled()
    assert attachment(cluster, "web-own") is None


async def test_nothing_is_made_in_a_namespace_that_goes_and_nothing_holds_it_up(cluster):
    cluster.vpc("v")
    pod(cluster, "web")
    await cluster.settled()
    cluster.api.change(NAMESPACES, "default", TERMINATING)
    cluster.api.remove(VPC_ATTACHMENTS, "web-own", "default")
    pod(cluster, "late")
    await cluster.settled()
    assert attachment(cluster, "web-own") is None
    assert attachment(cluster, "late-own") is None


async def test_one_made_away_with_by_hand_waits_for_its_pod(cluster):
    cluster.vpc("v")
    pod(cluster, "web")
    await cluster.settled()
    cluster.api.remove(VPC_ATTACHMENTS, "web-own", "default")
    await cluster.settled()
    assert "default/web" in cluster.condition("Deleting", "web-own")["message"]
    assert cluster.nad("web-own")


async def test_one_pods_refusal_blocks_no_other(cluster):
    cluster.vpc("v")
    cluster.api.fail = lambda verb, _resource, name: (
        Rejected("quota exceeded", reason="Forbidden")
        if (verb, name) == ("create", "a-own")
        else Unreachable("kube-apiserver", "no")
        if (verb, name) == ("create", "b-own")
        else None
    )
    for name in "abc":
        pod(cluster, name)
    await cluster.until(lambda: (attachment(cluster, "c-own") or {}).get("status", {}).get("ready"))
    assert attachment(cluster, "a-own") is None
    assert "Forbidden" in events_of(cluster, "a")
    cluster.api.fail = lambda *_: None
    await cluster.settled()
    assert cluster.status("a-own")["ready"] is True
    assert cluster.status("b-own")["ready"] is True


async def test_an_attachment_that_another_made_just_now_is_waited_for(cluster):
    """The watch has not delivered it yet."""
    cluster.vpc("v")
    await cluster.settled()
    seen, cluster.api.observer = cluster.api.observer, lambda *_: None
    pod(cluster, "web")
    uid = cluster.api.stored(PODS, "web", "default")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": True}
    body = {"metadata": {"name": "web-own", "ownerReferences": [owner]}, "spec": {"vpc": {"name": "v"}}}
    made = cluster.api.put(VPC_ATTACHMENTS, body, "default")
    cluster.api.observer = seen
    seen(PODS, Event("ADDED", cluster.api.stored(PODS, "web", "default")))
    create = ("create", "VPCAttachment", "web-own")
    await cluster.until(lambda: cluster.api.requests.count(create) >= 3)
    seen(VPC_ATTACHMENTS, Event("ADDED", made))
    await cluster.settled()
    assert cluster.status("web-own")["ready"] is True
    assert not events_of(cluster, "web") & {"NameTaken", "Conflict", "AlreadyExists"}


async def test_two_pods_on_one_attachment_are_an_event_of_the_attachment(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    pod(cluster, "old", vpc="", attachment="a", label="a")
    cluster.api.change(PODS, "old", TERMINATING, "default")
    pod(cluster, "web", vpc="", attachment="a", label="a")
    await cluster.settled()
    assert shared(cluster) == []
    pod(cluster, "api", vpc="", attachment="a", label="a")
    await cluster.settled()
    await cluster.reconciler.resync()
    await cluster.settled()
    (message,) = shared(cluster)
    assert message.startswith("pods api, web use it")
    assert VPC_ANNOTATION in message


def shared(cluster):
    """Messages of Events with reason Shared."""
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return [event["message"] for event in events if event["reason"] == "Shared"]

"""The labels that nodes select by: which nodes have a pod that carries an attachment, and which VPC it is in."""

import pytest

from galactic.kube.resources import NADS, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    CARRIER_PREFIX,
    GENERATED,
    VPC_ANNOTATION,
    VPC_LABEL,
    carrier_label,
)
from galactic.operator.context import FINALIZER


def attach(cluster, node, name="a"):
    endpoint = {"node": node, "sid": "2001:db8::1", "networks": []} if node else None
    cluster.api.change(
        VPC_ATTACHMENTS, name, {"status": {"endpoint": endpoint}}, "default", subresource="status"
    )


def carry(cluster, name, node="", *, attachment="a", generated=False):
    annotations = {ATTACHMENT_ANNOTATION: attachment} | ({VPC_ANNOTATION: "v"} if generated else {})
    labels = {ATTACHMENT_LABEL: GENERATED if generated else attachment}
    spec = {"nodeName": node} if node else {}
    metadata = {"name": name, "annotations": annotations, "labels": labels}
    cluster.api.put(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}, "default")


def labels(cluster, resource=NADS, name="a"):
    return cluster.api.stored(resource, name, "default")["metadata"].get("labels") or {}


@pytest.fixture
async def ready(cluster):
    """A cluster with VPC ``v`` and attachment ``a``."""
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    return cluster


def identifier(cluster):
    return cluster.status("v", resource=VPCS)["identifier"]


def nodes(cluster, name="a"):
    return {label for label in labels(cluster, VPC_ATTACHMENTS, name) if label.startswith(CARRIER_PREFIX)}


async def test_a_definition_has_its_vpc_from_the_start(ready):
    assert labels(ready)[VPC_LABEL] == identifier(ready)


async def test_an_attachment_has_the_node_of_each_pod_that_carries_it(ready):
    carry(ready, "p1")
    await ready.settled()
    assert nodes(ready) == set()
    ready.api.change(PODS, "p1", {"spec": {"nodeName": "node-1"}}, "default")
    carry(ready, "p2", "node-2")
    await ready.settled()
    assert nodes(ready) == {carrier_label("node-1"), carrier_label("node-2")}
    ready.api.remove(PODS, "p1", "default")
    await ready.settled()
    assert nodes(ready) == {carrier_label("node-2")}


async def test_a_name_too_long_for_a_label_is_shortened_and_stays_unique(ready):
    long = [f"node.{'x' * 80}.{last}" for last in "ab"]
    for node in long:
        carry(ready, f"p-{node[-1]}", node)
    await ready.settled()
    assert nodes(ready) == {carrier_label(node) for node in long}
    assert all(len(label.partition("/")[2]) <= 63 for label in nodes(ready))


async def test_an_attachment_has_its_vpcs_label_while_it_is_in_use(ready):
    assert VPC_LABEL not in labels(ready, VPC_ATTACHMENTS)
    ready.api.requests.clear()
    carry(ready, "p", "node-1")
    await ready.settled()
    assert labels(ready, VPC_ATTACHMENTS)[VPC_LABEL] == identifier(ready)
    labelled = [
        body["metadata"]
        for kind, _, body in ready.api.patches
        if kind == "VPCAttachment" and "labels" in body.get("metadata", {})
    ]
    assert len(labelled) == 1, "in the patch that puts the finalizer on"
    assert labelled[0]["finalizers"] == [FINALIZER]


@pytest.mark.parametrize("node", [pytest.param("", id="unscheduled"), pytest.param("node-1", id="bound")])
async def test_a_generated_attachment_has_its_labels_from_its_creation(ready, node):
    ready.api.requests.clear()
    carry(ready, "p", node, attachment="own", generated=True)
    await ready.settled()
    metadata = ready.api.stored(VPC_ATTACHMENTS, "own", "default")["metadata"]
    assert metadata["labels"][VPC_LABEL] == identifier(ready)
    assert (carrier_label("node-1") in metadata["labels"]) == bool(node)
    assert FINALIZER in metadata["finalizers"]
    assert not [
        patch
        for patch in ready.api.patches
        if patch[:2] == ("VPCAttachment", "own")
        and "metadata" in patch[2]
        and "labels" in patch[2]["metadata"]
    ]


@pytest.mark.parametrize("resource", [NADS, VPC_ATTACHMENTS], ids=lambda resource: resource.kind)
async def test_labels_are_put_back(ready, resource):
    carry(ready, "p", "node-1")
    await ready.settled()
    before = labels(ready, resource)
    ready.api.change(
        resource, "a", {"metadata": {"labels": {VPC_LABEL: "x", carrier_label("node-1"): None}}}, "default"
    )
    await ready.settled()
    assert labels(ready, resource) == before


async def test_settled_means_no_more_requests_with_pods_as_well(ready):
    carry(ready, "p", "node-1")
    attach(ready, "node-1")
    await ready.settled()
    ready.api.requests.clear()
    await ready.reconciler.resync()
    await ready.settled()
    assert {verb for verb, _, _ in ready.api.requests} == {"list"}

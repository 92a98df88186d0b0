"""The labels that nodes select by: whose definition it is, and which VPC an attachment in use is in."""

import pytest

from galactic.kube.resources import NADS, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NODE_LABEL,
    VPC_ANNOTATION,
    VPC_LABEL,
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


async def test_a_definition_says_its_vpc_from_the_start_and_its_node_when_that_is_known(ready):
    assert labels(ready)[VPC_LABEL] == identifier(ready)
    assert NODE_LABEL not in labels(ready)
    attach(ready, "node-1")
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-1"
    attach(ready, "node-2")
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-2"


async def test_a_scheduled_pod_tells_the_node_before_the_router_does(ready):
    carry(ready, "p")
    await ready.settled()
    assert NODE_LABEL not in labels(ready)
    ready.api.change(PODS, "p", {"spec": {"nodeName": "node-1"}}, "default")
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-1"


async def test_a_pod_on_its_way_goes_before_an_endpoint_whose_pod_is_gone(ready):
    attach(ready, "node-1")
    carry(ready, "p", "node-2")
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-2"


async def test_of_two_pods_the_attached_one_counts(ready):
    attach(ready, "node-2")
    carry(ready, "p1", "node-1")
    carry(ready, "p2", "node-2")
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-2"


async def test_the_last_node_stays_when_nobody_is_attached(ready):
    attach(ready, "node-1")
    await ready.settled()
    ready.api.requests.clear()
    attach(ready, None)
    await ready.settled()
    assert labels(ready)[NODE_LABEL] == "node-1"
    assert ("patch", "NetworkAttachmentDefinition", "a") not in ready.api.requests


async def test_a_name_too_long_for_a_label_is_shortened_and_stays_unique(ready):
    values = []
    for last in "ab":
        attach(ready, f"node.{'x' * 80}.{last}")
        await ready.settled()
        values.append(labels(ready)[NODE_LABEL])
    assert len(set(values)) == 2
    assert all(len(value) <= 63 for value in values)


async def test_an_attachment_says_its_vpc_from_when_it_is_in_use(ready):
    assert VPC_LABEL not in labels(ready, VPC_ATTACHMENTS)
    ready.api.requests.clear()
    carry(ready, "p", "node-1")
    await ready.settled()
    assert labels(ready, VPC_ATTACHMENTS)[VPC_LABEL] == identifier(ready)
    patches = [request for request in ready.api.requests if request[:2] == ("patch", "VPCAttachment")]
    assert len(patches) == 1, "in the patch that puts the finalizer on"


async def test_a_generated_attachment_has_the_label_from_its_creation(ready):
    ready.api.requests.clear()
    carry(ready, "p", attachment="own", generated=True)
    await ready.settled()
    there = ready.api.stored(VPC_ATTACHMENTS, "own", "default")["metadata"]
    assert there["labels"][VPC_LABEL] == identifier(ready)
    assert FINALIZER in there["finalizers"]
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
    ready.api.change(resource, "a", {"metadata": {"labels": {VPC_LABEL: "x", NODE_LABEL: None}}}, "default")
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

"""Each process keeps little of an object that a tenant made as large as the API server allows."""

import base64
import gc
import hashlib
import json
import tracemalloc
from types import SimpleNamespace

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from galactic.errors import Rejected
from galactic.kube.api import key_of
from galactic.kube.resources import VPC_ATTACHMENTS, VPCS
from galactic.node.kubernetes import entitlement, fallback
from galactic.operator.state import Caches
from galactic.router.kubernetes.attachments import AttachmentIndex
from galactic.router.metrics import RouterMetrics
from galactic.webhook.cluster import Cluster
from galactic.webhook.metadata import MOST, bounded

OBJECTS = 4
LARGEST = 48 << 10
"""Bytes of one object, of which the test writes a quarter of a mebibyte and more."""
ATTACHMENT = "k8s.v1alpha.galactic.datumapis.com/vpc-attachment"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
SCOPE = "galactic.datumapis.com"


def noise(seed, size):
    """Text that does not compress to much less: letters and digits."""
    drawn = hashlib.shake_128(repr(seed).encode()).digest(size)
    return base64.b64encode(drawn, b"aa").decode()[:size]


def meta(number, **more):
    annotations = {f"of-a-tenant/{part}": noise((number, part), 25 << 10) for part in range(10)}
    labels = {f"of-a-tenant/{noise((number, part, 0), 60)}": noise((part, number), 60) for part in range(150)}
    return {
        "name": f"large-{number}",
        "namespace": "tenant",
        "uid": f"uid-{number}",
        "resourceVersion": "7",
        "annotations": annotations | more.pop("annotations", {}),
        "labels": labels | more.pop("labels", {}),
        "managedFields": [{"manager": noise(number, 100 << 10)}],
        **more,
    }


def vpc(number):
    return {
        "metadata": meta(number),
        "spec": {"networks": ["10.1.0.0/16"]},
        "status": {"identifier": "0000000004d2", "ready": True},
    }


def attachment(number):
    return {
        "metadata": meta(number, labels={f"{SCOPE}/vpc": "0000000004d2"}),
        "spec": {"vpc": {"name": "blue"}},
        "status": {"vpc": "tenant/blue", "identifier": "002a", "addresses": ["10.1.0.1/16"], "ready": True},
    }


def definition(number):
    return {"metadata": meta(number), "spec": {"config": json.dumps({"name": noise(number, 1 << 20)})}}


def pod(number):
    listed = ",".join(f"{noise((number, part), 50).lower()}" for part in range(4000))
    annotations = {ATTACHMENT: "web", NETWORKS: listed, "of-a-tenant/x": noise(number, 10 << 10)}
    return {
        "metadata": meta(number, labels={f"{SCOPE}/attachment": "web"}) | {"annotations": annotations},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": noise(number, 200 << 10)}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:05Z"},
    }


def service(number):
    return {"metadata": meta(number), "spec": {"selector": {"app": "web"}}}


def in_operator(cache):
    caches = Caches()
    return caches, getattr(caches, cache).set


def in_webhook(resource):
    cluster = Cluster(None)
    return cluster, lambda item: cluster.changed(resource, key_of(item), item)


def in_router(method):
    registrations = SimpleNamespace(set_identifiers=lambda *_: None, set_attachment=lambda *_: None)
    index = AttachmentIndex("default", registrations, RouterMetrics(CollectorRegistry()))
    return index, lambda item: getattr(index, method)(key_of(item), item)


def in_node(keep):
    kept = []
    return kept, lambda item: kept.append(keep(item))


@pytest.mark.parametrize(
    ("made", "keeping"),
    [
        pytest.param(vpc, lambda: in_operator("vpcs"), id="operator-VPC"),
        pytest.param(attachment, lambda: in_operator("attachments"), id="operator-VPCAttachment"),
        pytest.param(definition, lambda: in_operator("nads"), id="operator-definition"),
        pytest.param(pod, lambda: in_operator("pods"), id="operator-Pod"),
        pytest.param(service, lambda: in_operator("services"), id="operator-Service"),
        pytest.param(vpc, lambda: in_webhook(VPCS), id="webhook-VPC"),
        pytest.param(attachment, lambda: in_webhook(VPC_ATTACHMENTS), id="webhook-VPCAttachment"),
        pytest.param(vpc, lambda: in_router("set_vpc"), id="router-VPC"),
        pytest.param(attachment, lambda: in_router("set_attachment"), id="router-VPCAttachment"),
        pytest.param(attachment, lambda: in_node(entitlement.kept), id="node-carried"),
        pytest.param(attachment, lambda: in_node(fallback.compact), id="node-fallback"),
    ],
)
def test_a_process_keeps_little_of_it(made, keeping):
    keeper, add = keeping()
    bodies = [msgspec.json.encode(made(number)) for number in range(OBJECTS + 1)]
    add(msgspec.json.decode(bodies[0]))
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for body in bodies[1:]:
            add(msgspec.json.decode(body))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert keeper is not None
    assert (after - before) / OBJECTS < LARGEST
    assert min(map(len, bodies)) > 4 * LARGEST


def test_what_is_read_is_kept():
    caches = Caches()
    caches.attachments.set(attachment(1))
    caches.pods.set(pod(1))
    kept = caches.attachments.get(("tenant", "large-1")).metadata
    assert not kept.annotations
    assert kept.labels == attachment(1)["metadata"]["labels"], "rules select by them"
    assert caches.pods.get(("tenant", "large-1")).attachments == ("web",), (
        "Multus' long list counts as absent"
    )


def small(**metadata):
    return {"metadata": {"name": "a", **metadata}, "spec": {}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        pytest.param("annotations", {"x": "y" * MOST}, id="annotations"),
        pytest.param("labels", {f"l{n}": "v" * 60 for n in range(1000)}, id="labels"),
        pytest.param("finalizers", [f"example.com/{n:060}" for n in range(1000)], id="finalizers"),
    ],
)
def test_metadata_that_becomes_too_large_is_refused(part, value):
    large = small(**{part: value})
    with pytest.raises(
        Rejected, match=f"of which {part} .* at most 65536 are allowed: remove what"
    ) as caught:
        bounded(large, None)
    assert caught.value.field == "metadata"
    with pytest.raises(Rejected):
        bounded(large, small())
    bounded(large, large)  # stored before there was a bound: it can still be changed, and deleted
    bounded(small(annotations={"x": "y" * (MOST - 100)}), None)
    bounded(small(), large)

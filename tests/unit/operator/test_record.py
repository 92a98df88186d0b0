"""The fields of objects that the operator caches: all that it reads, and few others."""

import asyncio
import gc
import itertools
import json
import tracemalloc

import pytest

from galactic.errors import Rejected
from galactic.operator.allocator import Allocator, restore
from galactic.operator.attachment_counts import AttachmentCounts
from galactic.operator.reconcile import WORKERS
from galactic.operator.state import Caches

OBJECTS = 300
LARGEST = 4096
"""Bytes of an attachment with definition, pod and endpoint; models of them had 23,000."""


def meta(name, **more):
    return {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-of-{name}",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "x" * 500}],
        **more,
    }


def attachment(number, created="2026-01-01T00:00:00Z", **status):
    addresses = [f"10.0.{number >> 8}.{number & 255}/16", f"fd00::{number:x}/64"]
    kinds = ("Ready", "Accepted", "Granted", "Attached", "Routed")
    conditions = [{"type": kind, "status": "True", "reason": kind, "message": "well" * 5} for kind in kinds]
    written = {
        "ready": True,
        "vpc": "ns/blue",
        "identifier": f"{number:04x}",
        "addresses": addresses,
        "carriers": [{"pod": f"p{number}", "uid": f"{number:036x}", "node": "node-1"}],
        "configuration": {"vpc": "0000000004d2", "networks": ["10.0.0.0/16", "fd00::/64"]},
        "conditions": conditions,
        "endpoint": {
            "node": "node-1",
            "sid": f"2001:db8::{number:x}",
            "networks": addresses,
            "epoch": number,
        },
    }
    owners = [{"kind": "Pod", "name": f"p{number}", "uid": f"{number:036x}"}]
    return {
        "metadata": meta(f"a{number}", ownerReferences=owners, creationTimestamp=created),
        "spec": {"vpc": {"name": "blue"}},
        "status": written | status,
    }


def pod(number):
    annotations = {
        "k8s.v1alpha.galactic.datumapis.com/vpc-attachment": f"a{number}",
        "k8s.v1.cni.cncf.io/networks": f"a{number}@galactic0",
        "of-somebody-else": "y" * 500,
    }
    conditions = [
        {"type": "PodReadyToStartContainers", "status": "True"},
        {"type": "Ready", "status": "True"},
    ]
    return {
        "metadata": meta(f"p{number}", annotations=annotations),
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "z" * 300}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:05Z", "conditions": conditions},
    }


def nad(number):
    config = json.dumps({"attachment": f"ns/a{number}", "plugins": ["0123456789" * 45]})
    return {"metadata": meta(f"a{number}"), "spec": {"config": config}}


def segment(endpoints):
    listed = [
        {
            "vpc": "0000000004d2",
            "function": f"{number:04x}",
            "attachment": f"ns/a{number}",
            "sid": f"2001:db8::{number:x}",
            "networks": [f"10.0.{number >> 8}.{number & 255}/32", f"fd00::{number:x}/128"],
            "containerID": f"{number:064x}",
            "netns": f"/run/netns/cni-{number:036x}",
            "epoch": number,
        }
        for number in endpoints
    ]
    node = {"name": "node-1", "uid": "n", "resourceVersion": "1"}
    return {"metadata": node, "spec": {"prefix": "2001:db8:ff01:100::/56"}, "status": {"endpoints": listed}}


def test_what_is_read_again_is_what_was_read():
    caches = Caches()
    read = {}
    for cache, item in ((caches.attachments, attachment(1)), (caches.pods, pod(1)), (caches.nads, nad(1))):
        cache.changed = lambda key, _, new: read.update({key: new})
        cache.set(item)
        key = ("ns", item["metadata"]["name"])
        assert cache.get(key) == read[key]
        assert [*cache.items()] == [(key, read[key])]
    assert caches.pods.get(("ns", "p1")).place.started


def test_an_endpoint_keeps_the_fields_that_the_operator_reads():
    caches = Caches()
    caches.segments.set(segment([1]))
    kept = caches.segments.get(("", "node-1"))
    (endpoint,) = kept.status.endpoints
    assert (endpoint.attachment, endpoint.epoch, endpoint.function) == ("ns/a1", 1, "0001")
    assert endpoint.networks == ("10.0.0.1/32", "fd00::1/128")
    assert (endpoint.container_id, endpoint.netns) == ("", "")


def test_it_is_small():
    caches = Caches()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(OBJECTS):
            caches.attachments.set(attachment(number))
            caches.pods.set(pod(number))
            caches.nads.set(nad(number))
        caches.segments.set(segment(range(OBJECTS)))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / OBJECTS < LARGEST


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, ("", True, False, True), id="ready"),
        pytest.param({"endpoint": None}, ("", True, False, False), id="without-an-endpoint"),
        pytest.param(
            {"ready": False, "conditions": [{"type": "Ready", "status": "False", "reason": "Held"}]},
            ("Held", False, False, True),
            id="unready",
        ),
        pytest.param(
            {
                "conditions": [
                    {"type": "Ready", "status": "True"},
                    {"type": "Attached", "status": "False", "reason": "PodNotAttached"},
                ]
            },
            ("", True, True, True),
            id="unattached",
        ),
    ],
)
def test_the_tally_counts_each_attachment_once(status, expected):
    caches = Caches()
    caches.attachments.set(attachment(1))
    changed = attachment(1, **status)
    changed["metadata"]["resourceVersion"] = "8"
    caches.attachments.set(changed)
    ((mark, count),) = caches.attachment_counts
    assert count == 1
    assert (mark.reason, mark.ready, mark.unattached, mark.routed) == expected
    assert caches.attachment_counts.routed([("ns", "a1"), ("ns", "unknown")]) == expected[3]
    caches.attachments.remove(("ns", "a1"))
    assert [*caches.attachment_counts] == []


def test_an_attachment_that_fits_no_model_counts_by_its_problem_alone():
    counts = AttachmentCounts()
    counts.set(("ns", "a"), Rejected("broken", reason="Invalid"))
    ((mark, _),) = counts
    assert (mark.reason, mark.vpc, mark.ready) == ("Invalid", None, False)


async def test_what_changes_while_identifiers_are_restored_is_restored_as_well(monkeypatch):
    caches, allocator = Caches(), Allocator()
    vpc = {"identifier": "0000000004d2", "ready": True}
    caches.vpcs.set({"metadata": meta("blue"), "spec": {"networks": ["10.0.0.0/16"]}, "status": vpc})
    for number in range(1, 121):
        caches.attachments.set(attachment(number))
    original, turns = caches.attachments.get, []

    def get(key):
        turns.append(key)
        if len(turns) == 200:  # in the middle: another attachment appears
            caches.attachments.set(attachment(500))
        return original(key)

    monkeypatch.setattr(caches.attachments, "get", get)
    await restore(allocator, caches)
    functions = allocator.of(("ns", "blue")).functions
    assert functions.of(("ns", "a500")) == 500
    assert functions.of(("ns", "a120")) == 120


async def test_of_two_with_the_same_identifier_the_older_one_keeps_it():
    caches, allocator = Caches(), Allocator()
    vpc = {"identifier": "0000000004d2", "ready": True}
    caches.vpcs.set({"metadata": meta("blue"), "spec": {"networks": ["10.0.0.0/16"]}, "status": vpc})
    caches.attachments.set(attachment(1, created="2026-02-01T00:00:00Z", identifier="0007"))
    caches.attachments.set(attachment(2, created="2026-01-01T00:00:00Z", identifier="0007"))
    await restore(allocator, caches)
    functions = allocator.of(("ns", "blue")).functions
    assert (functions.of(("ns", "a1")), functions.of(("ns", "a2"))) == (None, 7)


async def test_objects_with_nothing_to_write_leave_others_their_turns(cluster):
    """After a start all of them are such: thousands in a row would stop the Lease."""
    cluster.vpc("v", "10.1.0.0/16")
    for number in range(100):
        cluster.attachment(f"a{number}", "v")
    await cluster.settled()
    queue = cluster.reconciler.queue
    for key in cluster.reconciler.caches.attachments:
        queue.add(("attachment", key))
    left = [len(queue)]
    while queue.busy:
        await asyncio.sleep(0)
        left.append(len(queue))
    assert max(before - after for before, after in itertools.pairwise(left)) <= WORKERS

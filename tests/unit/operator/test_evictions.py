"""Pods without their VPC interface are evicted where that is asked for, as far as others allow it, one by one."""

import asyncio
import itertools
from typing import Any

import pytest

from galactic.errors import NotYet, Unreachable
from galactic.kube.resources import EVENTS, NODE_SEGMENTS, PODS, VPC_ATTACHMENTS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL, GENERATED, VPC_ANNOTATION
from galactic.operator.context import Rules
from galactic.operator.evictions import EVERY_SECONDS

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": True}
BUDGET = NotYet(
    "Cannot evict pod as it would violate the pod's disruption budget.", reason="DisruptionBudget"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galactic.operator.triggers.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("galactic.operator.evictions.AGAIN_SECONDS", 0.05)


async def started(clusters: Any, *, evict: bool = True) -> Any:
    cluster = clusters(Rules(unattached_after=0.05, router_outside=True, evict_unattached=evict))
    await cluster.start()
    cluster.vpc("v")
    status = {"endpoints": [], "conditions": [{"type": "Ready", "status": "True"}]}
    body = {"metadata": {"name": "node-1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}, "status": status}
    cluster.api.put(NODE_SEGMENTS, body)
    return cluster


def pod(cluster: Any, name: str, *owners: dict[str, Any]) -> None:
    """It runs without its interface: its node reports nothing."""
    annotations = {ATTACHMENT_ANNOTATION: f"{name}-own", VPC_ANNOTATION: "v"}
    meta = {"name": name, "annotations": annotations, "labels": {ATTACHMENT_LABEL: GENERATED}}
    body = {"metadata": meta | {"ownerReferences": list(owners)}, "spec": {"nodeName": "node-1"}}
    cluster.api.put(PODS, body | {"status": {"phase": "Running"}}, "default")


def asked(cluster: Any) -> list[str]:
    return [name for verb, _, name in cluster.api.requests if verb == "evict"]


def reasons(cluster: Any, name: str) -> set[str]:
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return {event["reason"] for event in events if event["involvedObject"]["name"] == name}


def counted(cluster: Any) -> dict[str, float]:
    counter = cluster.reconciler._metrics.evictions
    return {result: counter.labels(result)._value.get() for result in ("evicted", "blocked", "failed")}


async def test_one_with_an_owner_is_evicted_and_one_without_is_not(clusters: Any) -> None:
    cluster = await started(clusters)
    pod(cluster, "owned", OWNER)
    pod(cluster, "bare")
    await cluster.until(lambda: cluster.api.stored(PODS, "owned", "default") is None)
    await cluster.until(lambda: cluster.condition("Attached", "bare-own"))
    await cluster.settled()
    await asyncio.sleep(10 * EVERY_SECONDS)
    assert asked(cluster) == ["owned"]
    assert {"PodNotAttached", "EvictedUnattached"} <= reasons(cluster, "owned")
    assert reasons(cluster, "bare") == {"PodNotAttached"}
    assert counted(cluster) == {"evicted": 1, "blocked": 0, "failed": 0}
    await cluster.stop()


async def test_nothing_is_evicted_unless_that_is_asked_for(clusters: Any) -> None:
    cluster = await started(clusters, evict=False)
    pod(cluster, "owned", OWNER)
    await cluster.until(lambda: "PodNotAttached" in reasons(cluster, "owned"))
    await cluster.settled()
    await asyncio.sleep(10 * EVERY_SECONDS)
    assert asked(cluster) == []
    await cluster.stop()


async def test_several_are_evicted_one_by_one(clusters: Any) -> None:
    cluster = await started(clusters)
    moments: list[float] = []

    def note(verb: str, *_: Any) -> None:
        if verb == "evict":
            moments.append(asyncio.get_running_loop().time())

    cluster.api.fail = note
    for number in range(4):
        pod(cluster, f"web-{number}", OWNER)
    async with asyncio.timeout(60):
        while len(moments) < 4:
            await asyncio.sleep(0.1)
    assert all(later - earlier >= EVERY_SECONDS for earlier, later in itertools.pairwise(moments))
    await cluster.stop()


@pytest.mark.parametrize(
    ("error", "result", "event"),
    [
        pytest.param(BUDGET, "blocked", "EvictionBlocked", id="a-disruption-budget"),
        pytest.param(Unreachable("kube-apiserver", "no"), "failed", "PodNotAttached", id="no-answer"),
    ],
)
async def test_what_may_not_be_evicted_now_is_evicted_later(
    clusters: Any, error: Exception, result: str, event: str
) -> None:
    cluster = await started(clusters)
    cluster.api.fail = lambda verb, *_: error if verb == "evict" else None
    pod(cluster, "web", OWNER)
    await cluster.until(lambda: asked(cluster))
    await cluster.until(lambda: counted(cluster)[result] == 1)
    await cluster.settled()
    assert event in reasons(cluster, "web")
    assert cluster.api.stored(PODS, "web", "default")
    cluster.api.fail = lambda *_: None
    await cluster.until(lambda: cluster.api.stored(PODS, "web", "default") is None)
    await cluster.stop()


async def test_one_that_is_attached_meanwhile_stays(clusters: Any) -> None:
    cluster = await started(clusters)
    cluster.api.fail = lambda verb, *_: BUDGET if verb == "evict" else None
    pod(cluster, "web", OWNER)
    await cluster.until(lambda: asked(cluster))
    place = {
        "vpc": "0" * 11 + "1",
        "function": "0001",
        "attachment": "default/web-own",
        "sid": "::1",
        "epoch": 1,
    }
    cluster.api.change(NODE_SEGMENTS, "node-1", {"status": {"endpoints": [place]}}, subresource="status")
    cluster.api.fail = lambda *_: None
    before = len(asked(cluster))
    await cluster.until(lambda: not len(cluster.reconciler.evictions.queue))
    assert len(asked(cluster)) == before
    assert cluster.api.stored(PODS, "web", "default")
    await cluster.stop()


async def test_nothing_is_evicted_while_multus_is_away(clusters: Any) -> None:
    """Another pod would fare no better."""
    cluster = await started(clusters)
    conditions = [{"type": "Ready", "status": "True"}, {"type": "MultusConfigured", "status": "False"}]
    cluster.api.change(NODE_SEGMENTS, "node-1", {"status": {"conditions": conditions}}, subresource="status")
    pod(cluster, "web", OWNER)
    await cluster.until(lambda: "PodNotAttached" in reasons(cluster, "web"))
    await asyncio.sleep(10 * EVERY_SECONDS)
    assert asked(cluster) == []
    conditions[1]["status"] = "True"
    cluster.api.change(NODE_SEGMENTS, "node-1", {"status": {"conditions": conditions}}, subresource="status")
    await cluster.until(lambda: asked(cluster) == ["web"])
    await cluster.stop()


async def test_a_pod_that_the_router_has_as_attached_is_not_evicted(clusters: Any) -> None:
    """A node that does not reach the API server has registered its attachments with the router, over MQTT."""
    cluster = await started(clusters)
    cluster.attachment("a")
    await cluster.settled()
    endpoint = {"status": {"endpoint": {"node": "node-1", "sid": "::1"}}}
    cluster.api.change(VPC_ATTACHMENTS, "a", endpoint, "default", subresource="status")
    meta = {"name": "web", "annotations": {ATTACHMENT_ANNOTATION: "a"}, "labels": {ATTACHMENT_LABEL: "a"}}
    body = {"metadata": meta | {"ownerReferences": [OWNER]}, "spec": {"nodeName": "node-1"}}
    cluster.api.put(PODS, body | {"status": {"phase": "Running"}}, "default")
    await cluster.until(lambda: cluster.condition("Attached", "a"))
    await asyncio.sleep(10 * EVERY_SECONDS)
    assert asked(cluster) == []
    elsewhere = {"status": {"endpoint": {"node": "node-2", "sid": "::1"}}}
    cluster.api.change(VPC_ATTACHMENTS, "a", elsewhere, "default", subresource="status")
    await cluster.until(lambda: asked(cluster) == ["web"])
    await cluster.stop()

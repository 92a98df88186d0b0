"""A pod that runs without its VPC interface is reported after a grace, on its attachment, on itself, in a metric."""

from typing import Any

import pytest
from clockwork import SetClock

from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.kube.resources import EVENTS, NODE_SEGMENTS, PODS, VPC_ATTACHMENTS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL, GENERATED, VPC_ANNOTATION
from galactic.operator.attached import LISTED, Interfaces, changed
from galactic.operator.context import Rules
from galactic.operator.gauges import unattached
from galactic.operator.objects import agent
from galactic.operator.state import Caches

KEY = ("blue", "web")
GRACE = 30.0


def endpoint(attachment: str) -> dict[str, Any]:
    return {"vpc": "0" * 11 + "1", "function": "0001", "attachment": attachment, "sid": "::1", "epoch": 1}


def segment(*attachments: str) -> dict[str, Any]:
    status = {
        "endpoints": [endpoint(name) for name in attachments],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return {"metadata": {"name": "node-1"}, "spec": {"prefix": "::/56"}, "status": status}


def pod(name: str = "web", phase: str = "Running", *, node: str = "node-1", **more: Any) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "blue",
        "uid": f"uid-{name}",
        "annotations": {ATTACHMENT_ANNOTATION: "web"},
    }
    return {"metadata": meta | more, "spec": {"nodeName": node}, "status": {"phase": phase}}


def caches(
    pods: list[dict[str, Any]],
    segments: dict[str, dict[str, Any]],
    agents: dict[str, bool] | None = None,
) -> Caches:
    """The cached objects; ``agents``: whether the node controller's Pod of a node is ready."""
    made = Caches()
    for segment in pods:
        made.pods.set(segment)
    for node, segment in segments.items():
        made.segments.set(segment | {"metadata": {"name": node}})
    for node, ready in (agents or {}).items():
        conditions = [{"type": "Ready", "status": str(ready)}]
        made.agents.set(
            {"metadata": {"name": node}, "spec": {"nodeName": node}, "status": {"conditions": conditions}}
        )
    return made


HERE = {"node-1": segment()}
ATTACHED = {"node-1": segment("blue/web")}
LEAVING = {"deletionTimestamp": "2027-01-15T08:00:00Z"}


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        pytest.param(caches([pod()], ATTACHED), "True", id="attached"),
        pytest.param(caches([pod()], HERE), "False", id="it-runs-without"),
        pytest.param(caches([pod(phase="Pending")], HERE), None, id="it-starts"),
        pytest.param(caches([pod(phase="Pending")], ATTACHED), "True", id="it-starts-and-is-attached"),
        pytest.param(caches([], ATTACHED), None, id="there-is-no-pod"),
        pytest.param(caches([pod(phase="Succeeded")], HERE), None, id="it-has-ended"),
        pytest.param(caches([pod(**LEAVING)], HERE), None, id="it-is-leaving"),
        pytest.param(caches([pod(node="")], HERE), None, id="not-scheduled"),
        pytest.param(caches([pod(node="node-2")], ATTACHED), None, id="on-a-node-without-a-segment"),
        pytest.param(caches([pod()], HERE, {"node-1": True}), "False", id="its-agent-is-at-work"),
        pytest.param(caches([pod()], HERE, {"node-1": False}), "keep", id="its-agent-is-away"),
        pytest.param(caches([pod()], HERE, {"node-2": True}), "keep", id="its-agent-is-gone"),
        pytest.param(
            caches([pod()], ATTACHED, {"node-1": False}), "True", id="attached-and-its-agent-is-away"
        ),
        pytest.param(
            caches([pod("a"), pod("b", node="node-2")], ATTACHED | {"node-2": segment()}),
            "False",
            id="one-of-two",
        ),
    ],
)
def test_what_the_condition_says(seen: Caches, status: str | None) -> None:
    clock = SetClock(100.0)
    interfaces = Interfaces(GRACE, clock)
    before = interfaces.check(seen, KEY)
    assert before.state is None or before.state.status == "True", "a grace at first"
    clock.now += GRACE
    check = interfaces.check(seen, KEY)
    wanted = "keep" if not check.decided else check.state.status if check.state else None
    assert wanted == status
    assert bool(check.lacking) is (status == "False")
    if status == "False":
        assert not before.decided
        assert before.again == GRACE


def test_the_grace_begins_again_with_another_pod_and_after_an_attachment() -> None:
    clock = SetClock(100.0)
    interfaces = Interfaces(GRACE, clock)
    steps = [
        (caches([pod()], HERE), False),
        (caches([pod()], HERE), True),
        (caches([pod(uid="another")], HERE), False),
        (caches([pod(uid="another")], HERE), True),
        (caches([pod(uid="another")], ATTACHED), False),
        (caches([pod(uid="another")], HERE), False),  # a sandbox that was made again
        (caches([pod(uid="another")], HERE), True),
        (caches([pod(uid="another")], HERE, {"node-1": False}), False),
        (caches([pod(uid="another")], HERE, {"node-1": True}), False),
    ]
    for number, (seen, accused) in enumerate(steps):
        assert bool(interfaces.check(seen, KEY).lacking) is accused, number
        clock.now += GRACE


@pytest.mark.parametrize(
    ("pods", "status"),
    [
        (
            [pod()],
            (
                "pod web runs on node-1 without the VPC interface: Multus did not call Galactic when the sandbox "
                "was made; kubectl delete pod -n blue web: then make it again"
            ),
        ),
        (
            [pod(ownerReferences=[{"kind": "ReplicaSet", "name": "web", "controller": True}])],
            (
                "pod web runs on node-1 without the VPC interface: Multus did not call Galactic when the sandbox "
                "was made; kubectl delete pod -n blue web: its owner makes another one"
            ),
        ),
        (
            [pod(f"p{number}") for number in range(LISTED + 1)],
            "pods p0, p1, p2, p3, p4 run on node-1 without",
        ),
    ],
)
def test_the_message_has_the_pod_and_the_remedy(pods: list[dict[str, Any]], status: str) -> None:
    clock = SetClock(100.0)
    interfaces = Interfaces(GRACE, clock)
    interfaces.check(caches(pods, HERE), KEY)
    clock.now += GRACE
    state = interfaces.check(caches(pods, HERE), KEY).state
    assert state
    assert (state.status, state.reason) == ("False", "PodNotAttached")
    assert state.message.startswith(status)


def test_what_a_node_begins_and_ceases_to_report() -> None:
    web, db = (parse(NodeSegment, segment(name)) for name in ("blue/web", "blue/db"))
    assert changed(None, web) == {KEY}
    assert changed(web, db) == {KEY, ("blue", "db")}
    assert changed(web, None) == {KEY}
    assert changed(web, web) == set()


@pytest.mark.parametrize(
    ("conditions", "leaving", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], False, True),
        ([{"type": "Ready", "status": "False"}], False, False),
        ([{"type": "Ready", "status": "True"}], True, False),
        ([], False, False),
    ],
)
def test_an_agent_is_at_work(conditions: list[dict[str, str]], leaving: bool, ready: bool) -> None:
    meta = {"name": "galactic-node-x"} | (LEAVING if leaving else {})
    pod_object = {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": {"conditions": conditions}}
    assert agent(pod_object).ready is ready


@pytest.fixture(autouse=True)
def no_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """No router is waited for."""
    monkeypatch.setattr("galactic.operator.triggers.PATIENCE_SECONDS", 0.01)


async def started(clusters: Any, **rules: Any) -> Any:
    cluster = clusters(Rules(unattached_after=0.05, router_outside=True, **rules))
    await cluster.start()
    cluster.vpc("v")
    status = {"endpoints": [], "conditions": [{"type": "Ready", "status": "True"}]}
    body = {"metadata": {"name": "node-1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}, "status": status}
    cluster.api.put(NODE_SEGMENTS, body)
    return cluster


def runs(cluster: Any, name: str, **more: Any) -> None:
    """A pod with an attachment of its own, as the webhook leaves it and the kubelet runs it."""
    annotations = {ATTACHMENT_ANNOTATION: f"{name}-own", VPC_ANNOTATION: "v"}
    meta = {"name": name, "annotations": annotations, "labels": {ATTACHMENT_LABEL: GENERATED}} | more
    body = {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}}
    cluster.api.put(PODS, body, "default")


def report(cluster: Any, *names: str) -> None:
    """The node reports these attachments."""
    patch = {"status": {"endpoints": [endpoint(f"default/{name}") for name in names]}}
    cluster.api.change(NODE_SEGMENTS, "node-1", patch, subresource="status")


def messages(cluster: Any, kind: str) -> list[str]:
    """The objects of a kind that an Event calls not attached."""
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return [
        event["involvedObject"]["name"]
        for event in events
        if event["involvedObject"]["kind"] == kind
        and (event["type"], event["reason"]) == ("Warning", "PodNotAttached")
    ]


async def test_the_story_of_a_pod(clusters: Any) -> None:
    """It is found, attached after all, and lost; Events and metric follow the condition."""
    cluster = await started(clusters)
    runs(cluster, "web")
    await cluster.settled()
    condition = cluster.condition("Attached", "web-own")
    assert (condition["status"], condition["reason"]) == ("False", "PodNotAttached")
    assert "kubectl delete pod -n default web" in condition["message"]
    assert messages(cluster, "Pod") == ["web"]
    assert messages(cluster, "VPCAttachment") == ["web-own"]
    assert unattached(cluster.reconciler.caches) == 1

    report(cluster, "web-own")
    await cluster.until(lambda: cluster.condition("Attached", "web-own")["status"] == "True")
    assert unattached(cluster.reconciler.caches) == 0
    await cluster.settled()

    report(cluster)
    await cluster.until(lambda: cluster.condition("Attached", "web-own")["status"] == "False")
    await cluster.settled()
    await cluster.stop()


async def test_nothing_is_written_while_nothing_changes(clusters: Any) -> None:
    cluster = await started(clusters)
    runs(cluster, "web")
    await cluster.settled()
    cluster.api.requests.clear()
    await cluster.reconciler.resync()
    await cluster.settled()
    assert [request for request in cluster.api.requests if request[0] != "list"] == []
    await cluster.stop()


async def test_an_attachment_without_a_pod_has_no_condition(clusters: Any) -> None:
    cluster = await started(clusters)
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.condition("Attached", "a") is None
    annotations = {ATTACHMENT_ANNOTATION: "a"}
    meta = {"name": "web", "annotations": annotations, "labels": {ATTACHMENT_LABEL: "a"}}
    body = {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}}
    cluster.api.put(PODS, body, "default")
    report(cluster, "a")
    await cluster.settled()
    assert cluster.condition("Attached", "a")["status"] == "True"
    cluster.api.remove(PODS, "web", "default")
    await cluster.settled()
    assert cluster.condition("Attached", "a") is None
    await cluster.stop()


async def test_an_agent_that_is_away_accuses_no_pod(clusters: Any) -> None:
    cluster = await started(clusters)
    labels = {"app.kubernetes.io/name": "galactic", "app.kubernetes.io/component": "node"}
    agent = {"metadata": {"name": "galactic-node-x", "labels": labels}, "spec": {"nodeName": "node-1"}}
    status = {"conditions": [{"type": "Ready", "status": "False"}]}
    cluster.api.put(PODS, agent | {"status": status}, "galactic-system")
    runs(cluster, "web")
    await cluster.until(lambda: cluster.api.stored(VPC_ATTACHMENTS, "web-own", "default"))
    for _ in range(20):
        await cluster.reconciler.resync()
    assert cluster.condition("Attached", "web-own") is None
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.api.change(PODS, "galactic-node-x", ready, "galactic-system", subresource="status")
    await cluster.until(lambda: cluster.condition("Attached", "web-own"))
    assert cluster.condition("Attached", "web-own")["status"] == "False"
    await cluster.stop()

"""Which Pods run without the VPC interface that they ask for."""

from typing import Any

import pytest

from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.kube.pods import lacks_interface, owned, placement

NAME = "blue/web"


def pod(phase: str = "Running", network: str = "", **fields: Any) -> dict[str, Any]:
    condition = {
        "type": "PodReadyToStartContainers",
        "status": network,
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }
    status = {
        "phase": phase,
        "startTime": "2027-01-15T07:00:00Z",
        "conditions": [condition] if network else [],
    }
    return {"metadata": {"name": "web"}, "spec": {"nodeName": "node-1"} | fields, "status": status}


def segment(*attachments: str, reported: bool = True) -> NodeSegment:
    endpoints = [
        {"vpc": "0" * 11 + "1", "function": "0001", "attachment": name, "sid": "::1"} for name in attachments
    ]
    conditions = [{"type": "Ready", "status": "True"}] if reported else []
    body = {"metadata": {"name": "node-1"}, "spec": {"prefix": "::/56"}}
    return parse(NodeSegment, body | {"status": {"endpoints": endpoints, "conditions": conditions}})


@pytest.mark.parametrize(
    ("running", "segment", "lacks"),
    [
        pytest.param(pod(), segment(), True, id="it-runs-and-is-not-reported"),
        pytest.param(pod(), segment("blue/db", "green/web"), True, id="others-are-reported"),
        pytest.param(pod(), segment("blue/db", NAME), False, id="it-is-reported"),
        pytest.param(pod("Pending"), segment(), False, id="an-older-kubelet-and-no-container"),
        pytest.param(pod("Pending", "True"), segment(), True, id="an-init-container-waits"),
        pytest.param(pod("Pending", "False"), segment(), False, id="its-sandbox-is-not-made"),
        pytest.param(pod("Running", "False"), segment(), False, id="its-sandbox-is-made-again"),
        pytest.param(pod("Failed", "True"), segment(), False, id="it-failed"),
        pytest.param(pod("Succeeded"), segment(), False, id="it-has-ended"),
        pytest.param(pod(hostNetwork=True), segment(), False, id="on-the-network-of-its-node"),
        pytest.param(pod(), segment(reported=False), False, id="the-node-never-reported"),
        pytest.param(pod(), None, False, id="the-node-has-no-segment"),
    ],
)
def test_who_runs_without_an_interface(
    running: dict[str, Any], segment: NodeSegment | None, lacks: bool
) -> None:
    assert lacks_interface(placement(running), NAME, segment) is lacks


def test_a_sandbox_is_as_old_as_its_network() -> None:
    assert placement(pod()).since == placement(pod("Running", "True")).since - 3600
    assert placement({"metadata": {"name": "web"}}).since == 0.0


@pytest.mark.parametrize(
    ("owners", "replaced"),
    [
        ([], False),
        ([{"kind": "ReplicaSet", "controller": True}], True),
        ([{"kind": "Config"}, {"kind": "Job", "controller": True}], True),
        ([{"kind": "Config", "controller": False}], False),
    ],
)
def test_who_is_replaced(owners: list[dict[str, Any]], replaced: bool) -> None:
    assert owned({"metadata": {"name": "web", "ownerReferences": owners}}) is replaced

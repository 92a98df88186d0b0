"""A pod that started while Multus was away is found by the operator: on its attachment, on the Pod, in a metric."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from story import ANSWER_SECONDS, Tenant, eventually, taints, tenancy

from galactic.names import NOT_READY_TAINT
from galactic_lab.cluster import Lab
from galactic_lab.state import METRICS_PORT


@pytest.fixture
def blue(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    with tenancy(lab, request.node.name) as make:
        yield make("blue")


def attached(tenant: Tenant, name: str) -> dict[str, Any]:
    """The condition Attached; empty while there is none."""
    conditions = tenant.attachment(name).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Attached"), {})


def unattached(lab: Lab) -> int:
    """The value of the operator's metric."""
    url = f"http://[::1]:{METRICS_PORT}/metrics"
    ask = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=60).read().decode())"
    metrics = lab.run("control", [sys.executable, "-ISEc", ask]).stdout
    line = re.search(r"^galactic_operator_pods_unattached (\S+)", metrics, re.MULTILINE)
    assert line
    return int(float(line[1]))


def status(lab: Lab) -> str:
    command = [Path(sys.executable).with_name("galactic"), "status", "--kubeconfig", str(lab.kubeconfig)]
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False).stdout


def events(lab: Lab, tenant: Tenant, kind: str) -> list[str]:
    """The names of the objects of a kind with an Event PodNotAttached."""
    selector = f"--field-selector=reason=PodNotAttached,involvedObject.kind={kind}"
    return [
        event["involvedObject"]["name"]
        for event in lab.get("events", "-n", tenant.namespace, selector)["items"]
    ]


def test_a_pod_that_started_without_multus(lab: Lab, blue: Tenant) -> None:
    """Its node has another pod, which is attached and stays so."""
    blue.make_vpc()
    blue.attach("one", "10.1.1.1/24")
    blue.attach("two", "10.1.1.2/24")
    assert not attached(blue, "one"), "there is no pod"
    blue.pod("two", "node-1")
    eventually("two is attached", lambda: attached(blue, "two").get("status") == "True")

    lab.remove_multus("node-1")
    try:
        blue.pod("one", "node-1")
    finally:
        lab.restore_multus("node-1")
    condition = eventually("one is found", lambda: attached(blue, "one"))
    assert (condition["status"], condition["reason"]) == ("False", "PodNotAttached")
    assert f"kubectl delete pod -n {blue.namespace} one" in condition["message"]
    assert attached(blue, "two")["status"] == "True"
    for kind in ("Pod", "VPCAttachment"):
        eventually(f"an Event on the {kind}", lambda k=kind: events(lab, blue, k) == ["one"])
    eventually("it is counted", lambda: unattached(lab) == 1)
    eventually("`galactic status` finds it", lambda: "PodNotAttached" in status(lab))

    blue.delete_pod("one")
    eventually("without a pod there is no condition", lambda: not attached(blue, "one"))
    blue.pod("one", "node-1")
    eventually("one is attached", lambda: attached(blue, "one").get("status") == "True")
    assert unattached(lab) == 0
    blue.reaches("two", "10.1.1.1")


def test_a_closed_node_opens_with_multus(lab: Lab, blue: Tenant) -> None:
    """Its taint stays while Multus is away, though its controller serves, and goes when Multus is back."""
    lab.remove_multus("node-2")
    try:
        eventually("its node reports that", lambda: configured(lab, "node-2") == "False")
        lab.kubectl("taint", "node", "node-2", f"{NOT_READY_TAINT}=:NoSchedule")
        blue.settle({"one": ("node-1", "10.1.1.1/24")})  # meanwhile the operator does its work
        assert NOT_READY_TAINT in taints(lab, "node-2")
    finally:
        lab.restore_multus("node-2")
    eventually("the node is open", lambda: NOT_READY_TAINT not in taints(lab, "node-2"))
    assert configured(lab, "node-2") == "True"
    blue.attach("two", "10.1.1.2/24")
    blue.pod("two", "node-2")
    blue.reaches("two", "10.1.1.1")


def configured(lab: Lab, node: str) -> str:
    """The status of the condition MultusConfigured."""
    conditions = lab.get("nodesegment", node)["status"]["conditions"]
    return next(
        (str(condition["status"]) for condition in conditions if condition["type"] == "MultusConfigured"), ""
    )

"""One kubectl apply of VPCs, attachments, a Deployment and a bare Pod: whatever has to wait for something converges."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from story import API, eventually

from galactic_lab.cluster import Lab

ATTACHMENT = "k8s.v1alpha.galactic.datumapis.com/vpc-attachment"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
CONTAINERS = [{"name": "main", "image": "nicolaka/netshoot:v0.13"}]


def vpc(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "VPC", "metadata": meta, "spec": {"networks": ["10.1.1.0/24"], **spec}}


def attachment(name: str, namespace: str, /, **reference: str) -> dict[str, Any]:
    reference = {"apiVersion": API, "kind": "VPC", **reference}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "VPCAttachment", "metadata": meta, "spec": {"vpc": reference}}


def deployment(name: str, namespace: str, attachment: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {ATTACHMENT: attachment}},
                "spec": {"containers": CONTAINERS, "terminationGracePeriodSeconds": 0},
            },
        },
    }


def pod(name: str, namespace: str, attachment: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "annotations": {ATTACHMENT: attachment}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": CONTAINERS}}


def test_one_go(control_plane: Lab, spaces: Callable[..., tuple[str, ...]]) -> None:
    lab = control_plane
    net, apps = spaces("one-go-net", "one-go-apps")
    things = [
        # The Deployment first: its pods are refused until what follows is there.
        deployment("early", net, "early"),
        vpc("blue", net, allowedNamespaces={"from": "All"}),
        attachment("early", net, name="blue"),
        attachment("bare", net, name="blue"),
        attachment("abroad", apps, name="blue", namespace=net),
        pod("bare", net, "bare"),
        pod("abroad", apps, "abroad"),
    ]
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))
    for name, namespace in (("bare", net), ("abroad", apps)):
        made = lab.get("pod", name, "-n", namespace)["metadata"]
        assert made["annotations"][NETWORKS] == f"{name}@galactic0"

    def early() -> Any:
        return lab.get("pods", "-n", net, "-l", "app=early")["items"]

    (one,) = eventually("the Deployment has its pod", early)
    assert one["metadata"]["annotations"][NETWORKS] == "early@galactic0"


SLOW_SECONDS = 6.0
"""For how long the operator does nothing while the pod is asked for, kubectl's start included."""


def test_a_slow_operator_delays_a_pod_and_refuses_none(
    control_plane: Lab, spaces: Callable[..., tuple[str, ...]]
) -> None:
    lab = control_plane
    (net,) = spaces("one-go-slow")
    things = [vpc("blue", net), attachment("late", net, name="blue")]
    kubectl = [str(lab.state.tools / "kubectl"), f"--kubeconfig={lab.kubeconfig}", "apply", "-f", "-"]
    lab.kill("operator", signal.SIGSTOP)
    try:
        lab.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
        )
        applying = subprocess.Popen(
            kubectl, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert applying.stdin is not None
        applying.stdin.write(json.dumps(pod("late", net, "late")))
        applying.stdin.close()
        time.sleep(SLOW_SECONDS)
        assert applying.poll() is None, applying.stdout and applying.stdout.read()
    finally:
        lab.kill("operator", signal.SIGCONT)
    assert applying.stdout is not None
    output = applying.stdout.read()
    assert applying.wait() == 0, output
    assert lab.get("pod", "late", "-n", net)["metadata"]["annotations"][NETWORKS] == "late@galactic0"

"""What kubelet, containerd and Kubernetes' controllers do with pods: Galactic keeps up with it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from story import ANSWER_SECONDS, POD_SECONDS, Tenant, eventually, tenancy

from galactic.lab.cluster import Lab
from galactic.lab.runtime.selections import STATUS
from galactic.lab.state import checkout

VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"
IMAGE = "nicolaka/netshoot:v0.13"
GALACTIC = Path(sys.executable).with_name("galactic")


@pytest.fixture
def blue(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    with tenancy(lab, request.node.name) as make:
        yield make("blue")


def inside(lab: Lab, namespace: str, pod: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command in the pod's container, as kubectl exec runs it."""
    command = [str(lab.assets.kubectl), f"--kubeconfig={lab.kubeconfig}", "exec", "-n", namespace, pod, "--"]
    return subprocess.run(
        [*command, *argv], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )


def pings(lab: Lab, namespace: str, pod: str, address: str) -> bool:
    return inside(lab, namespace, pod, "ping", "-c", "1", "-W", "2", address).returncode == 0


def pods(lab: Lab, tenant: Tenant, selector: str) -> list[dict[str, Any]]:
    found = lab.get("pods", "-n", tenant.namespace, "-l", selector)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def status(lab: Lab) -> str:
    variables = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    command = [str(GALACTIC), "status"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=ANSWER_SECONDS, env=variables, check=False
    ).stdout


def test_the_examples(lab: Lab) -> None:
    """Two tenants with equal addresses: whom they reach, by commands inside of their containers."""
    lab.kubectl("apply", "-f", str(checkout() / "examples"))
    for namespace in ("blue", "green"):
        timeout = f"--timeout={POD_SECONDS}s"
        lab.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", timeout)
    for pod, address in (
        ("web", "10.1.1.2"),
        ("web", "2001:10:1:1::2"),
        ("web", "10.1.1.3"),
        ("api", "192.168.3.1"),
    ):
        eventually(f"{pod} reaches {address}", lambda p=pod, a=address: pings(lab, "blue", p, a))
    assert not pings(lab, "green", "one", "10.1.1.3"), "db is blue's"
    assert not pings(lab, "blue", "web", "10.1.1.4"), "three is green's"

    annotations = lab.get("pod", "-n", "blue", "web")["metadata"]["annotations"]
    default, attached = json.loads(annotations[STATUS])
    assert (default["interface"], default["default"]) == ("eth0", True)
    assert (attached["name"], attached["interface"]) == ("blue/web", "galactic0")
    assert attached["ips"] == ["10.1.1.1", "2001:10:1:1::1"]
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(lab))
    lab.kubectl("delete", "-f", str(checkout() / "examples"), f"--timeout={POD_SECONDS}s")


def test_a_deployment_rolls(lab: Lab, blue: Tenant) -> None:
    """Each replica has an attachment of its own; those of replaced pods go with them."""
    blue.make_vpc()
    blue.apply(workload("Deployment", "web", replicas=2))
    rolled(lab, blue, "deployment/web")
    before = attachments(lab, blue)
    assert len(before) == 2
    lab.kubectl("rollout", "restart", "-n", blue.namespace, "deployment/web")
    rolled(lab, blue, "deployment/web")
    after = eventually("two new ones", lambda: len(attachments(lab, blue)) == 2 and attachments(lab, blue))
    assert not after & before
    one, two = pods(lab, blue, "app=web")
    eventually("they reach each other", lambda: pings(lab, blue.namespace, *between(lab, blue, one, two)))


def test_a_job_completes(lab: Lab, blue: Tenant) -> None:
    blue.make_vpc()
    job = workload("Job", "once", command=["ip", "address", "show", "dev", "galactic0"])
    blue.apply(job)
    lab.kubectl("wait", "-n", blue.namespace, "--for=condition=Complete", "job/once", "--timeout=300s")
    assert "inet 10.1.1." in lab.kubectl("logs", "-n", blue.namespace, "job/once")
    lab.kubectl("delete", "job", "-n", blue.namespace, "once", f"--timeout={POD_SECONDS}s")
    eventually("its attachment is gone", lambda: not attachments(lab, blue))


def test_kubelet_and_containerd_restart_under_pods(lab: Lab, blue: Tenant) -> None:
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.reaches("one", "10.1.1.2")
    for program in ("kubelet", "containerd"):
        before = lab.state.pid("node-1", program).read_text()
        lab.kill(f"{program}/node-1")
        eventually(f"another {program}", lambda p=program, b=before: restarted(lab, "node-1", p, b))
        assert blue.ping("one", "10.1.1.2", count=3)
    blue.delete_pod("one")
    blue.pod("one", "node-1")
    blue.reaches("one", "10.1.1.2")


def test_a_sandbox_is_made_again(lab: Lab, blue: Tenant) -> None:
    """Its process died: kubelet makes another one for the same pod, which has its interface and address again."""
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.reaches("two", "10.1.1.1")
    before = blue.attachment("one")["status"]["endpoint"]["epoch"]
    uid = lab.get("pod", "-n", blue.namespace, "one")["metadata"]["uid"]
    script = (
        f"for f in $(find /sys/fs/cgroup -path '*pod{uid}/*' -name cgroup.procs); do kill -9 $(cat $f); done"
    )
    lab.run("kernel", ["sh", "-c", script], check=False)
    newer = lambda: (blue.endpoint("one") or {"epoch": 0})["epoch"] > before  # noqa: E731
    eventually("it is attached anew", newer, seconds=POD_SECONDS)
    blue.forget_namespaces()
    assert lab.get("pod", "-n", blue.namespace, "one")["metadata"]["uid"] == uid
    blue.reaches("two", "10.1.1.1")


def workload(kind: str, name: str, *, replicas: int = 0, command: list[str] | None = None) -> dict[str, Any]:
    """A Deployment or a Job whose pods are in the VPC."""
    container = {"name": "main", "image": IMAGE} | ({"command": command} if command else {})
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if kind == "Job":
        spec["restartPolicy"] = "Never"
    template = {"metadata": {"labels": {"app": name}, "annotations": {VPC: "vpc"}}, "spec": spec}
    body: dict[str, Any] = {"template": template}
    if kind == "Deployment":
        body |= {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    version = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": body}


def rolled(lab: Lab, tenant: Tenant, what: str) -> None:
    lab.kubectl("rollout", "status", "-n", tenant.namespace, what, f"--timeout={POD_SECONDS}s")


def attachments(lab: Lab, tenant: Tenant) -> set[str]:
    return {each["metadata"]["name"] for each in lab.get("vpca", "-n", tenant.namespace)["items"]}


def between(lab: Lab, tenant: Tenant, one: dict[str, Any], two: dict[str, Any]) -> tuple[str, str]:
    """The name of one pod, and an address of the other's attachment."""
    networks = json.loads(two["metadata"]["annotations"][STATUS])
    return one["metadata"]["name"], networks[1]["ips"][0]


def restarted(lab: Lab, node: str, program: str, before: str) -> bool:
    try:
        return lab.state.pid(node, program).read_text() != before
    except FileNotFoundError:
        return False

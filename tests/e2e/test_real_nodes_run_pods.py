"""Galactic follows what kubelet, containerd and Kubernetes' controllers do with pods."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from released import inside, pings
from story import POD_SECONDS, Tenant, eventually, tenancy

from galactic_lab.cluster import Lab
from galactic_lab.node.selections import STATUS

VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"
IMAGE = "nicolaka/netshoot:v0.13"


@pytest.fixture
def blue(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    with tenancy(lab, request.node.name) as make:
        yield make("blue")


def pods(lab: Lab, tenant: Tenant, selector: str) -> list[dict[str, Any]]:
    found = lab.get("pods", "-n", tenant.namespace, "-l", selector)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


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
    eventually("they reach each other", lambda: pings(lab, blue.namespace, *between(one, two)))
    default, attached = json.loads(one["metadata"]["annotations"][STATUS])
    assert (default["interface"], default["default"]) == ("eth0", True)
    assert (attached["name"].split("/")[0], attached["interface"]) == (blue.namespace, "galactic0")


def test_a_stateful_set_is_drained_scaled_and_deleted(lab: Lab, blue: Tenant) -> None:
    """Of two replicas at least one is Ready at any time. Each has its addresses wherever it starts, and after a
    scale-down within the time for which they are kept.
    """
    blue.make_vpc()
    blue.apply(workload("StatefulSet", "db", replicas=2))
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "db"}}}
    blue.apply(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "db"}, "spec": budget}
    )
    rolled(lab, blue, "statefulset/db")
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods(lab, blue, "app=db")}
    assert set(before) == {"db-0", "db-1"}
    given = {name: in_pod(lab, blue, name) for name in before}
    assert given["db-0"] != given["db-1"]
    drained = {pod["spec"]["nodeName"] for pod in pods(lab, blue, "app=db")}
    watch = ["get", "statefulset", "db", "-n", blue.namespace, "--watch", "-o"]
    command = [str(lab.assets.kubectl), f"--kubeconfig={lab.kubeconfig}", *watch]
    with subprocess.Popen(
        [*command, "jsonpath={.status.readyReplicas}{'\\n'}"], stdout=subprocess.PIPE, text=True
    ) as watching:
        try:
            for node in sorted(drained):
                only = ("--pod-selector=app=db", f"--timeout={POD_SECONDS}s")
                lab.kubectl("drain", node, *only)
                rolled(lab, blue, "statefulset/db")
                lab.kubectl("uncordon", node)
        finally:
            for node in drained:
                lab.kubectl("uncordon", node)
            watching.terminate()
        seen = {int(line or 0) for line in (watching.stdout or ()) if line.strip() or line == "\n"}
    assert seen == {1, 2}, "ready replicas"
    after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods(lab, blue, "app=db")}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values()), "each was evicted"
    assert attachments(lab, blue) == {"db-0", "db-1"}
    assert {name: in_pod(lab, blue, name) for name in after} == given
    one, two = pods(lab, blue, "app=db")
    eventually("they reach each other", lambda: pings(lab, blue.namespace, *between(one, two)))

    scale(lab, blue, 1)
    eventually("db-1 is kept for a time", lambda: condition(blue, "db-1", "Retained"))
    assert condition(blue, "db-1", "Retained")["reason"] == "ScaledDown"
    scale(lab, blue, 2)
    assert in_pod(lab, blue, "db-1") == given["db-1"]
    eventually("they reach each other", lambda: pings(lab, blue.namespace, *between(one, two)))
    scale(lab, blue, 1)
    eventually("db-1 is kept again", lambda: condition(blue, "db-1", "Retained"))
    long_ago(lab, blue, "db-1", "Retained")
    eventually("its time is over", lambda: attachments(lab, blue) == {"db-0"})
    assert in_pod(lab, blue, "db-0") == given["db-0"]
    lab.kubectl("delete", "statefulset", "-n", blue.namespace, "db", f"--timeout={POD_SECONDS}s")
    eventually("db-0 is released with it", lambda: not attachments(lab, blue))


def test_pods_need_no_rights_of_their_own(lab: Lab, blue: Tenant) -> None:
    """Pod Security of their namespace is `restricted`: nothing that it forbids is asked of a pod that is attached."""
    lab.kubectl("label", "namespace", blue.namespace, "pod-security.kubernetes.io/enforce=restricted")
    blue.make_vpc()
    plain = workload("Deployment", "plain", replicas=1)
    blue.apply(plain)
    refused = lambda: "violates PodSecurity" in lab.kubectl("get", "events", "-n", blue.namespace)  # noqa: E731
    eventually("Kubernetes refuses one that is not told to do without", refused)
    lab.kubectl("delete", "deployment", "-n", blue.namespace, "plain")
    able = workload("Deployment", "web", replicas=2)
    able["spec"]["template"]["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = able["spec"]["template"]["spec"]["containers"]
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    blue.apply(able)
    rolled(lab, blue, "deployment/web")
    one, two = pods(lab, blue, "app=web")
    _, address = between(one, two)
    shown = inside(lab, blue.namespace, one["metadata"]["name"], "ip", "route", "get", address).stdout
    assert "dev galactic0" in shown
    blue.reaches(one["metadata"]["name"], address)


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
    eventually("it is attached again", newer, seconds=POD_SECONDS)
    blue.forget_namespaces()
    assert lab.get("pod", "-n", blue.namespace, "one")["metadata"]["uid"] == uid
    blue.reaches("two", "10.1.1.1")


def workload(kind: str, name: str, *, replicas: int = 0, command: list[str] | None = None) -> dict[str, Any]:
    """A Deployment, a StatefulSet or a Job whose pods are in the VPC."""
    container = {"name": "main", "image": IMAGE} | ({"command": command} if command else {})
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if kind == "Job":
        spec["restartPolicy"] = "Never"
    template = {"metadata": {"labels": {"app": name}, "annotations": {VPC: "vpc"}}, "spec": spec}
    body: dict[str, Any] = {"template": template}
    if kind != "Job":
        body |= {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    version = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": body}


def in_pod(lab: Lab, tenant: Tenant, name: str) -> list[str]:
    """The addresses of the VPC that the pod has."""
    shown = inside(lab, tenant.namespace, name, "ip", "-o", "address", "show", "dev", "galactic0").stdout
    words = [line.split() for line in shown.splitlines()]
    return sorted(word[3] for word in words if not word[3].startswith("fe80:"))


def scale(lab: Lab, tenant: Tenant, replicas: int) -> None:
    lab.kubectl("scale", "statefulset", "db", "-n", tenant.namespace, f"--replicas={replicas}")
    rolled(lab, tenant, "statefulset/db")
    eventually(f"{replicas} pods", lambda: len(pods(lab, tenant, "app=db")) == replicas, seconds=POD_SECONDS)


def condition(tenant: Tenant, name: str, kind: str) -> dict[str, Any]:
    found = tenant.attachment(name)["status"]["conditions"]
    return next((one for one in found if one["type"] == kind), {})


def long_ago(lab: Lab, tenant: Tenant, name: str, kind: str) -> None:
    """As if the condition had been so for a year."""
    kinds = [condition["type"] for condition in tenant.attachment(name)["status"]["conditions"]]
    path = f"/status/conditions/{kinds.index(kind)}/lastTransitionTime"
    patch = [{"op": "replace", "path": path, "value": "2020-01-01T00:00:00Z"}]
    command = ("patch", "vpca", "-n", tenant.namespace, name, "--subresource=status", "--type=json")
    lab.kubectl(*command, "-p", json.dumps(patch))


def rolled(lab: Lab, tenant: Tenant, what: str) -> None:
    lab.kubectl("rollout", "status", "-n", tenant.namespace, what, f"--timeout={POD_SECONDS}s")


def attachments(lab: Lab, tenant: Tenant) -> set[str]:
    return {attachment["metadata"]["name"] for attachment in lab.get("vpca", "-n", tenant.namespace)["items"]}


def between(one: dict[str, Any], two: dict[str, Any]) -> tuple[str, str]:
    """The name of one pod, and an address of the other's attachment."""
    networks = json.loads(two["metadata"]["annotations"][STATUS])
    return one["metadata"]["name"], networks[1]["ips"][0]


def restarted(lab: Lab, node: str, program: str, before: str) -> bool:
    try:
        return lab.state.pid(node, program).read_text() != before
    except FileNotFoundError:
        return False

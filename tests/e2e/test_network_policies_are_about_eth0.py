"""NetworkPolicies of the default network hold on eth0 and leave the VPC alone, in both families; and Galactic works
with those of its chart in force.

They are enforced by kube-network-policies (SIG Network), as a DaemonSet. The lab's default network is IPv6 alone.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from released import COMPONENT, inside, pings, pods, recreate, settled, status, traffic
from story import POD_SECONDS, eventually

from galactic_lab.builds import build_modules
from galactic_lab.cluster import Lab
from galactic_lab.state import NAMESPACE

NAME: Final = "kube-network-policies"
PORT: Final = 8080
SECONDS: Final = 3
"""How long a client waits for a server that a policy may have made unreachable."""
PROGRAM: Final = Path("/opt/policies")
SEEN: Final = ["pods", "namespaces"]
DENY: Final = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny-all", "namespace": "blue"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
VPC: Final = ("10.1.1.2", "2001:10:1:1::2")
"""The addresses of blue/api in its VPC."""


def manifests(binary: Path) -> list[dict[str, Any]]:
    """Its account with the rights that it needs, and a pod of it on each node."""
    named = {"name": NAME, "namespace": "kube-system"}
    rbac = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": SEEN, "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = {
        "name": "main",
        "image": "nicolaka/netshoot:v0.13",
        "command": [str(PROGRAM / binary.name), "--hostname-override=$(NODE)", "--v=2"],
        "env": [node],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "program", "mountPath": str(PROGRAM), "readOnly": True}],
    }
    spec = {
        "hostNetwork": True,
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "program", "hostPath": {"path": str(binary.parent)}}],
    }
    labels = {"app": NAME}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", **named}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": named,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    ]


@pytest.fixture(scope="module")
def enforced(examples: Lab) -> Iterator[Lab]:
    """The examples, with NetworkPolicies enforced on each node."""
    binary = build_modules.policies().ensure(lambda _done, _title: None) / NAME
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(binary)})
    examples.kubectl("apply", "-f", "-", stdin=listed)
    try:
        rollout = ("rollout", "status", "daemonset", NAME, "-n", "kube-system", f"--timeout={POD_SECONDS}s")
        examples.kubectl(*rollout)
        for member in examples.state.members:
            table = partial(examples.exec, member.name, ["nft", "list", "tables"])
            eventually(f"{member.name} has its rules", lambda t=table: NAME in t())
        yield examples
    finally:
        examples.kubectl("delete", "-f", "-", f"--timeout={POD_SECONDS}s", stdin=listed)
        for member in examples.state.members:
            examples.run(member.name, ["nft", "delete", "table", "inet", NAME], check=False)


def serve(lab: Lab, pod: str) -> str:
    """Starts a server in a pod of blue; the pod's address in the default network."""
    done = inside(lab, "blue", pod, "httpd", "-p", f"[::]:{PORT}", "-h", "/etc")
    assert done.returncode == 0, done.stderr
    return str(lab.get("pod", pod, "-n", "blue")["status"]["podIP"])


def fetches(lab: Lab, pod: str, address: str) -> bool:
    """Whether a new connection from a pod of blue to that address is answered."""
    request = f"printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w {SECONDS} {address} {PORT}"
    return "root" in inside(lab, "blue", pod, "sh", "-c", request).stdout


def test_a_namespace_that_denies_all_is_still_a_vpc(enforced: Lab) -> None:
    """Connections on eth0 end, across nodes and on one; in the VPC none does, and new ones are made."""
    remote, local = serve(enforced, "api"), serve(enforced, "db")
    for address in (remote, local, *VPC):
        eventually(f"web fetches from {address}", partial(fetches, enforced, "web", address))
    with traffic(enforced):
        enforced.kubectl("apply", "-f", "-", stdin=json.dumps(DENY))
        for address in (remote, local):
            eventually(f"{address} is closed", lambda a=address: not fetches(enforced, "web", a))
        for address in VPC:
            assert fetches(enforced, "web", address), address
    assert not fetches(enforced, "web", remote)


def test_a_pod_that_starts_under_the_policy_is_attached(enforced: Lab) -> None:
    recreate(enforced, "api")
    remote = serve(enforced, "api")
    for address in VPC:
        eventually(f"web fetches from {address}", partial(fetches, enforced, "web", address))
    assert not fetches(enforced, "web", remote)
    enforced.kubectl("delete", "-f", "-", stdin=json.dumps(DENY))
    eventually("eth0 is open again", partial(fetches, enforced, "web", remote))


def test_galactic_works_under_the_policies_of_its_chart(enforced: Lab) -> None:
    """Broker, routers and webhooks are restarted: each is reached at the ports that its policy opens, and at no
    other.
    """
    closed = next(
        pod["status"]["podIP"]
        for pod in pods(enforced).values()
        if pod["metadata"]["labels"][COMPONENT] == "router"
    )
    eventually("a router's other ports are closed", lambda: "timed out" in connection(enforced, closed, 9))
    before = pods(enforced)
    components = f"{COMPONENT} in (broker,router,webhook)"
    enforced.kubectl("delete", "pods", "-n", NAMESPACE, "-l", components, f"--timeout={POD_SECONDS}s")
    eventually("others took their place", lambda: settled(enforced), POD_SECONDS)
    assert len(before.keys() - pods(enforced).keys()) == 5
    recreate(enforced, "db")
    eventually("web reaches db", lambda: pings(enforced, "blue", "web", "10.1.1.3"))
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(enforced))


def connection(lab: Lab, address: str, port: int) -> str:
    """The error of a pod of blue that connects to a port at which nothing listens."""
    command = ("nc", "-w", str(SECONDS), address, str(port))
    return inside(lab, "blue", "web", *command).stderr

"""A tenant's own annotations and definitions attach no pod: not by another's attachment, not with forged addresses. A
compromised node takes no traffic, and a pod that lost its attachment leaves the VPC.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mqtt import publish
from story import Tenant, eventually

from galactic.messages import Endpoint, NodeEndpoints, Topics, encode
from galactic.names import base62
from galactic.node.kubernetes.carried import GRACE_SECONDS
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker

NETWORKS = "k8s.v1.cni.cncf.io/networks"
WEB = ("10.1.1.1", "2001:10:1:1::1")
FORGED = "10.1.1.66"


@pytest.fixture(scope="module")
def blue(lodgers: Callable[..., Tenant]) -> Tenant:
    """A VPC with a pod ``web``, and ``peer`` that reaches it."""
    tenant = lodgers("blue")
    tenant.settle(
        {
            "web": ("node-1", f"{WEB[0]}/24", f"{WEB[1]}/64"),
            "peer": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
            "leaves": ("node-3", "10.1.1.3/24"),
        }
    )
    tenant.all_reach([("peer", address) for address in (*WEB, "10.1.1.3")])
    return tenant


@pytest.fixture(scope="module")
def red(lodgers: Callable[..., Tenant]) -> Tenant:
    """Another namespace, with a VPC and an attachment of its own."""
    tenant = lodgers("red")
    tenant.make_vpc()
    tenant.attach("own", "10.1.1.1/24")
    return tenant


def thief(tenant: Tenant, name: str, networks: str, node: str = "node-3") -> None:
    """A pod that asks Multus alone, so that no webhook of ours sees it."""
    tenant.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": {NETWORKS: networks}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": "nicolaka/netshoot:v0.13"}],
            },
        }
    )


def event(tenant: Tenant, reason: str, text: str) -> bool:
    events = tenant.lab.get("events", "-n", tenant.namespace)["items"]
    return any(event["reason"] == reason and text in event["message"] for event in events)


def findings(lab: Lab, about: str = "") -> list[dict[str, str]]:
    """Those of `galactic status` about one object, or about all."""
    program = Path(sys.executable).with_name("galactic")
    command = [str(program), "status", "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return [finding for finding in json.loads(done.stdout)["findings"] if about in ("", finding["about"])]


def nothing_is_wrong(lab: Lab) -> None:
    eventually("galactic status finds nothing", lambda: not findings(lab))


def untouched(blue: Tenant, before: dict[str, object]) -> None:
    """Blue's pod has its traffic."""
    assert blue.endpoint("web") == before
    assert all(blue.ping("peer", address) for address in WEB)


def test_a_pod_of_another_namespace_is_not_attached(blue: Tenant, red: Tenant) -> None:
    before = blue.endpoint("web")
    thief(red, "thief", f"{blue.namespace}/web@galactic0")
    eventually(
        "the kubelet reports why it does not start",
        lambda: event(
            red, "FailedCreatePodSandBox", f"VPCAttachment {blue.namespace}/web is not in the namespace"
        ),
    )
    untouched(blue, before)
    (found,) = findings(blue.lab, f"Pod {red.namespace}/thief")
    assert found["reason"] == "OtherNamespace"
    assert found["message"] == (
        f"node-3 does not attach it: its definition names VPCAttachment {blue.namespace}/web, which belongs to "
        f"namespace {blue.namespace} and not to {red.namespace}; the attachment's own pods are not affected"
    )
    assert f"name an attachment of namespace {red.namespace}" in found["remedy"]
    red.delete_pod("thief")
    nothing_is_wrong(blue.lab)


def test_a_definition_that_a_tenant_wrote_attaches_no_pod(blue: Tenant, red: Tenant) -> None:
    before = blue.endpoint("web")
    vpc = blue.lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    plugin = {
        "type": "galactic",
        "vpc": base62(int(vpc, 16)),
        "vpcattachment": "a",
        "attachment": f"{red.namespace}/own",
        "addresses": [f"{FORGED}/24"],
        "networks": ["10.1.1.0/24"],
    }
    red.apply(
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "forged"},
            "spec": {"config": json.dumps({"cniVersion": "1.0.0", "name": "forged", "plugins": [plugin]})},
        }
    )
    thief(red, "forger", "forged@galactic0")
    eventually(
        "the kubelet reports why it does not start",
        lambda: event(
            red, "FailedCreatePodSandBox", f"VPCAttachment {red.namespace}/own is not carried by pod"
        ),
    )
    untouched(blue, before)
    assert not blue.ping("peer", FORGED)
    (found,) = findings(blue.lab, f"Pod {red.namespace}/forger")
    assert found["reason"] == "NotCarried"
    assert f"leads to VPCAttachment {red.namespace}/own, which it does not carry" in found["message"]
    assert f"kubectl get pod -n {red.namespace} forger" in found["remedy"]
    red.delete_pod("forger")
    nothing_is_wrong(blue.lab)


def test_a_node_that_was_taken_over_takes_no_traffic(blue: Tenant, lab: Lab) -> None:
    """With the node's own password, it registers what a pod elsewhere has, and newer."""
    before = blue.endpoint("web")
    assert before
    vpc = lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    function = blue.attachment("web")["status"]["identifier"]
    sid = f"2001:db8:ff03:100:{':'.join(vpc[at : at + 4] for at in (0, 4, 8))}:{function}"
    epoch = max(int(str(before["epoch"])), time.time_ns()) + 10**9  # newer than the node's own list as well
    forged = Endpoint(vpc, function, f"{blue.namespace}/web", sid, (f"{WEB[0]}/32", f"{WEB[1]}/128"), epoch)
    topic = Topics("galactic/v1").endpoints("default", "node-3")
    publish(lab, broker.node(lab.state, "node-3"), topic, encode(NodeEndpoints(epoch, (forged,))).decode())
    eventually("the router reports it", lambda: event(blue, "NotCarried", "node-3"))
    (found,) = findings(lab, f"VPCAttachment {blue.namespace}/web")
    assert found["reason"] == "NotCarried"
    assert found["message"].startswith("node node-3: no pod on this node carries")
    assert "check galactic-node on the node" in found["remedy"]
    untouched(blue, before)


def entitled(lab: Lab, node: str) -> str:
    conditions = lab.get("nseg", node)["status"]["conditions"]
    return str(next(condition["status"] for condition in conditions if condition["type"] == "Entitled"))


@pytest.fixture(scope="module")
def detaching(blue: Tenant, red: Tenant, lab: Lab) -> dict[str, object]:
    """Two pods that are detached, whose GRACE_SECONDS pass at the same time: red's ``guest`` on node-2 by a revoked
    grant, as blue asks for it, and blue's ``leaves`` on node-3, of whose attachment the finalizer was removed. The
    endpoint of ``web`` before.
    """

    def admit(**allowed: str) -> None:
        patch = json.dumps({"spec": {"allowedNamespaces": allowed | {"whenRevoked": "Detach"}}})
        lab.kubectl("patch", "vpc", "-n", blue.namespace, "vpc", "--type=merge", "-p", patch)

    before = blue.endpoint("web")
    admit(**{"from": "All"})
    guest = red.manifest("guest", "10.1.1.9/24")
    guest["spec"]["vpc"]["namespace"] = blue.namespace
    red.apply(guest)
    red.pod("guest", "node-2")
    blue.reaches("web", "10.1.1.9")
    # The guest deletes its attachment first, and the pod keeps it in use.
    lab.kubectl("delete", "vpca", "-n", red.namespace, "guest", "--wait=false")
    admit(**{"from": "Same"})
    lab.kubectl("delete", "vpca", "-n", blue.namespace, "leaves", "--wait=false")
    lab.kubectl(
        "patch",
        "vpca",
        "-n",
        blue.namespace,
        "leaves",
        "--type=merge",
        "-p",
        '{"metadata":{"finalizers":null}}',
    )
    blue.apply(blue.manifest("heir", "10.1.1.3/24"))
    return before or {}


def test_a_pod_whose_attachment_is_gone_leaves_the_vpc(
    blue: Tenant, lab: Lab, detaching: dict[str, object]
) -> None:
    """The pod goes on running, and the node reports it before it detaches the pod. Until then its address is not
    another's.
    """
    eventually("the node reports it", lambda: entitled(lab, "node-3") == "False")
    (found,) = findings(lab, "NodeSegment node-3")
    assert found["reason"] == "Entitled: NotEntitled"
    assert f"{blue.namespace}/leaves" in found["message"]
    assert "make the VPCAttachment again" in found["remedy"]
    (found,) = findings(lab, f"Pod {blue.namespace}/leaves")
    assert found["reason"] == "AttachmentNotFound"
    assert "taken out of its VPC" in found["message"]
    eventually("the address is refused", lambda: event(blue, "StillAttached", "on node node-3"))
    assert blue.attachment("heir")["status"]["ready"] is False
    eventually("it is detached", lambda: entitled(lab, "node-3") == "True", seconds=4 * GRACE_SECONDS)
    assert not findings(lab, "NodeSegment node-3")
    assert not blue.ping("peer", "10.1.1.3")
    eventually("the address is free", lambda: blue.attachment("heir")["status"]["ready"])
    untouched(blue, detaching)


def test_a_pod_whose_grant_was_revoked_leaves_the_vpc(
    blue: Tenant, red: Tenant, lab: Lab, detaching: dict[str, object]
) -> None:
    """Where the VPC's owner asks for it."""
    eventually("the pod's user reads of it", lambda: event(red, "Detached", "node-2 detaches the pod"))
    eventually("it is detached", lambda: not blue.ping("web", "10.1.1.9"), seconds=4 * GRACE_SECONDS)
    eventually("the node has nothing left to report", lambda: entitled(lab, "node-2") == "True")
    assert not red.ping("guest", WEB[0])
    untouched(blue, detaching)

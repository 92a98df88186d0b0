"""Limits of Galactic's accounts that RBAC cannot express, on a real API server: the policies allow the programs'
writes, and refuse those that a stolen token would be used for.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from ipaddress import ip_interface, ip_network
from subprocess import CalledProcessError
from typing import Any

import pytest
from charting import NAMESPACE, Helm
from story import eventually

import galactic_lab
from galactic.crds.model import Meta
from galactic.names import (
    ACCEPTED_ANNOTATION,
    API_VERSION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    NOT_READY_TAINT,
    VPC_ANNOTATION,
)
from galactic.operator.nad import configuration, definition, labels
from galactic.operator.slices import MANAGED_BY, MANAGER
from galactic.validation.attachment import ParsedAttachment, Route
from galactic_lab.cluster import Lab

PLACE = "policies"
NODE = "policies-node"
POLICY = "ValidatingAdmissionPolicy"
HOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
FOREIGN_TAINT = {"key": "theirs", "effect": "NoSchedule"}


class Account:
    """A ServiceAccount of Galactic's, with all rights: what it may not do, a policy refuses."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab, self._user = lab, f"system:serviceaccount:{NAMESPACE}:{name}"

    def problem(self, *arguments: str, given: dict[str, Any] | None = None) -> str:
        """The reason why the API server refuses the request; empty if it would do it."""
        try:
            self._lab.kubectl(
                *arguments,
                f"--as={self._user}",
                "--as-group=system:masters",
                "--dry-run=server",
                stdin=json.dumps(given) if given else None,
            )
        except CalledProcessError as error:
            return f"{error} {error.stderr}"
        except Exception as error:  # noqa: BLE001 - the lab's errors for kubectl's text
            return str(error)
        return ""

    def create(self, thing: dict[str, Any]) -> str:
        return self.problem("create", "-f", "-", given=thing)

    def patch(self, kind: str, name: str, patch: dict[str, Any], *more: str) -> str:
        return self.problem("patch", kind, name, "--type=merge", "-p", json.dumps(patch), *more)


def pod(name: str, labels: dict[str, str], annotations: dict[str, str]) -> dict[str, Any]:
    meta = {"name": name, "namespace": PLACE, "labels": labels, "annotations": annotations}
    spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


ATTACHED = {ATTACHMENT_ANNOTATION: "web", NETWORKS_ANNOTATION: "web@galactic0"}
PODS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [pod("attached", {ATTACHMENT_LABEL: "web"}, ATTACHED), pod("plain", {"app": "plain"}, {})],
}


class NodeOf:
    """The node of the two pods: it may write their status."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def status(self, metadata: dict[str, Any], name: str = "attached") -> str:
        """The refusal of a write of the pod's status with other metadata; empty if it would be done."""
        account = Account(self._lab, "default")
        patch = {"metadata": metadata, "status": {"message": "well"}}
        return account.patch("pod", name, patch, "-n", PLACE, "--subresource=status")


def node_of(lab: Lab) -> NodeOf:
    return NodeOf(lab)


def nad(name: str, **changes: Any) -> dict[str, Any]:
    """The definition that the operator writes for an attachment with a termination and a route."""
    spec = ParsedAttachment(
        (PLACE, "v"),
        "galactic0",
        (ip_interface("10.1.1.1/24"),),
        (
            Route(ip_network("192.168.3.0/24"), ip_interface("10.1.1.1/24").ip),
            Route(ip_network("192.168.4.0/24"), None),
        ),
    )
    meta = Meta(name=name, namespace=PLACE, uid="6d5b1a3e-0000-4000-8000-000000000000")
    config = configuration(
        meta,
        spec,
        vpc=1234,
        function=42,
        addresses=spec.addresses,
        networks=[ip_network("10.1.1.0/24")],
        mtu=0,
    )
    return definition(meta, config, labels(1234)) | changes


@pytest.fixture(scope="module")
def bounded(lab: Lab, helm: Helm) -> Iterator[Lab]:
    """The chart's accounts, roles, policies and webhook configurations, without its programs."""
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", POLICY, f"{POLICY}Binding", *HOOKS)
    things = [manifest for manifest in helm.objects() if manifest["kind"] in kinds]
    assert sum(manifest["kind"] == POLICY for manifest in things) == 7
    multus = files(galactic_lab).joinpath("controlplane/multus.yaml").read_text()
    lab.kubectl("apply", "-f", "-", stdin=multus)
    for namespace in (NAMESPACE, PLACE):
        lab.kubectl("create", "namespace", namespace, check=False)
    served = [manifest for manifest in helm.objects() if manifest["kind"] == "CustomResourceDefinition"]
    kinds_text = json.dumps({"apiVersion": "v1", "kind": "List", "items": served})
    lab.kubectl("apply", "--server-side", "-f", "-", stdin=kinds_text)
    theirs = {"metadata": {"name": "theirs", "namespace": PLACE}, "spec": {"vpc": {"name": "v"}}}
    theirs |= {"apiVersion": API_VERSION, "kind": "VPCAttachment"}
    applied = lambda: lab.kubectl("apply", "-f", "-", stdin=json.dumps(theirs), check=False)  # noqa: E731
    eventually("the kinds are served", lambda: "theirs" in applied())  # while no webhook is asked
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
    taints = {"spec": {"taints": [FOREIGN_TAINT, {"key": NOT_READY_TAINT, "effect": "NoSchedule"}]}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"a": "b"}}} | taints
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(node))
    pods = lambda: lab.kubectl("apply", "-f", "-", stdin=json.dumps(PODS), check=False)  # noqa: E731
    eventually(
        "the pods exist", lambda: "pod/plain" in pods()
    )  # before the webhooks, which no server answers
    lab.kubectl("apply", "-f", "-", stdin=text)
    foreign = nad("theirs", spec={"config": '{"type":"macvlan"}'})
    del foreign["metadata"]["ownerReferences"]
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(foreign))
    try:
        webhook = Account(lab, "galactic-webhook")
        eventually("the policies are in force", lambda: "denied" in webhook.create(another(HOOKS[0])))
        operator = Account(lab, "galactic-operator")
        wrong = nad("web", spec={"config": "{}"})
        eventually("those of definitions as well", lambda: "denied" in operator.create(wrong))
        label = {"metadata": {"labels": {"a": "c"}}}
        eventually("and of Nodes", lambda: "denied" in operator.patch("node", NODE, label))
        slices = lambda: operator.create(endpoint_slice("x", "another"))  # noqa: E731
        eventually("and of slices", lambda: "denied" in slices())
        delete = ("delete", "vpcattachment", "theirs", "-n", PLACE)
        eventually("and of deletions", lambda: "denied" in operator.problem(*delete))
        status = lambda: NodeOf(lab).status({"annotations": {VPC_ANNOTATION: "x"}})  # noqa: E731
        eventually("and of pods' status", lambda: "denied" in status())
        yield lab
    finally:
        lab.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)
        forced = ("--force", "--grace-period=0", "--ignore-not-found")
        lab.kubectl("delete", "pod", "attached", "plain", "-n", PLACE, *forced)
        lab.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=kinds_text)
        lab.kubectl("delete", "node", NODE, "--ignore-not-found")
        lab.kubectl("delete", "namespace", PLACE, "--ignore-not-found", "--timeout=240s")


def another(kind: str) -> dict[str, Any]:
    version = "admissionregistration.k8s.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "another"}, "webhooks": []}


def test_the_webhook_enters_its_cas_and_changes_nothing_else(bounded: Lab) -> None:
    webhook = Account(bounded, "galactic-webhook")
    for kind in HOOKS:
        assert "of the chart only" in webhook.create(another(kind))
        stored = json.loads(bounded.kubectl("get", kind, "galactic-admission", "-o", "json"))

        def problem(kind: str = kind, stored: dict[str, Any] = stored, **changes: Any) -> str:
            """Of a change of the first webhook; the others stay."""
            webhooks = [stored["webhooks"][0] | changes, *stored["webhooks"][1:]]
            return webhook.patch(kind, "galactic-admission", {"webhooks": webhooks})

        client = stored["webhooks"][0]["clientConfig"]
        assert not problem(clientConfig=client | {"caBundle": "Q0E="})
        service = client["service"]
        for changes in (
            {"clientConfig": {"service": service | {"namespace": "elsewhere"}}},
            {"clientConfig": {"url": "https://evil.example/mutate"}},
            {"rules": [stored["webhooks"][0]["rules"][0] | {"resources": ["secrets"]}]},
            {"failurePolicy": "Ignore"},
            {"matchConditions": []},
            {"namespaceSelector": {}},
            {"objectSelector": {"matchLabels": {"a": "b"}}},
            {"timeoutSeconds": 1},
        ):
            assert "caBundle only" in problem(**changes), changes
        assert "caBundle only" in webhook.patch(kind, "galactic-admission", {"webhooks": []})
        labels = {"metadata": {"annotations": {"helm.sh/resource-policy": "keep"}}}
        assert "labels or annotations" in webhook.patch(kind, "galactic-admission", labels)


def test_the_operator_writes_the_definitions_of_attachments_only(bounded: Lab) -> None:
    operator = Account(bounded, "galactic-operator")
    assert not operator.create(nad("web"))
    one = nad("web")
    config = one["spec"]["config"]
    second = config.replace('"plugins":[', '"plugins":[{"type":"macvlan"},')
    behind = config[: -len("]}")] + ',{"type":"host-device"}]}'
    hidden = config[: -len("]}")] + ',{"\\u0074ype":"host-device"}]}'
    for other in ('{"type":"macvlan"}', second, behind, hidden):
        assert "the one plugin galactic only" in operator.create(nad("web", spec={"config": other}))
    del one["metadata"]["ownerReferences"]
    assert "of VPCAttachments only" in operator.create(one)
    patch = {
        "metadata": {"ownerReferences": nad("theirs")["metadata"]["ownerReferences"]},
        "spec": nad("theirs")["spec"],
    }
    assert "may change the definitions" in operator.patch("net-attach-def", "theirs", patch, "-n", PLACE)


def test_the_operator_changes_its_taint_only(bounded: Lab) -> None:
    operator = Account(bounded, "galactic-operator")
    present = json.loads(bounded.kubectl("get", "node", NODE, "-o", "json"))["spec"][
        "taints"
    ]  # and Kubernetes' own
    others = [taint for taint in present if taint["key"] != NOT_READY_TAINT]
    assert FOREIGN_TAINT in others
    assert len(others) < len(present)
    assert not operator.patch("node", NODE, {"spec": {"taints": others}})
    for patch, text in (
        ({"spec": {"taints": []}}, "taint"),
        ({"spec": {"unschedulable": True}}, "taint"),
        ({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, "labels or annotations"),
        ({"metadata": {"annotations": {"a": "b"}}}, "labels or annotations"),
    ):
        assert text in operator.patch("node", NODE, patch)


def endpoint_slice(name: str, manager: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": PLACE, "labels": {MANAGED_BY: manager}},
        "addressType": "IPv4",
        "endpoints": [],
    }


def test_the_operator_writes_its_own_slices_only(bounded: Lab) -> None:
    operator = Account(bounded, "galactic-operator")
    assert not operator.create(endpoint_slice("ours", MANAGER))
    assert "its own EndpointSlices only" in operator.create(endpoint_slice("ours", "another"))
    for name, manager in (("ours", MANAGER), ("theirs", "another")):
        bounded.kubectl("apply", "-f", "-", stdin=json.dumps(endpoint_slice(name, manager)))
    of = ("-n", PLACE)
    empty: dict[str, Any] = {"endpoints": []}
    taken = {"metadata": {"labels": {MANAGED_BY: MANAGER}}}
    assert not operator.patch("endpointslice", "ours", empty, *of)
    assert not operator.problem("delete", "endpointslice", "ours", *of)
    for patch in (empty, taken):
        assert "its own EndpointSlices only" in operator.patch("endpointslice", "theirs", patch, *of)
    assert "its own EndpointSlices only" in operator.problem("delete", "endpointslice", "theirs", *of)


def test_the_operator_deletes_attachments_that_it_made_only(bounded: Lab) -> None:
    operator = Account(bounded, "galactic-operator")
    delete = ("delete", "vpcattachment", "theirs", "-n", PLACE)
    assert "VPCAttachments that it made only" in operator.problem(*delete)
    bounded.kubectl("label", "vpcattachment", "theirs", "-n", PLACE, f"{ATTACHMENT_LABEL}={GENERATED}")
    assert not operator.problem(*delete)


def test_the_status_of_a_pod_leaves_its_attachments_as_they_are(bounded: Lab) -> None:
    """A node writes the status of its pods, and Multus that of all: neither makes one the carrier of an attachment."""
    node = NodeOf(bounded)
    for metadata in ({}, {"annotations": {"k8s.v1.cni.cncf.io/network-status": "[]"}}):
        assert not node.status(metadata)
    for metadata in (
        {"annotations": {ATTACHMENT_ANNOTATION: "another"}},
        {"annotations": {ATTACHMENT_ANNOTATION: None}},
        {"annotations": {NETWORKS_ANNOTATION: "web@galactic0,another@galactic1"}},
        {"annotations": {VPC_ANNOTATION: "blue"}},
        {"annotations": {ACCEPTED_ANNOTATION: "10.0.0.0/8"}},
    ):
        assert "may not change the annotations" in node.status(metadata), metadata
    for value in (GENERATED, None):
        assert "may not change the label" in node.status({"labels": {ATTACHMENT_LABEL: value}})
    assert "may not change the label" in node.status({"labels": {ATTACHMENT_LABEL: "web"}}, "plain")
    assert not node.status({"annotations": {ATTACHMENT_ANNOTATION: "web"}}, "plain"), "nobody reads it there"

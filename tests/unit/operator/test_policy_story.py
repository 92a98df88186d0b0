"""VPCPolicies from the API server to PolicySlices and the attachments' statuses."""

import pytest

from galactic.kube.resources import (
    EVENTS,
    NAMESPACES,
    NODE_SEGMENTS,
    PODS,
    POLICY_SLICES,
    VPC_ATTACHMENTS,
    VPC_GATEWAYS,
    VPC_POLICIES,
    VPCS,
)
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL, GENERATED, VPC_ANNOTATION, VPC_LABEL


def policy(cluster, name="deny", namespace="default", **spec):
    body = {"metadata": {"name": name}, "spec": {"vpc": {"name": "v"}, **spec}}
    return cluster.api.put(VPC_POLICIES, body, namespace)


def slices(cluster, role):
    return [one for one in cluster.api.all(POLICY_SLICES) if one["spec"]["role"] == role]


def web():
    return {"matchLabels": {"app": "web"}}


def label(cluster, name, namespace="default", **labels):
    cluster.api.change(VPC_ATTACHMENTS, name, {"metadata": {"labels": labels}}, namespace)


async def test_rules_and_groups_reach_nodes_objects(cluster):
    cluster.vpc("v")
    for name in ("web", "db"):
        cluster.attachment(name)
        label(cluster, name, app=name)
    await cluster.settled()
    rules = [{"from": [{"attachmentSelector": web()}], "ports": [{"port": 80, "endPort": 90}]}]
    policy(cluster, attachmentSelector={"matchLabels": {"app": "db"}}, ingress=rules)
    await cluster.settled()
    (made,) = slices(cluster, "Policy")
    (group,) = slices(cluster, "Group")
    identifier = cluster.status("v", resource=VPCS)["identifier"]
    for one in (made, group):
        assert one["metadata"]["labels"][VPC_LABEL] == one["spec"]["vpc"] == identifier
    assert made["spec"]["ingress"] == [
        {"groups": [group["spec"]["group"]], "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}]}
    ]
    assert "egress" not in made["spec"]
    (address,) = cluster.status("web")["addresses"]
    assert group["spec"]["addresses"] == [address.partition("/")[0]]
    assert cluster.status("db")["policies"] == [made["metadata"]["name"]]
    assert "policies" not in cluster.status("web")
    status = cluster.status("deny", resource=VPC_POLICIES)
    assert status["attachments"] == 1
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Accepted": "True",
        "Enforced": "True",
    }

    cluster.attachment("more")
    label(cluster, "more", app="web")
    await cluster.settled()
    (group,) = slices(cluster, "Group")
    assert len(group["spec"]["addresses"]) == 2

    cluster.api.remove(VPC_POLICIES, "deny", "default")
    await cluster.settled()
    assert not slices(cluster, "Policy")
    assert not slices(cluster, "Group")
    assert cluster.status("db")["policies"] == []


async def test_an_attachment_has_its_rules_with_its_first_status(cluster):
    cluster.vpc("v")
    policy(cluster)
    await cluster.settled()
    seen = []
    observe = cluster.api.observer

    def observer(resource, event):
        if resource == VPC_ATTACHMENTS and (event.object.get("status") or {}).get("ready"):
            seen.append(event.object["status"].get("policies"))
        observe(resource, event)

    cluster.api.observer = observer
    cluster.attachment("web")
    await cluster.settled()
    assert seen
    assert all(seen)


async def test_a_floor_is_about_other_namespaces(cluster):
    floor = {"policyTypes": ["Ingress"]}
    cluster.vpc("v", allowedNamespaces={"from": "All"}, policies=[floor])
    cluster.attachment("own")
    cluster.attachment("guest", "default/v", namespace="other")
    await cluster.settled()
    (made,) = slices(cluster, "Floor")
    assert made["spec"]["ingress"] == []
    assert cluster.status("guest", "other")["policies"] == [made["metadata"]["name"]]
    assert "policies" not in cluster.status("own")
    cluster.api.change(VPCS, "v", {"spec": {"policies": []}}, "default")
    await cluster.settled()
    assert not slices(cluster, "Floor")


async def test_rules_that_cannot_be_understood_let_nothing_pass(cluster):
    """Stored while no webhook was there."""
    cluster.vpc("v")
    cluster.attachment("web")
    policy(cluster, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])
    await cluster.settled()
    (made,) = slices(cluster, "Policy")
    assert made["spec"]["ingress"] == []
    condition = cluster.condition("Accepted", "deny", resource=VPC_POLICIES)
    assert condition["status"] == "False"
    assert "spec.ingress[0].from[0].ipBlock.cidr" in condition["message"]
    assert [one for one in cluster.api.all(EVENTS) if one["involvedObject"]["kind"] == "VPCPolicy"]


@pytest.mark.parametrize(
    ("kind", "enforced"),
    [
        pytest.param({"type": "Policies", "status": "False"}, "False", id="a-kernel-without"),
        pytest.param({"type": "Ready", "status": "True"}, "False", id="an-earlier-version"),
        pytest.param({"type": "Policies", "status": "True"}, "True", id="able"),
    ],
)
async def test_a_node_that_cannot_enforce_is_named(cluster, kind, enforced):
    cluster.vpc("v")
    cluster.attachment("web")
    policy(cluster)
    condition = {"reason": "Reason", "message": "message", **kind}
    body = {"metadata": {"name": "old"}, "spec": {"prefix": "2001:db8:ff01::/56"}}
    cluster.api.put(NODE_SEGMENTS, body | {"status": {"conditions": [condition]}})
    pod = {
        "metadata": {
            "name": "p",
            "annotations": {ATTACHMENT_ANNOTATION: "web"},
            "labels": {ATTACHMENT_LABEL: "web"},
        },
        "spec": {"nodeName": "old"},
    }
    cluster.api.put(PODS, pod, "default")
    await cluster.settled()
    cluster.reconciler.queue.add(("policy", ("default", "deny")))
    await cluster.settled()
    found = cluster.condition("Enforced", "deny", resource=VPC_POLICIES)
    assert found["status"] == enforced
    assert ("node old" in found["message"]) == (enforced == "False")


async def test_a_namespace_without_a_part_in_the_vpc(cluster):
    cluster.vpc("v")
    policy(cluster, namespace="other", vpc={"namespace": "default", "name": "v"})
    await cluster.settled()
    assert cluster.condition("Accepted", "deny", "other", VPC_POLICIES)["reason"] == "NotGranted"
    policy(cluster, "lost", vpc={"name": "none"})
    await cluster.settled()
    assert cluster.condition("Accepted", "lost", resource=VPC_POLICIES)["reason"] == "VPCNotFound"


async def test_another_label_of_a_namespace_is_another_group(cluster):
    cluster.vpc("v", allowedNamespaces={"from": "All"})
    cluster.attachment("guest", "default/v", namespace="other")
    policy(cluster, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}])
    await cluster.settled()
    (group,) = slices(cluster, "Group")
    assert group["spec"]["addresses"] == []
    cluster.api.change(NAMESPACES, "other", {"metadata": {"labels": {"team": "x"}}})
    await cluster.settled()
    (group,) = slices(cluster, "Group")
    assert len(group["spec"]["addresses"]) == 1


async def test_a_generated_attachment_has_the_labels_of_its_pod(cluster):
    cluster.vpc("v")
    pod = {
        "metadata": {
            "name": "p",
            "annotations": {VPC_ANNOTATION: "v", ATTACHMENT_ANNOTATION: "p-x"},
            "labels": {
                ATTACHMENT_LABEL: GENERATED,
                "app": "web",
                "tier": "front",
                "node.galactic.datumapis.com/n": "",
            },
        },
        "spec": {"nodeName": "n"},
    }
    cluster.api.put(PODS, pod, "default")
    await cluster.settled()

    def labels():
        return cluster.api.stored(VPC_ATTACHMENTS, "p-x", "default")["metadata"]["labels"]

    assert (labels()["app"], labels()["tier"]) == ("web", "front")
    cluster.api.change(VPC_ATTACHMENTS, "p-x", {"metadata": {"labels": {"by": "hand"}}}, "default")
    cluster.api.change(PODS, "p", {"metadata": {"labels": {"app": "db", "tier": None}}}, "default")
    await cluster.settled()
    assert labels()["app"] == "db"
    assert "tier" not in labels()
    assert labels()["by"] == "hand"
    assert labels()[ATTACHMENT_LABEL] == GENERATED


async def test_slices_that_nobody_wants_are_deleted_at_a_start(cluster):
    spec = {"vpc": "0" * 11 + "1", "role": "Group", "group": "group-old", "addresses": []}
    cluster.api.put(POLICY_SLICES, {"metadata": {"name": "group-old-0"}, "spec": spec})
    await cluster.stop()
    await cluster.start()
    await cluster.settled()
    assert not slices(cluster, "Group")


@pytest.mark.parametrize(
    ("resource", "item", "type_"),
    [
        (VPCS, "vpc", "Ready"),
        (VPC_ATTACHMENTS, "attachment", "Ready"),
        (VPC_POLICIES, "policy", "Accepted"),
        (VPC_GATEWAYS, "gateway", "Accepted"),
    ],
)
async def test_the_status_of_an_object_that_does_not_fit_its_kind_is_written_once(
    cluster, resource, item, type_
):
    cluster.api.put(resource, {"metadata": {"name": "odd"}, "spec": {"vpc": 1}}, "default")
    await cluster.settled()
    assert cluster.condition(type_, "odd", resource=resource)["status"] == "False"
    version = cluster.api.stored(resource, "odd", "default")["metadata"]["resourceVersion"]
    cluster.reconciler.queue.add((item, ("default", "odd")))
    await cluster.settled()
    assert cluster.api.stored(resource, "odd", "default")["metadata"]["resourceVersion"] == version

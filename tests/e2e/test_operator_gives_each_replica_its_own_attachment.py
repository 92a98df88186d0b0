"""A Deployment names a VPC: every replica gets an attachment and an address by itself, and they go with the Pod."""

from collections.abc import Iterator
from typing import Any

import pytest
from story import Tenant, eventually, tenancy

from galactic_lab.cluster import Lab

VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"
ATTACHMENT = "k8s.v1alpha.galactic.datumapis.com/vpc-attachment"

UNSCHEDULED: dict[str, Any] = {
    "schedulerName": "nobody",
    "terminationGracePeriodSeconds": 0,
    "containers": [{"name": "main", "image": "nicolaka/netshoot:v0.13"}],
}


@pytest.fixture
def blue(control_plane: Lab, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    with tenancy(control_plane, request.node.name) as make:
        yield make("blue")


def deployment(replicas: int, version: str = "1") -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": "web"}, "annotations": {VPC: "vpc", "example.com/version": version}},
        "spec": UNSCHEDULED,
    }
    strategy = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": template,
        },
    }


def shared_out(tenant: Tenant) -> dict[str, str]:
    """Pod → the address of the attachment that it carries and owns, of those that are ready."""
    lab, namespace = tenant.lab, tenant.namespace
    attachments = {
        attachment["metadata"]["name"]: attachment for attachment in lab.get("vpca", "-n", namespace)["items"]
    }
    result = {}
    for pod in lab.get("pods", "-n", namespace)["items"]:
        attachment = attachments.pop(pod["metadata"].get("annotations", {}).get(ATTACHMENT, ""), {})
        status = attachment.get("status", {})
        owners = [owner["uid"] for owner in attachment.get("metadata", {}).get("ownerReferences", ())]
        if status.get("ready") and owners == [pod["metadata"]["uid"]]:
            result[pod["metadata"]["name"]] = status["addresses"][0]
    return {} if attachments else result  # left-overs have yet to go


def test_scaled_rolled_and_gone(blue: Tenant) -> None:
    blue.make_vpc()
    lab = blue.lab

    def exactly(count: int) -> dict[str, str] | None:
        found = shared_out(blue)
        return found if len(set(found.values())) == count == len(found) else None

    blue.apply(deployment(3))
    three = eventually("three replicas have an attachment each", lambda: exactly(3))
    blue.apply(deployment(6))
    six = eventually("six replicas have an attachment each", lambda: exactly(6))
    assert three.items() <= six.items(), "those there were keep theirs"
    # No replica ever becomes Ready, and so the old ones stay: two surge.
    blue.apply(deployment(6, version="2"))
    eight = eventually("two more surge", lambda: exactly(8))
    assert six.items() <= eight.items()
    blue.apply(deployment(0, version="2"))
    eventually("no attachment is left", lambda: not lab.get("vpca", "-n", blue.namespace)["items"])
    eventually("no definition either", lambda: not lab.get("net-attach-def", "-n", blue.namespace)["items"])
    eventually(
        "the VPC counts none",
        lambda: lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["attachments"] == 0,
    )


def test_a_pod_that_is_deleted_at_once_leaves_nothing(blue: Tenant) -> None:
    blue.make_vpc()
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"brief-{number}", "annotations": {VPC: "vpc"}},
            "spec": UNSCHEDULED,
        }
        for number in range(10)
    ]
    blue.apply(*pods)
    blue.lab.kubectl("delete", "pods", "--all", "-n", blue.namespace, "--grace-period=0", "--force")
    eventually(
        "no attachment is left", lambda: not blue.lab.get("vpca", "-n", blue.namespace)["items"], seconds=120
    )


def test_an_attachment_of_this_kind_waits_for_its_pod(blue: Tenant) -> None:
    blue.make_vpc()
    blue.apply(deployment(1))
    eventually("it has its attachment", lambda: len(shared_out(blue)) == 1)
    (before,) = blue.lab.get("vpca", "-n", blue.namespace)["items"]
    name = before["metadata"]["name"]
    blue.lab.kubectl("delete", "vpca", "-n", blue.namespace, name, "--wait=false")
    messages = eventually(
        "condition Deleting names the pod",
        lambda: [
            condition["message"]
            for condition in blue.attachment(name)["status"]["conditions"]
            if condition["type"] == "Deleting"
        ],
    )
    assert f"waits for pod {blue.namespace}/web-" in messages[0]
    blue.apply(deployment(0))
    eventually("both are gone", lambda: not blue.lab.get("vpca", "-n", blue.namespace)["items"])

"""An API server with the kinds of an earlier version drops what it does not know, and answers as if all were well."""

import asyncio
import copy

import pytest

from galactic.kube.resources import EVENTS, PODS, VPC_ATTACHMENTS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL
from galactic.operator.context import OUTDATED_SECONDS


@pytest.fixture
def unknown(cluster, monkeypatch):
    """Fields of a VPCAttachment's status that the API server drops."""
    fields = {"carriers", "configuration"}
    patch = cluster.api.patch

    async def prune(resource, name, body, namespace=None, *, subresource=None):
        if resource == VPC_ATTACHMENTS and subresource == "status":
            body = copy.deepcopy(body)
            body["status"] = {key: value for key, value in body["status"].items() if key not in fields}
            present = cluster.api.stored(resource, name, namespace)
            if body["status"].items() <= (present.get("status") or {}).items():
                return copy.deepcopy(present)  # a write that changes nothing has no event
        return await patch(resource, name, body, namespace, subresource=subresource)

    monkeypatch.setattr(cluster.api, "patch", prune)
    return fields


async def test_it_is_reported_with_the_remedy_until_the_kinds_are_applied(cluster, unknown):
    cluster.vpc("v")
    cluster.attachment("a")
    cluster.attachment("b")
    metadata = {
        "name": "web",
        "labels": {ATTACHMENT_LABEL: "a"},
        "annotations": {ATTACHMENT_ANNOTATION: "a"},
    }
    cluster.api.put(
        PODS, {"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}, "default"
    )
    await cluster.until(
        lambda: cluster.condition("KindsCurrent", "a") and cluster.condition("KindsCurrent", "b")
    )
    for name in ("a", "b"):
        condition = cluster.condition("KindsCurrent", name)
        assert (condition["status"], condition["reason"]) == ("False", "KindOutdated")
        assert "status.carriers, status.configuration" in condition["message"]
        assert "kubectl apply" in condition["message"]
    assert "carriers" not in cluster.status("a")
    await cluster.until(lambda: any(event["reason"] == "KindOutdated" for event in cluster.api.all(EVENTS)))
    unknown.clear()  # the kinds are applied, which has no event
    await asyncio.sleep(OUTDATED_SECONDS + 1)
    await cluster.settled()
    for name in ("a", "b"):
        assert cluster.condition("KindsCurrent", name) is None
        assert cluster.status(name)["configuration"]
    assert cluster.status("a")["carriers"][0]["pod"] == "web"

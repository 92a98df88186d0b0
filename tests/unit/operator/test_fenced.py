"""Whoever does not lead reads, and writes nothing."""

import pytest

from galactic.kube.lease import Deposed, Lease, Terms
from galactic.kube.resources import NAMESPACES, VPCS
from galactic.operator.api import Fenced

VPC = {"metadata": {"name": "v"}, "spec": {"networks": ["10.1.1.0/24"]}}


async def test_only_the_leader_writes(cluster):
    moment = [0.0]
    lease = Lease(cluster.api, "default", "operator", "a", terms=Terms(), clock=lambda: moment[0])
    api = Fenced(cluster.api, lease)
    with pytest.raises(Deposed):
        await api.create(VPCS, VPC, "default")
    with pytest.raises(Deposed):
        await api.evict("web", "default", "uid")
    assert ("evict", "Pod", "web") not in cluster.api.requests
    assert await cluster.api.find(VPCS, "v", "default") is None
    assert len((await api.list(NAMESPACES))[0]) == 2
    assert await lease._attempt()
    await api.create(VPCS, VPC, "default")
    moment[0] = 10.0  # without a renewal
    with pytest.raises(Deposed):
        await api.patch(VPCS, "v", {"status": {"ready": True}}, "default", subresource="status")
    assert (await cluster.api.find(VPCS, "v", "default")).get("status", {}).get("ready") is not True

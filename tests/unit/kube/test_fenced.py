"""A replica that does not lead reads, and writes nothing."""

import pytest

from galactic.kube.fenced import Fenced
from galactic.kube.lease import Candidate, Deposed, Lease, Terms
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import NAMESPACES, VPCS

VPC = {"metadata": {"name": "v"}, "spec": {"networks": ["10.1.1.0/24"]}}


async def test_only_the_leader_writes():
    memory = MemoryApi()
    memory.put(NAMESPACES, {"metadata": {"name": "default"}})
    clock = [0.0]
    lease = Lease(memory, Candidate("default", "operator", "a"), terms=Terms(), clock=lambda: clock[0])
    api = Fenced(memory, lease)
    with pytest.raises(Deposed):
        await api.create(VPCS, VPC, "default")
    with pytest.raises(Deposed):
        await api.evict("web", "default", "uid")
    assert ("evict", "Pod", "web") not in memory.requests
    assert await memory.find(VPCS, "v", "default") is None
    assert len((await api.list(NAMESPACES))[0]) == 1
    assert await lease._attempt(1.0)
    await api.create(VPCS, VPC, "default")
    clock[0] = 10.0  # without a renewal
    with pytest.raises(Deposed):
        await api.patch(VPCS, "v", {"status": {"ready": True}}, "default", subresource="status")
    assert (await memory.find(VPCS, "v", "default")).get("status", {}).get("ready") is not True

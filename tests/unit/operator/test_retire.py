"""Before Galactic is removed: nothing that is left half way refuses pods, and another run finishes the work."""

from typing import Any

import pytest

from galactic.errors import Unreachable
from galactic.kube.client import Objects
from galactic.kube.resources import (
    MUTATING_WEBHOOKS,
    PODS,
    VALIDATING_WEBHOOKS,
    VPC_ATTACHMENTS,
    VPCS,
    Resource,
)
from galactic.names import API_VERSION
from galactic.operator.context import FINALIZER
from galactic.operator.retire import DEPLOYMENTS, RetireSettings, retire

VERSION = (1, 34)
CONFIGURATIONS = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)


class Api:
    """The API server in memory. ``running``: pods of Galactic's that have not ended.

    ``stubborn``: a webhook server that has not ended puts its configurations back when they are first deleted.
    """

    def __init__(self, memory: Any) -> None:
        self.memory, self.running, self.stubborn = memory, 0, True
        self.find, self.patch = memory.find, memory.patch
        for name in ("galactic-operator", "galactic-webhook", "galactic-router"):
            memory.put(DEPLOYMENTS, {"metadata": {"name": name}, "spec": {}}, "galactic-system")
        for configuration in CONFIGURATIONS:
            memory.put(configuration, {"metadata": {"name": "galactic-webhook"}})
        meta = {"name": "blue", "finalizers": [FINALIZER, "other/one"]}
        memory.put(VPCS, {"metadata": meta, "spec": {"networks": ["10.1.1.0/24"]}}, "default")
        reference = {"apiVersion": API_VERSION, "kind": "VPC", "name": "blue"}
        held = {"metadata": {"name": "web", "finalizers": [FINALIZER]}, "spec": {"vpc": reference}}
        memory.put(VPC_ATTACHMENTS, held, "default")

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[Objects, str]:
        if resource == PODS:
            assert "app.kubernetes.io/instance=galactic" in labels
            return [{"metadata": {"name": f"galactic-operator-{n}"}} for n in range(self.running)], ""
        found: tuple[Objects, str] = await self.memory.list(resource, namespace)
        return found

    async def delete(self, resource: Resource, name: str, namespace: str | None = None) -> None:
        if self.memory.stored(resource, name, namespace or "") is None:
            return
        self.memory.delete(resource, name, namespace or "")
        if resource in CONFIGURATIONS and self.stubborn and not self.running:
            self.stubborn = False
            self.memory.put(resource, {"metadata": {"name": name}})

    def configurations(self) -> Objects:
        return [one for kind in CONFIGURATIONS if (one := self.memory.stored(kind, "galactic-webhook"))]

    def finalizers(self) -> Objects:
        held = (
            self.memory.stored(VPCS, "blue", "default"),
            self.memory.stored(VPC_ATTACHMENTS, "web", "default"),
        )
        return [one["metadata"].get("finalizers") for one in held]


async def test_what_ran_out_of_time_refuses_no_pods_and_is_finished_by_the_next_run(cluster: Any) -> None:
    api, settings = Api(type(cluster.api)()), RetireSettings(patience=0.2)
    api.running = 2
    with pytest.raises(Unreachable, match="galactic-operator-0, galactic-operator-1 did not end within"):
        await retire(api, settings, VERSION)
    assert api.configurations() == [], "or no pod of the cluster could be made until somebody tries again"
    assert api.finalizers() == [[FINALIZER, "other/one"], [FINALIZER]], "the operator could put it back"
    api.running = 0
    assert await retire(api, settings, VERSION) == {"VPCAttachment": 1, "VPC": 1}
    assert api.finalizers() == [["other/one"], []]
    assert await retire(api, settings, VERSION) == {"VPCAttachment": 0, "VPC": 0}


async def test_what_a_webhook_put_back_while_it_ended_goes_as_well(cluster: Any) -> None:
    api = Api(type(cluster.api)())
    await retire(api, RetireSettings(), VERSION)
    assert not api.stubborn
    assert api.configurations() == []

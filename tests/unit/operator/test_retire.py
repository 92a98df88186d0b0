"""Before Galactic is removed: nothing that is left half way refuses pods, and another run finishes the work."""

import pytest

from galactic.errors import Unreachable
from galactic.kube.api import Objects
from galactic.kube.memory import MemoryApi
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


class Server(MemoryApi):
    """A webhook server that has not ended puts its configurations back once, when they are first deleted.

    ``run``: so many pods of Galactic's have not ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stubborn = True
        for name in ("galactic-operator", "galactic-webhook", "galactic-router"):
            self.put(DEPLOYMENTS, {"metadata": {"name": name}, "spec": {}}, "galactic-system")
        for configuration in CONFIGURATIONS:
            self.put(configuration, {"metadata": {"name": "galactic-webhook"}})
        meta = {"name": "blue", "finalizers": [FINALIZER, "other/one"]}
        self.put(VPCS, {"metadata": meta, "spec": {"networks": ["10.1.1.0/24"]}}, "default")
        reference = {"apiVersion": API_VERSION, "kind": "VPC", "name": "blue"}
        finalized = {"metadata": {"name": "web", "finalizers": [FINALIZER]}, "spec": {"vpc": reference}}
        self.put(VPC_ATTACHMENTS, finalized, "default")

    def run(self, pods: int) -> None:
        labels = {"app.kubernetes.io/instance": "galactic", "app.kubernetes.io/component": "operator"}
        for pod in list(self.all(PODS)):
            self.remove(PODS, pod["metadata"]["name"], "galactic-system")
        for number in range(pods):
            meta = {"name": f"galactic-operator-{number}", "labels": labels}
            self.put(PODS, {"metadata": meta}, "galactic-system")

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, grace: int | None = None
    ) -> None:
        deleted = self.stored(resource, name, namespace or "") is not None
        await super().delete(resource, name, namespace, grace=grace)
        if deleted and resource in CONFIGURATIONS and self.stubborn and not list(self.all(PODS)):
            self.stubborn = False
            self.put(resource, {"metadata": {"name": name}})

    def configurations(self) -> Objects:
        return [one for kind in CONFIGURATIONS if (one := self.stored(kind, "galactic-webhook"))]

    def finalizers(self) -> Objects:
        finalized = (
            self.stored(VPCS, "blue", "default"),
            self.stored(VPC_ATTACHMENTS, "web", "default"),
        )
        return [one["metadata"].get("finalizers") for one in finalized]


async def test_what_ran_out_of_time_refuses_no_pods_and_is_finished_by_the_next_run() -> None:
    api, settings = Server(), RetireSettings(patience=0.2)
    api.run(2)
    with pytest.raises(Unreachable, match="galactic-operator-0, galactic-operator-1 did not end within"):
        await retire(api, settings, VERSION)
    assert api.configurations() == [], "or no pod of the cluster could be made until somebody tries again"
    assert api.finalizers() == [[FINALIZER, "other/one"], [FINALIZER]], "the operator could put it back"
    api.run(0)
    assert await retire(api, settings, VERSION) == {"VPCAttachment": 1, "VPC": 1}
    assert api.finalizers() == [["other/one"], []]
    assert await retire(api, settings, VERSION) == {"VPCAttachment": 0, "VPC": 0}


async def test_what_a_webhook_put_back_while_it_ended_goes_as_well() -> None:
    api = Server()
    await retire(api, RetireSettings(), VERSION)
    assert not api.stubborn
    assert api.configurations() == []

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
)
from galactic.names import API_VERSION
from galactic.operator.context import FINALIZER
from galactic.operator.retire import DEPLOYMENTS, RetireSettings, retire

CONFIGURATIONS = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
NAMES = ("galactic-admission", "galactic-webhook", "of-others")


class Server(MemoryApi):
    """``run``: so many pods of Galactic's have not ended."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("galactic-operator", "galactic-webhook", "galactic-router"):
            self.put(DEPLOYMENTS, {"metadata": {"name": name}, "spec": {}}, "galactic-system")
        for configuration in CONFIGURATIONS:
            for name in NAMES:
                self.put(configuration, {"metadata": {"name": name}})
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

    def configurations(self) -> Objects:
        return [stored for kind in CONFIGURATIONS for stored in self.all(kind)]

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
        await retire(api, settings)
    left = {configuration["metadata"]["name"] for configuration in api.configurations()}
    assert left == {"of-others"}, (
        "or pods that request an attachment could not be made until the next attempt"
    )
    assert api.finalizers() == [[FINALIZER, "other/one"], [FINALIZER]], "the operator could put it back"
    api.run(0)
    assert await retire(api, settings) == {"VPCAttachment": 1, "VPC": 1}
    assert api.finalizers() == [["other/one"], []]
    assert await retire(api, settings) == {"VPCAttachment": 0, "VPC": 0}

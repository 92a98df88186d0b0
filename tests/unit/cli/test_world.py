"""An Event about a workload whose pods were refused counts for as long as that is so."""

from typing import Any

import pytest
from states import event

from galactic.cli.world import _stands
from galactic.errors import Rejected
from galactic.kube.resources import Resource

REFUSED = 'admission webhook "pods.galactic.datumapis.com" denied the request'


class Kube:
    """One workload, or none."""

    def __init__(self, found: dict[str, Any] | None) -> None:
        self.found = found

    async def find(
        self, resource: Resource, name: str, namespace: str | None = None
    ) -> dict[str, Any] | None:
        assert (resource.kind, namespace, name) == ("ReplicaSet", "blue", "web")
        if self.found == {}:
            raise Rejected("you may not", reason="Forbidden")
        return self.found


def replica_set(uid: str = "1", wished: int = 2, there: int = 0) -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "spec": {"replicas": wished}, "status": {"replicas": there}}


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        pytest.param(replica_set(), True, id="it-still-lacks-pods"),
        pytest.param(replica_set(there=1), True, id="it-lacks-one"),
        pytest.param(replica_set(there=2), False, id="it-has-them-all"),
        pytest.param(replica_set(wished=0), False, id="it-wants-none"),
        pytest.param(replica_set(uid="2"), False, id="another-of-that-name"),
        pytest.param(None, False, id="gone"),
        pytest.param({}, True, id="not-to-be-read"),
    ],
)
async def test_a_refused_workload(found: dict[str, Any] | None, stands: bool) -> None:
    told = event("ReplicaSet", "blue/web", "FailedCreate", REFUSED)
    told["involvedObject"]["uid"] = "1"
    assert await _stands(Kube(found), told) is stands  # type: ignore[arg-type]


async def test_other_events_are_not_asked_about() -> None:
    assert await _stands(Kube(None), event("Pod", "blue/web", "FailedCreatePodSandBox", "code 11"))  # type: ignore[arg-type]

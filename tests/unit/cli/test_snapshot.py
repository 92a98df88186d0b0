"""An Event about refused pods counts while its workload lacks pods."""

from typing import Any

import pytest
from states import event

from galactic.cli.snapshot import _unresolved
from galactic.errors import Rejected
from galactic.kube.resources import Resource

REFUSED = 'admission webhook "pods.galactic.datumapis.com" denied the request'


class Kube:
    """Workloads by kind, and the kinds that were listed."""

    def __init__(self, **kinds: list[dict[str, Any]] | None) -> None:
        self.kinds = kinds
        self.asked: list[str] = []

    async def list(self, resource: Resource) -> tuple[list[dict[str, Any]], str]:
        self.asked.append(resource.kind)
        items = self.kinds.get(resource.kind, [])
        if items is None:
            raise Rejected("you may not", reason="Forbidden")
        return items, "1"


def workload(uid: str = "1", wished: int = 2, running: int = 0) -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "spec": {"replicas": wished}, "status": {"replicas": running}}


def refusal(uid: str = "1", kind: str = "ReplicaSet") -> dict[str, Any]:
    refused = event(kind, "blue/web", "FailedCreate", REFUSED)
    refused["involvedObject"]["uid"] = uid
    return refused


@pytest.mark.parametrize(
    ("running", "stands"),
    [
        pytest.param([workload()], True, id="it-still-lacks-pods"),
        pytest.param([workload(running=1)], True, id="it-lacks-one"),
        pytest.param([workload(running=2)], False, id="it-has-them-all"),
        pytest.param([workload(wished=0)], False, id="it-wants-none"),
        pytest.param([workload(uid="2")], False, id="another-of-that-name"),
        pytest.param([], False, id="gone"),
        pytest.param(None, True, id="not-to-be-read"),
    ],
)
async def test_a_refused_workload(running: list[dict[str, Any]] | None, stands: bool) -> None:
    refused = refusal()
    expected = [refused] if stands else []
    assert await _unresolved(Kube(ReplicaSet=running), [refused]) == expected  # type: ignore[arg-type]


async def test_a_hundred_refusals_are_one_question_a_kind() -> None:
    kube = Kube(ReplicaSet=[workload(str(at), running=at % 2 * 2) for at in range(100)], StatefulSet=None)
    refused = [refusal(str(at)) for at in range(100)]
    others = [refusal(kind="StatefulSet"), event("Pod", "blue/web", "BackOff", "…")]
    stand = await _unresolved(kube, [*refused, *others])  # type: ignore[arg-type]
    assert stand == [*refused[::2], *others]
    assert sorted(kube.asked) == ["ReplicaSet", "StatefulSet"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(event("Pod", "blue/web", "FailedCreatePodSandBox", "galactic: code 11"), id="a-pod"),
        pytest.param(event("ReplicaSet", "blue/web", "FailedCreate", "exceeded quota"), id="not-ours"),
        pytest.param(event("Job", "blue/web", "FailedCreate", REFUSED), id="a-job"),
        pytest.param({"reason": "FailedCreate", "message": REFUSED}, id="about-nothing"),
    ],
)
async def test_other_events_are_not_asked_about(other: dict[str, Any]) -> None:
    kube = Kube()
    assert await _unresolved(kube, [other]) == [other]  # type: ignore[arg-type]
    assert not kube.asked

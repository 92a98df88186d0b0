"""Which cluster an API server is of."""

import pytest

from galactic.errors import Rejected, Unreachable
from galactic.kube import cluster
from galactic.kube.cluster import cluster_uid
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import NAMESPACES


async def test_the_uid_is_that_of_kube_system() -> None:
    api = MemoryApi()
    assert await cluster_uid(api) == ""
    api.put(NAMESPACES, {"metadata": {"name": "other"}})
    made = api.put(NAMESPACES, {"metadata": {"name": "kube-system"}})
    assert await cluster_uid(api) == made["metadata"]["uid"]


async def test_the_role_of_an_earlier_chart_leaves_it_unknown() -> None:
    api = MemoryApi()
    api.put(NAMESPACES, {"metadata": {"name": "kube-system"}})
    api.fail = lambda *_: Rejected("namespaces is forbidden", reason="Forbidden")
    assert await cluster_uid(api) == ""


async def test_an_api_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "BACKOFF_SECONDS", (0.001, 0.002))
    api, answers = MemoryApi(), iter([Unreachable("kube-apiserver", "away")] * 3)
    made = api.put(NAMESPACES, {"metadata": {"name": "kube-system"}})
    api.fail = lambda *_: next(answers, None)
    assert await cluster_uid(api) == made["metadata"]["uid"]

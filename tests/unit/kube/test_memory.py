"""The API server in memory answers as a real one where a client depends on it."""

import asyncio

import pytest

from galactic.errors import Unreachable
from galactic.kube.api import Conflict, NotFound
from galactic.kube.memory import MemoryApi, selected
from galactic.kube.resources import NODES, PODS, VPCS

VPC = {"metadata": {"name": "v", "labels": {"team": "a"}}, "spec": {"networks": ["10.1.1.0/24"]}}


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


async def test_a_write_onto_an_older_version_conflicts(api: MemoryApi) -> None:
    made = await api.create(VPCS, VPC, "ns")
    await api.patch(VPCS, "v", {"spec": {"identifier": "0000000004d2"}}, "ns")
    stale = {"resourceVersion": made["metadata"]["resourceVersion"]}
    with pytest.raises(Conflict):
        await api.patch(VPCS, "v", {"metadata": stale, "status": {"ready": True}}, "ns", subresource="status")
    with pytest.raises(Conflict):
        await api.replace(VPCS, made)
    with pytest.raises(Conflict):
        await api.create(VPCS, VPC, "ns")
    with pytest.raises(NotFound):
        await api.patch(VPCS, "w", {}, "ns")
    assert (await api.find(VPCS, "v", "ns"))["metadata"]["generation"] == 2


async def test_the_status_is_written_apart(api: MemoryApi) -> None:
    made = await api.create(VPCS, VPC, "ns")
    await api.patch(VPCS, "v", {"spec": {"networks": []}, "status": {"ready": True}}, "ns")
    await api.patch(VPCS, "v", {"spec": {"networks": []}, "status": {"x": 1}}, "ns", subresource="status")
    now = await api.find(VPCS, "v", "ns")
    assert (now["spec"], now["status"]) == ({"networks": []}, {"x": 1})
    replaced = await api.replace(VPCS, made | {"metadata": now["metadata"]})
    assert (replaced["spec"], replaced["status"]) == (VPC["spec"], {"x": 1})


async def test_a_watch_goes_on_from_where_the_list_ended(api: MemoryApi) -> None:
    api.put(VPCS, VPC, "ns")
    _, version = await api.list(VPCS, labels="team=a")
    stream = api.watch(VPCS, version, "ns", labels="team=a", fields="metadata.name=v")
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    api.put(NODES, {"metadata": {"name": "v", "labels": {"team": "a"}}})
    api.put(VPCS, VPC, "elsewhere")
    api.change(VPCS, "v", {"spec": {}}, "ns")
    api.put(VPCS, VPC | {"metadata": {"name": "w"}}, "ns")
    api.remove(VPCS, "v", "ns")
    assert [(await first).type, (await anext(stream)).type] == ["MODIFIED", "DELETED"]


async def test_an_object_that_leaves_a_selection_is_deleted_from_its_watch(api: MemoryApi) -> None:
    """And added to that of the selection that it enters, as the API server does."""
    api.put(VPCS, VPC, "ns")
    _, version = await api.list(VPCS)
    of_a, of_b = (api.watch(VPCS, version, labels=f"team={team}") for team in "ab")
    for team in ("b", "b", "a"):
        api.change(VPCS, "v", {"metadata": {"labels": {"team": team}}}, "ns")
    assert [(await anext(of_a)).type for _ in range(2)] == ["DELETED", "ADDED"]
    assert [(await anext(of_b)).type for _ in range(3)] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_restart_ends_watches(api: MemoryApi) -> None:
    stream = api.watch(VPCS, "0")
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    api.restart()
    with pytest.raises(Unreachable):
        await waiting


async def test_what_a_deleted_object_owns_goes_with_it_once_finalizers_are_off(api: MemoryApi) -> None:
    api.put(PODS, {"metadata": {"name": "p", "finalizers": ["one"]}}, "ns")
    owner = {"uid": api.stored(PODS, "p", "ns")["metadata"]["uid"]}
    api.put(VPCS, VPC | {"metadata": {"name": "v", "ownerReferences": [owner]}}, "ns")
    await api.delete(PODS, "p", "ns")
    assert api.stored(VPCS, "v", "ns")
    await api.patch(PODS, "p", {"metadata": {"finalizers": []}}, "ns")
    assert not api.stored(PODS, "p", "ns")
    assert not api.stored(VPCS, "v", "ns")


@pytest.mark.parametrize(
    ("labels", "has"),
    [
        pytest.param("", True, id="none"),
        pytest.param("team", True, id="name"),
        pytest.param("team=a", True, id="value"),
        pytest.param("team=b", False, id="another-value"),
        pytest.param("team=a,absent", False, id="all-must-match"),
        pytest.param("team in (b,a),team", True, id="set"),
        pytest.param("team in (b,c)", False, id="not-in-set"),
    ],
)
def test_label_selectors(labels: str, has: bool) -> None:
    assert selected(VPC, labels, None) == has

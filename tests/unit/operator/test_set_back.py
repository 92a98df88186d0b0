"""A restored etcd: older objects, and resource versions that begin again at lower numbers."""

import asyncio
from typing import Any

import pytest

from galactic.errors import Rejected
from galactic.kube import reflector as module
from galactic.kube.api import Api, Event, Object
from galactic.kube.informer import Informer
from galactic.kube.memory import MemoryApi
from galactic.kube.reflector import Reflector, Selection
from galactic.kube.resources import ENDPOINT_SLICES, SERVICES, STATEFUL_SETS, VPC_ATTACHMENTS, VPCS
from galactic.operator.cache import Cache
from galactic.operator.reflectors import CacheReflector

KEY = ("ns", "a")


def value(item: Object) -> Any:
    return item["spec"]["value"]


class Caching:
    """The operator's cache with its reflector. ``alarms``: how often it noticed older data."""

    def __init__(self, api: Api) -> None:
        self.alarms = 0
        self.cache: Cache[Any] = Cache(Selection(VPC_ATTACHMENTS), value)
        self.run = CacheReflector(api, self.cache, self._alarm).run

    def _alarm(self) -> None:
        self.alarms += 1

    def values(self) -> dict[str, Any]:
        return {key[1]: value_ for key, value_ in self.cache.items()}


class Informing:
    """The cache of router, node and webhook: an informer's calls."""

    def __init__(self, api: Api, *, cached: bool = False) -> None:
        self._values: dict[str, Any] = {}
        self.run = Informer(api, Selection(VPC_ATTACHMENTS, cached=cached), self._changed).run

    def _changed(self, key: tuple[str, str], _old: Object | None, new: Object | None) -> None:
        if new is None:
            self._values.pop(key[1], None)
        else:
            self._values[key[1]] = value(new)

    def values(self) -> dict[str, Any]:
        return self._values


def put(api: MemoryApi, name: str, number: int) -> None:
    api.put(VPC_ATTACHMENTS, {"metadata": {"name": name}, "spec": {"value": number}}, "ns")


def change(api: MemoryApi, name: str, number: int) -> None:
    api.change(VPC_ATTACHMENTS, name, {"spec": {"value": number}}, "ns")


@pytest.mark.parametrize("follower", [Caching, Informing])
async def test_a_list_is_the_truth_whatever_its_version(
    follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.001, 0.002))
    api = MemoryApi()
    for name in ("a", "removed"):
        put(api, name, 1)
    restore = api.backup()
    made = follower(api)
    running = asyncio.create_task(made.run())
    try:
        await until(lambda: made.values() == {"a": 1, "removed": 1})
        for number in range(2, 20):
            change(api, "a", number)
        api.remove(VPC_ATTACHMENTS, "removed", "ns")
        put(api, "later", 1)
        await until(lambda: made.values() == {"a": 19, "later": 1})

        restore()
        await until(lambda: made.values() == {"a": 1, "removed": 1})
        change(api, "a", 77)  # its version is lower than that of the value 19
        put(api, "new", 5)
        await until(lambda: made.values() == {"a": 77, "removed": 1, "new": 5})
        if isinstance(made, Caching):
            assert made.alarms == 1
    finally:
        running.cancel()


@pytest.mark.parametrize("follower", [Caching, Informing])
async def test_an_equal_version_may_be_another_object(follower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions of two histories meet: the lost one wrote 3 where the new one writes 4."""
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.001, 0.002))
    api = MemoryApi()
    put(api, "a", 1)
    put(api, "b", 1)
    restore = api.backup()
    made = follower(api)
    running = asyncio.create_task(made.run())
    try:
        await until(lambda: made.values() == {"a": 1, "b": 1})
        change(api, "a", 3)
        change(api, "b", 2)
        await until(lambda: made.values() == {"a": 3, "b": 2})
        restore()
        change(api, "a", 4)
        await until(lambda: made.values() == {"a": 4, "b": 1})
    finally:
        running.cancel()


async def test_the_reconcilers_own_list_is_the_truth_as_well(cluster: Any) -> None:
    """Kinds that kopf watches: their watch is started again, but reports only what exists."""
    cluster.vpc("v")
    await cluster.settled()
    restore = cluster.api.backup()
    cluster.vpc("later", "10.2.2.0/24")
    cluster.api.change(VPCS, "v", {"spec": {"networks": ["10.3.3.0/24"]}}, "default")
    await cluster.settled()
    restore()
    await cluster.reconciler.resync()
    await cluster.settled()
    cache = cluster.reconciler.caches.vpcs
    assert [key[1] for key in cache] == ["v"]
    assert cache.get(("default", "v")).spec.networks == ("10.1.1.0/24",)
    assert cluster.reconciler.allocator.vpcs.of(("default", "later")) is None


async def test_an_answer_that_came_during_the_list_is_newer_than_the_list() -> None:
    cache: Cache[Any] = Cache(Selection(VPC_ATTACHMENTS), value)

    def item(version: int, number: int) -> Object:
        metadata = {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": str(version)}
        return {"metadata": metadata, "spec": {"value": number}}

    cache.set(item(5, 1))
    since = cache.clock
    cache.set(item(7, 2))  # the answer to a request of our own
    cache.set_listed(item(5, 1), since)
    assert cache.get(KEY) == 2
    cache.remove(KEY, "u", "8")
    cache.set_listed(item(7, 2), since)
    assert cache.get(KEY) is None
    cache.set_listed(item(6, 3), cache.clock)
    assert cache.get(KEY) == 3


async def test_a_watch_from_a_version_that_the_server_has_not_reached_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old watch ended in order, so that nothing has failed: the server sends no bookmark any more."""
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.05)
    lists = asyncio.Queue[str]()

    class Server:
        version, streams = "900", 0

        async def pages(self, *_: object, **__: object) -> Any:
            lists.put_nowait(self.version)
            yield [], self.version

        async def watch(self, _resource: object, version: str, *_: object, **__: object) -> Any:
            self.streams += 1
            if self.streams == 1:
                yield Event("BOOKMARK", {"metadata": {"resourceVersion": "901"}})
                self.version = "300"  # restored, and the stream ends
            elif int(version) > int(self.version):
                await asyncio.Event().wait()
            else:
                while True:
                    await asyncio.sleep(0.01)
                    yield Event("BOOKMARK", {"metadata": {"resourceVersion": self.version}})

    made = Caching(MemoryApi())
    running = asyncio.create_task(
        Reflector(Server(), Selection(VPC_ATTACHMENTS), CacheReflector(MemoryApi(), made.cache)).run()
    )
    try:
        async with asyncio.timeout(10):
            assert [await lists.get(), await lists.get()] == ["900", "300"]
        await asyncio.sleep(0.2)
        assert lists.empty(), "bookmarks are enough"
    finally:
        running.cancel()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_role_of_an_earlier_chart_stops_only_later_kinds(cluster: Any) -> None:
    def forbidden(verb: str, resource: Any, name: str) -> Rejected | None:
        del name
        return Rejected("forbidden", reason="Forbidden") if verb == "list" and resource in refused else None

    refused = [STATEFUL_SETS, SERVICES, ENDPOINT_SLICES]
    cluster.vpc("v")
    cluster.api.fail = forbidden
    await cluster.reconciler.restore()
    assert [key[1] for key in cluster.reconciler.caches.vpcs] == ["v"]
    refused.append(VPCS)
    with pytest.raises(Rejected):
        await cluster.reconciler.restore()

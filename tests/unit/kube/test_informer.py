"""List, then watch: whatever happens to the stream, the cache ends up as the API server has it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.kube import reflector as module
from galactic.kube.api import Event, Expired, Object
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import PODS, VPCS


def pod(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version)}}


class Script:
    """An API server that answers each list and each watch with the next step of its script."""

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.watched_from: list[str] = []
        self.least: list[str] = []
        self.done = asyncio.Event()

    async def pages(self, *_: object, least: str, **__: object) -> AsyncIterator[tuple[list[Object], str]]:
        """One object in each page, and an empty last one."""
        self.least.append(least)
        step = await self._next()
        if isinstance(step, GalacticError):
            raise step
        version = str(max((int(item["metadata"]["resourceVersion"]) for item in step), default=0))
        for item in step:
            yield [item], version
        yield [], version

    async def watch(self, _resource: object, version: str, *_: object, **__: object) -> AsyncIterator[Event]:
        self.watched_from.append(version)
        step = await self._next()
        if isinstance(step, GalacticError):
            raise step
        for kind, item in step:
            yield Event(kind, item)

    async def _next(self) -> object:
        if not self.steps:
            self.done.set()
            await asyncio.Event().wait()
        return self.steps.pop(0)


async def outcome(script: Script, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], list[tuple]]:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.001, 0.002))
    changes: list[tuple] = []
    watched = Informer(
        script, Selection(PODS), lambda key, _old, new: changes.append((key[1], new is not None))
    )
    task = asyncio.create_task(watched.run())
    async with asyncio.timeout(60):
        await script.done.wait()
    task.cancel()
    return {name for _, name in watched.objects}, changes


@pytest.mark.parametrize(
    ("steps", "names", "changes"),
    [
        pytest.param(
            [[pod("a", 1)], [("ADDED", pod("b", 2)), ("DELETED", pod("a", 3))]],
            {"b"},
            [("a", True), ("b", True), ("a", False)],
            id="list-then-watch",
        ),
        pytest.param(
            [[pod("a", 1), pod("b", 1)], Expired(""), [pod("b", 5)]],
            {"b"},
            [("a", True), ("b", True), ("b", True), ("a", False)],
            id="expired-lists-again-and-notices-what-went",
        ),
        pytest.param(
            [
                [pod("a", 1)],
                Unreachable("kube-apiserver", "away"),
                Unreachable("kube-apiserver", "away"),
                [pod("a", 1)],
            ],
            {"a"},
            [("a", True)],
            id="an-outage-forgets-nothing-and-repeats-nothing",
        ),
        pytest.param([Rejected("forbidden"), [pod("a", 1)]], {"a"}, [("a", True)], id="refused-then-granted"),
        pytest.param(
            [[pod("a", 1)], [], [("MODIFIED", pod("a", 2))]],
            {"a"},
            [("a", True), ("a", True)],
            id="stream-ends",
        ),
    ],
)
async def test_cache(
    steps: list, names: set[str], changes: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await outcome(Script(*steps), monkeypatch) == (names, changes)


async def test_a_bookmark_moves_the_watch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([pod("a", 1)], [("BOOKMARK", {"metadata": {"resourceVersion": "9"}})], [])
    await outcome(script, monkeypatch)
    assert script.watched_from[:2] == ["1", "9"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(PODS.path(), "/api/v1/pods", id="core-all"),
        pytest.param(PODS.path("ns", "a"), "/api/v1/namespaces/ns/pods/a", id="core-one"),
        pytest.param(
            VPCS.path("ns", "a", "status"),
            "/apis/galactic.datumapis.com/v1alpha/namespaces/ns/vpcs/a/status",
            id="subresource",
        ),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize(
    ("cached", "least"),
    [
        pytest.param(False, ["", "", "", "", ""], id="consistent-lists"),
        pytest.param(True, ["0", "1", "7", "7", "0"], id="from-memory-never-older-than-seen"),
    ],
)
async def test_how_fresh_a_list_must_be(
    cached: bool, least: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.001, 0.002))
    script = Script(
        [pod("a", 1)],
        Expired(""),
        [pod("a", 1)],
        [("MODIFIED", pod("a", 7))],
        Expired(""),
        Unreachable("kube-apiserver", "away"),
        Unreachable("kube-apiserver", "504 Timeout: Too large resource version: 7, current: 3"),
        [pod("a", 3)],
    )
    task = asyncio.create_task(Informer(script, Selection(PODS, cached=cached)).run())
    async with asyncio.timeout(60):
        await script.done.wait()
    task.cancel()
    assert script.least == least


async def test_a_long_list_leaves_other_tasks_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Lease is renewed, and messages are read, while tens of thousands of objects arrive."""
    monkeypatch.setattr(module, "TURN", 3)
    script = Script([pod(f"p{number}", number + 1) for number in range(50)])

    async def pages(*_: object, **__: object) -> AsyncIterator[tuple[list[Object], str]]:
        yield await script._next(), "50"  # one page, as from an API server's memory

    monkeypatch.setattr(script, "pages", pages)
    since, longest = 0, 0

    def changed(*_: object) -> None:
        nonlocal since, longest
        since += 1
        longest = max(longest, since)

    async def other() -> None:
        nonlocal since
        while True:
            since = 0
            await asyncio.sleep(0)

    tasks = [
        asyncio.create_task(Informer(script, Selection(PODS), changed).run()),
        asyncio.create_task(other()),
    ]
    async with asyncio.timeout(60):
        await script.done.wait()
    for task in tasks:
        task.cancel()
    assert longest == 3

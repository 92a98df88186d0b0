"""The connectivity test detects wrong answers, over real sockets and from its pods' states."""

import asyncio
import functools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from galactic.cli import probe
from galactic.cli.connectivity_plan import PODS, ConnectivityPlan
from galactic.errors import Rejected

PLAN = ConnectivityPlan("space", ["node-1", "node-2"], "image", 10.0)


@asynccontextmanager
async def answering(name: str) -> AsyncIterator[int]:
    """The port of a server on all addresses. A free port may be taken meanwhile: then another is tried."""
    task: asyncio.Task[None] | None = None
    while task is None or task.done():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        task = asyncio.create_task(probe.answer(name, port))
        while not task.done() and await probe.answering_name("127.0.0.1", port) != name:
            await asyncio.sleep(0.01)
        if task.done():
            assert isinstance(task.exception(), OSError)
    try:
        yield port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_who_answers_is_who_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "answering_name", functools.partial(probe.answering_name, seconds=120.0))
    async with answering("blue-1") as port:
        targets = [
            probe.target(text)
            for text in ("127.0.0.1=blue-1", "::1=blue-1", "127.0.0.2=green-1", "127.0.0.3=")
        ]
        results = await probe.results(targets, 0.0, port)
    assert {str(result.target): (result.found, result.right) for result in results} == {
        "127.0.0.1=blue-1": ("blue-1", True),
        "::1=blue-1": ("blue-1", True),
        "127.0.0.2=green-1": ("blue-1", False),
        "127.0.0.3=": ("blue-1", False),
    }


async def test_no_pod_answers() -> None:
    with socket.socket() as closed:  # no process listens on it
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        results = await probe.results([probe.target("127.0.0.1=x"), probe.target("127.0.0.1=")], 0.0, port)
    assert [(result.found, result.right) for result in results] == [("", False), ("", True)]


@pytest.mark.parametrize("given", ["10.1.1.1", "nonsense=x", "=x", f"10.1.1.1={'x' * 65}"])
def test_targets_that_are_none(given: str) -> None:
    with pytest.raises(Rejected, match="--ask"):
        probe.target(given)


def pods(code: int = 0, message: str = "") -> dict[str, Any]:
    ended = {"name": "probe", "state": {"terminated": {"exitCode": code, "message": message}}}
    running = {"name": "answer", "state": {"running": {}}}
    return {
        name: {"status": {"phase": "Running", "containerStatuses": [running, ended]}} for _, name, *_ in PODS
    }


def test_all_is_well() -> None:
    results = PLAN.results(pods(), [])
    assert PLAN.finished(pods())
    assert all(result["right"] for result in results)
    assert [result for result in results if result["from"] == "green-1" and result["expected"] == ""], (
        "isolation is asked for"
    )


def test_the_wrong_one_answers() -> None:
    states = pods()
    wrong = "10.254.0.2=green-2 found=blue-2\n10.254.0.3= found=blue-3\n"
    states["green-1"] = pods(3, wrong)["green-1"]
    results = {(result["from"], result["to"]): result for result in PLAN.results(states, [])}
    assert [key for key, result in results.items() if not result["right"]] == [
        ("green-1", "10.254.0.2"),
        ("green-1", "10.254.0.3"),
    ]
    assert results["green-1", "10.254.0.3"]["found"] == "blue-3"


@pytest.mark.parametrize(
    ("pod", "event", "why"),
    [
        pytest.param(None, "", "the pod is gone", id="gone"),
        pytest.param(
            {"status": {"phase": "Pending"}}, "code 11: no prefix", "code 11: no prefix", id="pending"
        ),
        pytest.param(
            {
                "status": {
                    "phase": "Pending",
                    "containerStatuses": [
                        {"name": "probe", "state": {"waiting": {"message": "ImagePullBackOff"}}}
                    ],
                }
            },
            *("", "ImagePullBackOff"),
            id="image",
        ),
        pytest.param(
            pods(127, "galactic: not found")["blue-1"], "", "127: galactic: not found", id="crashed"
        ),
    ],
)
def test_a_pod_that_could_not_ask(pod: Any, event: str, why: str) -> None:
    states = pods() | {"blue-1": pod}
    events = [{"involvedObject": {"name": "blue-1"}, "message": event}] if event else []
    results = [result for result in PLAN.results(states, events) if result["from"] == "blue-1"]
    assert results
    assert not any(result["right"] for result in results)
    assert all(why in result["why"] for result in results)


def test_pods_ask_for_no_privileges() -> None:
    for pod in PLAN.pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"]

"""A trace inspects the nodes of both pods, walks both directions, and repeats unanswered echo requests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from states import VPC_ID, fine, pod, snapshot
from test_walk import SID, VPC, kernel

from galactic.cli import trace
from galactic.cli.cluster_options import DEGRADED, FINE, Absent
from galactic.errors import Unreachable
from galactic.names import host_end

INSIDE = {"node-1": "/run/netns/web@galactic0", "node-2": "/run/netns/api@galactic0"}
COUNTERS = {"drops": [], "links": {host_end(VPC, number): {"rx_packets": 3} for number in (1, 2)}}
"""Three packets came out of either pod, and no rule dropped any."""


class Options:
    """Options whose client is never used: the snapshot is recorded."""

    seconds = 60.0

    @asynccontextmanager
    async def kube(self) -> AsyncIterator[None]:
        yield None

    def run(self, work: Any, *, seconds: float) -> Any:
        assert seconds >= self.seconds
        return asyncio.run(work)


class Nodes:
    """Two nodes and a router. ``answered``: echo requests that each pod gets an answer to."""

    def __init__(self, answered: int = 3, lost: str = "") -> None:
        self._answered, self._lost = answered, lost
        self.asked: list[tuple[str, list[str]]] = []

    async def router_tables(self, vpcs: Sequence[str]) -> list[dict[str, Any]]:
        raise Unreachable("router", f"no router has {vpcs}")

    async def inspect(self, node: str, arguments: Sequence[str]) -> dict[str, Any]:
        self.asked.append((node, [*arguments]))
        if node == self._lost:
            raise Unreachable("node", "no pod of galactic-node runs there")
        words = [word for flag, word in pairwise(arguments) if flag == "--echo"]
        echoes = {word.rpartition("@")[0]: self._echo(int(word.rpartition("@")[2])) for word in words}
        return kernel(int(node[-1])) | {"drops": [], "echoes": echoes}

    def _echo(self, size: int) -> dict[str, Any]:
        plain = {"sent": 3, "answered": self._answered, "size": size, "milliseconds": 1.0, "refused": ""}
        return plain | {"errors": [], "gateways": {}, **COUNTERS}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_kube: None) -> Any:
        return snapshot(fine())

    monkeypatch.setattr("galactic.cli.snapshot.read", read)


def traced(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, *, probe: bool = True) -> list[dict[str, Any]]:
    monkeypatch.setattr("galactic.cli.cluster_access.cluster_access", lambda _options, _kube: nodes)
    work = trace.traced(Options(), "blue/web", "blue/api", probe=probe)  # type: ignore[arg-type]
    paths: list[dict[str, Any]] = asyncio.run(work)["ways"]
    return paths


@pytest.mark.usefixtures("recorded")
def test_both_directions_are_walked_with_one_inspection_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes()
    paths = traced(nodes, monkeypatch)
    assert [(path["from"], path["to"]) for path in paths] == [
        ("blue/web", "10.1.1.2"),
        ("blue/api", "10.1.1.1"),
    ]
    assert [{hop.state for hop in path["hops"]} for path in paths] == [{"passes"}, {"passes"}]
    assert [path["hops"][-1].what for path in paths] == ["answers: 3 of 3 echo requests, 1 ms"] * 2
    both = ["--way", f"{VPC_ID}@10.1.1.2", "--way", SID[2]], ["--way", f"{VPC_ID}@10.1.1.1", "--way", SID[1]]
    pods = {node: ["--vpc", VPC_ID, "--resolve", "--pod", INSIDE[node]] for node in INSIDE}
    first, second = (f"{INSIDE['node-1']}@10.1.1.2@431", f"{INSIDE['node-2']}@10.1.1.1@432")
    assert sorted(nodes.asked) == [
        ("node-1", [*pods["node-1"], *both[0], "--echo", first, *both[1]]),
        ("node-2", [*pods["node-2"], *both[0], *both[1], "--echo", second]),
    ]


@pytest.mark.usefixtures("recorded")
def test_without_probes_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes()
    assert {hop.state for path in traced(nodes, monkeypatch, probe=False) for hop in path["hops"]} == {
        "passes"
    }
    words = {word for _, arguments in nodes.asked for word in arguments}
    assert not words & {"--echo", "--resolve"}


@pytest.mark.usefixtures("recorded")
def test_unanswered_requests_are_sent_again_with_the_counters_of_the_other_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Nodes(answered=0)
    paths = traced(nodes, monkeypatch)
    assert [path["hops"][-1].state for path in paths] == ["unknown", "unknown"]
    again = [(node, "--echo" in arguments) for node, arguments in nodes.asked[2:]]
    expected = [("node-2", False), ("node-1", True), ("node-2", False)]
    assert again == [*expected, ("node-1", False), ("node-2", True), ("node-1", False)]


@pytest.mark.usefixtures("recorded")
def test_a_node_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, back = traced(Nodes(lost="node-2"), monkeypatch)
    assert [hop.state for hop in forward["hops"]].count("unknown") == 1
    assert [(hop.where, hop.state) for hop in back["hops"]] == [("node node-2", "unknown")]


class Waking(Nodes):
    """Node 2 can be inspected from the second trace on."""

    async def inspect(self, node: str, arguments: Sequence[str]) -> dict[str, Any]:
        first = "node-2" not in [asked for asked, _ in self.asked]
        self._lost = "node-2" if first else ""
        return await super().inspect(node, arguments)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("wait", "code"), [(False, DEGRADED), (True, FINE)])
def test_with_wait_it_traces_until_the_packets_arrive(
    monkeypatch: pytest.MonkeyPatch, wait: bool, code: int
) -> None:
    nodes = Waking()
    monkeypatch.setattr("galactic.cli.cluster_access.cluster_access", lambda _options, _kube: nodes)
    monkeypatch.setattr(trace, "PAUSE_SECONDS", 0.0)
    assert trace.trace(Options(), "blue/web", "blue/api", wait=wait) == code  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", [Unreachable("kube-apiserver", "x"), trace.NotAttached("not yet")])
def test_a_wait_outlasts_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    found: list[Exception | None] = [problem, None]

    async def traced(*_: object, **__: object) -> dict[str, Any]:
        if now := found.pop(0):
            raise now
        return {"ways": []}

    monkeypatch.setattr(trace, "traced", traced)
    monkeypatch.setattr(trace, "PAUSE_SECONDS", 0.0)
    assert trace.trace(Options(), "blue/web", "blue/api", wait=True) == FINE  # type: ignore[arg-type]
    assert not found
    found[:] = [problem]
    with pytest.raises(type(problem)):
        trace.trace(Options(), "blue/web", "blue/api")  # type: ignore[arg-type]


@pytest.mark.usefixtures("recorded")
def test_a_wait_ends_with_the_last_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(lost="node-2")
    monkeypatch.setattr("galactic.cli.cluster_access.cluster_access", lambda _options, _kube: nodes)
    assert trace.trace(Options(), "blue/web", "blue/api", wait=True, timeout=0.0) == DEGRADED  # type: ignore[arg-type]


def test_a_pod_that_its_node_refuses_is_no_unknown_pod() -> None:
    seen = snapshot(fine())
    seen.refused = {"red/thief": pod("thief", 2)}
    with pytest.raises(Absent, match="its node refuses it; for the reason: galactic status"):
        trace._place(seen, {}, "red/thief", "default")

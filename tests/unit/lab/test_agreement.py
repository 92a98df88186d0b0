"""Settings that may change in a lab that is up, and those of a lab that joins another."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from galactic.errors import Rejected
from galactic_lab import agreement, state
from galactic_lab.agreement import agreed, joined
from galactic_lab.state import State

EAST = State("east", nodes=3, standalone=True, linux_source="linux-source-6.1=6.1.176-1")


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes labs that are up."""
    monkeypatch.setattr(state, "HOME", tmp_path)
    monkeypatch.setattr(agreement.Supervisor, "running", lambda self: True)

    def make(*labs: State) -> None:
        for lab in labs:
            lab.save()

    return make


def asked(name: str, join: str | None = None, **more: Any) -> State:
    free = {key: more.pop(key) for key in ("routers", "database", "standalone") if key in more}
    return agreed(name, {"nodes": None, "latency": None, "join": join} | more, free)


def test_what_may_change_and_what_may_not(keep: Any) -> None:
    keep(EAST)
    assert asked("east") == EAST
    changed = asked("east", routers=2, database=True, standalone=False)
    assert (changed.routers, changed.database, changed.standalone) == (2, True, False)
    with pytest.raises(Rejected, match="is up with 3, not 2"):
        asked("east", nodes=2)


def test_a_lab_keeps_its_guest_kernel(keep: Any) -> None:
    assert asked("new").linux == "backports"
    assert asked("new", linux="newest").linux == "newest"
    with pytest.raises(Rejected, match="no guest kernel '7'; there are pinned, newest"):
        asked("new", linux="7")
    keep(EAST)
    assert asked("east", linux="backports") == EAST
    with pytest.raises(Rejected, match="is up with backports, not newest"):
        asked("east", linux="newest")


@pytest.mark.parametrize("more", [{"routers": 0}, {"routers": 4}, {"nodes": -1}, {"nodes": 65}])
def test_out_of_range(keep: Any, more: dict[str, int]) -> None:
    with pytest.raises(Rejected, match=f"not {next(iter(more.values()))}"):
        asked("new", **more)


def test_who_joins_has_a_place_of_its_own(keep: Any) -> None:
    keep(EAST)
    west = asked("west", "east", nodes=1)
    keep(west)
    south = asked("south", "east", nodes=2)
    assert [node.name for lab in (EAST, west, south) for node in lab.members] == [
        *("node-1", "node-2", "node-3"),
        "node-4",
        *("node-5", "node-6"),
    ]
    for name in ("cluster", "control", "namespace", "root"):
        assert len({getattr(lab, name) for lab in (EAST, west, south)}) == 3
    for name in ("fabric", "broker", "linux", "linux_source", "mqtt_url"):
        assert len({getattr(lab, name) for lab in (EAST, west, south)}) == 1
    assert joined("east") == [west]


@pytest.mark.parametrize(
    ("host", "more", "why"),
    [
        pytest.param(None, {}, "is not up", id="nobody"),
        pytest.param(State("east", join="x", site=1), {}, "joins another", id="one-that-joined"),
        pytest.param(State("east"), {}, "galactic lab up --name east --standalone", id="not-standalone"),
        pytest.param(State("east", nodes=0, standalone=True), {}, "with nodes", id="no-nodes"),
        pytest.param(EAST, {"routers": 2}, "none of its own", id="routers-of-its-own"),
        pytest.param(EAST, {"latency": 5.0}, "which owns the fabric", id="latency"),
    ],
)
def test_who_cannot_join(keep: Any, host: State | None, more: dict[str, Any], why: str) -> None:
    keep(*([host] if host else []))
    with pytest.raises(Rejected, match=why):
        asked("west", "east", **more)


def test_what_another_version_kept_besides_is_left_out(keep: Any, tmp_path: Path) -> None:
    keep(EAST)
    (tmp_path / "east/lab.json").write_text(json.dumps(asdict(EAST) | {"colour": "blue"}))
    assert State.load("east") == EAST

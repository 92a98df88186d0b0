"""The supervisor keeps a node's programs running, and a held one stopped."""

from pathlib import Path

import pytest

from galactic_lab.node import supervision
from galactic_lab.node.supervision import Child


class Held:
    """A controller's child, which may be held, and what was done with it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.held = False
        self.pidfile = folder / "controller.pid"
        self.child = Child("controller", lambda: None, lambda: self.held, lambda: self.done.append("stopped"))
        monkeypatch.setattr(supervision, "fork", lambda _start: self.done.append("started") or 42)
        monkeypatch.setattr(supervision.os, "kill", lambda _pid, number: self.done.append(number.name))

    def tick(self) -> None:
        self.child.tick(self.pidfile)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(tmp_path, monkeypatch)


def test_it_is_reported_stopped_only_when_it_is_and_stays_so(one: Held) -> None:
    one.tick()
    assert one.pidfile.read_text() == "42\n"
    one.held = True
    one.tick()
    one.tick()
    assert one.done == ["started", "SIGTERM"], "it has not ended yet"
    one.child.ended(0, one.pidfile)
    assert not one.pidfile.exists()
    one.tick()
    assert one.done == ["started", "SIGTERM", "stopped"]
    one.held = False
    one.tick()
    assert one.done[3:] == ["started"]


def test_one_that_died_and_is_held_before_it_is_started_again_is_stopped(one: Held) -> None:
    """It has no process, but would be started at the next tick."""
    one.tick()
    one.child.ended(9, one.pidfile)
    one.child.start_after = 0.0
    one.held = True
    one.tick()
    assert one.done == ["started", "stopped"]


def test_the_pause_doubles_until_the_program_stays_up(one: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now)
    pauses = []
    for uptime in (1, 1, 1, supervision.STEADY_SECONDS + 1):
        now = one.child.start_after
        one.tick()
        now += uptime
        one.child.ended(9, one.pidfile)
        pauses.append(one.child.start_after - now)
    assert pauses == [1.0, 2.0, 4.0, 1.0]

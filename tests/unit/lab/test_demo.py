"""The demo's output for a lab with unexpected results."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from galactic.errors import Unreachable
from galactic_lab.commands import demo


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    """A lab whose pods reach every address, and whose kubeconfig is gone."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "endpoint": {}}
    return SimpleNamespace(
        kubeconfig=tmp_path / "kubeconfig",
        kubectl=lambda *_, **__: "",
        get=lambda *_: {"items": [{"status": ready}]},
        run=lambda *_, **__: SimpleNamespace(returncode=0),
        state=SimpleNamespace(logs=tmp_path),
    )


def shown(lab: Any) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    passed = demo._present(console, lab, Path("examples"))
    return passed, console.file.getvalue()  # type: ignore[attr-defined]


def test_the_first_rows_that_are_not_as_expected_are_traced(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_captured", lambda _: "an SRv6 packet")
    passed, text = shown(lab)
    wrong = [row for row in demo.STORY if not row.reached]
    assert len(wrong) > demo.TRACES
    assert not passed
    traced = [line for line in text.splitlines() if line.startswith("▸ galactic trace ")]
    assert [line.split()[3:5] for line in traced] == [[row.pod, row.address] for row in wrong[: demo.TRACES]]
    assert text.count("--kubeconfig: no file") == demo.TRACES, "the error of each trace is shown"
    assert "▸ galactic status" not in text


def test_a_capture_that_shows_nothing_is_followed_by_the_status(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_captured", lambda _: "")
    monkeypatch.setattr(demo, "STORY", [row for row in demo.STORY if row.reached])
    passed, text = shown(lab)
    assert not passed
    assert (
        text.index("nothing was captured")
        < text.index("▸ galactic status")
        < text.index("▸ Who reaches whom")
    )


def test_pods_that_are_not_ready_in_time_are_followed_by_the_status(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SETTLE_SECONDS", 0.0)
    lab.get = lambda *_: {"items": []}
    console = Console(file=io.StringIO(), width=160, highlight=False)
    with pytest.raises(Unreachable, match="pods are Ready"):
        demo._present(console, lab, Path("examples"))
    assert "▸ galactic status" in console.file.getvalue()  # type: ignore[attr-defined]

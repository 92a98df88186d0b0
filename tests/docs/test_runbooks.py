"""Panels and log events that the runbooks name exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from blocks import DOCS, ROOT

from galactic.router.metrics import REASONS

RUNBOOKS = sorted((DOCS / "runbooks").glob("Galactic*.md"))
DASHBOARDS = ROOT / "charts" / "galactic" / "files" / "dashboards"
SOURCES = ROOT / "controllers" / "galactic"


def _titles(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "title")
        for value in part.values():
            yield from _titles(value)
    elif isinstance(part, list):
        for value in part:
            yield from _titles(value)


def _named(pattern: str) -> list[Any]:
    return [
        pytest.param(name, id=f"{page.stem}-{name}")
        for page in RUNBOOKS
        for name in re.findall(pattern, page.read_text())
    ]


@pytest.mark.parametrize("panel", _named(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)"))
def test_panel_exists(panel: str) -> None:
    titles = {title for path in DASHBOARDS.glob("*.json") for title in _titles(json.loads(path.read_text()))}
    assert panel in titles


@pytest.mark.parametrize("event", _named(r"grep (?:-i )?'([^']+)'"))
def test_log_event_exists(event: str) -> None:
    """The text that a runbook searches for in a log."""
    assert any(event in path.read_text() for path in SOURCES.rglob("*.py"))


def test_every_reason_of_a_rejection_has_a_remedy() -> None:
    """Those that raise the alert, and in italics those that it leaves out."""
    text = (DOCS / "runbooks" / "GalacticRegistrationsRejected.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| `", "| *"))]
    named = {reason: row for row in rows for reason in re.findall(r"`(\w+)`", row[1])}
    assert named.keys() == set(REASONS)
    assert all(row[2].strip() for row in named.values())
    rules = yaml.safe_load((ROOT / "charts/galactic/files/alerts/galactic.yaml").read_text())
    (alert,) = (
        rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "GalacticRegistrationsRejected"
    )
    (silent,) = re.findall(r'reason!~"([^"]+)"', alert)
    assert {reason for reason, row in named.items() if "*" in row[1]} == {*silent.split("|")}


def test_there_are_panels_and_events() -> None:
    assert len(_named(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)")) >= 4
    assert len(_named(r"grep (?:-i )?'([^']+)'")) >= 2

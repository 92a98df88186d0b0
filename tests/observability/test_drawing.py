"""A panel's drawing stays inside the panel."""

import re

import pytest

from observability.drawing import Shown, picture
from observability.panel import Board, Panel, Query

PANEL = Panel("Fullest VPCs", "Which?", (Query("up", "{{vpc_name}}"),))
HALF = (0.0, 0.5), (60.0, 0.5)


def legend(*names: str) -> list[tuple[float, str]]:
    """The names below the panel with their positions, and the panel's width."""
    text = picture(Board("galactic-x", "X", "", (PANEL,)), "", [[Shown(name, HALF) for name in names]], 0, 60)
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" [^>]*font-size="11"[^>]*>([^<]*)</text>', text)
    return [(float(x), name) for x, _, name in found]


def panel_end() -> float:
    text = picture(Board("galactic-x", "X", "", (PANEL,)), "", [[]], 0, 60)
    (x, width) = re.findall(r'<rect x="(\d+)" y="\d+" width="(\d+)" height="\d+" rx="4"', text)[0]
    return float(x) + float(width)


@pytest.mark.parametrize("length", range(1, 70))
def test_a_legend_ends_inside_its_panel(length: int) -> None:
    found = legend("a" * length, "b" * 20, "c" * 20)
    for x, name in found:
        assert x + 6.4 * len(name) <= panel_end() - 6


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        pytest.param(["a", "b"], ["a", "b"], id="all"),
        pytest.param(list("abcdefg"), [*"abcdef", "…"], id="seven"),
        pytest.param(["a" * 20, "b" * 60], ["a" * 20, "…"], id="long"),
        pytest.param(["a" * 90], ["…"], id="none-fits"),
    ],
)
def test_hidden_series_are_counted_in_the_legend(names: list[str], shown: list[str]) -> None:
    assert [name for _, name in legend(*names)] == shown

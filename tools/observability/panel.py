"""A dashboard as data: what it asks, in which unit, and from when on it is worth getting up for."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Query:
    """One expression. ``legend`` names its series, with ``{{label}}`` for a label's value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """From ``value`` on the figure has this colour: green, yellow or red."""

    value: float
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One question of an operator. ``kind`` is stat, timeseries or states (what was 1 and what 0, over time).

    ``unit`` is Grafana's name of it. ``words`` say a value in words: ``{"0": "no"}``. ``leads_to`` is the dashboard
    that a click on a series opens: that of its node.
    """

    title: str
    question: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    levels: tuple[Level, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    leads_to: str = ""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """Chosen at the top of a dashboard, from the values that ``label`` has in ``selector``."""

    name: str
    title: str
    label: str
    selector: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. Its file and its address are called ``uid``."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()


def bad_above(*steps: float) -> tuple[Level, ...]:
    """Green, then yellow (where there are two steps), then red."""
    colours = ("yellow", "red") if len(steps) == 2 else ("red",)
    return (
        Level(float("-inf"), "green"),
        *(Level(at, name) for at, name in zip(steps, colours, strict=True)),
    )


def bad_below(step: float) -> tuple[Level, ...]:
    """Red, and green from ``step`` on."""
    return (Level(float("-inf"), "red"), Level(step, "green"))

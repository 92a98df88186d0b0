"""A dashboard as data: panels with their queries, units and thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Query:
    """One expression. ``legend`` names its series, with ``{{label}}`` for a label's value."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """A threshold: from ``value`` on the figure has this colour, green, yellow or red."""

    value: float
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One question with its queries. ``kind``: stat, timeseries or states (1 or 0, over time).

    ``unit``: Grafana's name of the unit. ``words``: value mappings, ``{"0": "no"}``. ``leads_to``: the dashboard that
    a click on a series opens, for the series' node.
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
    """A variable of a dashboard. Its values are those of ``label`` in ``selector``."""

    name: str
    title: str
    label: str
    selector: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. ``uid`` names its file and its address."""

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

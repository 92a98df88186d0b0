"""A dashboard with figures as a small picture (SVG) of its page in Grafana."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from time import gmtime, strftime
from typing import Final

from observability.grafana import places
from observability.panel import Board, Panel

CELL: Final = (50, 34)
"""Pixels of one unit of Grafana's grid."""
GAP: Final = 8
TOP: Final = 46
COLOURS: Final = ("#2f6fde", "#d9822b", "#2a9d5c", "#8e5bd0", "#c94a7b", "#1f9aa8", "#8a8f1e", "#6b7280")
NAMED: Final = {"green": "#2a9d5c", "yellow": "#d9a514", "red": "#d43f3a", "blue": "#2f6fde"}
INK: Final = "#1f2430"
PALE: Final = "#6b7280"
LINE: Final = "#e3e6ec"
MEBI: Final = 1 << 20
LEGENDS: Final = 6
"""The most names below a panel."""
MORE: Final = 20
"""Pixels of the … that stands for further names."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A series in a panel: its name, and its values by time."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1] if self.points else math.nan


def picture(board: Board, heading: str, shown: Sequence[Sequence[Shown]], since: float, until: float) -> str:
    """The board with ``shown`` for each of its panels, from ``since`` to ``until``."""
    boxes = places(board)
    height = TOP + max(box["y"] + box["h"] for box in boxes) * CELL[1] + GAP
    width = 24 * CELL[0] + GAP
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" role="img">',
        f"<title>{escape(board.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#f4f5f8"/>',
        _text(GAP + 4, 29, f"{board.title}{heading}", 18, weight="bold"),
        _text(width - GAP - 4, 29, f"{_clock(since)} to {_clock(until)} UTC", 12, colour=PALE, anchor="end"),
    ]
    for panel, box, series in zip(board.panels, boxes, shown, strict=True):
        x, y = GAP + box["x"] * CELL[0], TOP + box["y"] * CELL[1]
        w, h = box["w"] * CELL[0] - GAP, box["h"] * CELL[1] - GAP
        parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="4" fill="#ffffff" stroke="{LINE}"/>'
        )
        parts.append(_text(x + 10, y + 19, panel.title, 13, weight="bold"))
        draw = {"stat": _stat, "states": _states, "timeseries": _lines}[panel.kind]
        parts += draw(panel, series, (x, y, w, h), (since, until))
    return "\n".join([*parts, "</svg>", ""])


Box = tuple[float, float, float, float]
Span = tuple[float, float]


def _stat(panel: Panel, series: Sequence[Shown], box: Box, _span: Span) -> Iterable[str]:
    x, y, w, h = box
    if not series:
        yield _text(x + w / 2, y + h * 0.68, "no data", 16, colour=PALE, anchor="middle")
    for position, one in enumerate(series):
        middle = x + w * (position + 0.5) / len(series)
        size = 30 if len(series) == 1 else 22
        colour = _colour(panel, one.last)
        yield _text(
            middle,
            y + h * 0.68,
            shown_value(panel, one.last),
            size,
            colour=colour,
            anchor="middle",
            weight="bold",
        )
        if len(series) > 1:
            yield _text(middle, y + h - 9, one.name, 11, colour=PALE, anchor="middle")


def _states(panel: Panel, series: Sequence[Shown], box: Box, span: Span) -> Iterable[str]:
    """A bar for each series, in the colour of its value at that time."""
    x, y, w, h = box
    if not series:
        yield _nothing(box)
        return
    left, top = x + 150, y + 32
    step = (h - 62) / len(series)
    for row, one in enumerate(sorted(series, key=lambda one: one.name)):
        at = top + row * step
        yield _text(left - 8, at + step / 2 + 4, one.name, 11, anchor="end")
        for begin, end, value in _runs(one.points, span[1]):
            from_, to = (_place(moment, span, left, x + w - 10) for moment in (begin, end))
            if to - from_ > 0:
                yield (
                    f'<rect x="{from_:.1f}" y="{at + 1:.1f}" width="{to - from_:.1f}" '
                    f'height="{max(step - 2, 2):.1f}" fill="{_colour(panel, value)}" fill-opacity="0.8"/>'
                )
    right = x + w - 10
    for number, word in reversed([*panel.words.items()]):
        right -= 7 * len(word)
        yield _text(right, y + h - 9, word, 11, colour=PALE)
        yield f'<rect x="{right - 14}" y="{y + h - 18}" width="10" height="10" fill="{_colour(panel, float(number))}"/>'
        right -= 24
    yield _text(left, y + h - 9, _clock(span[0]), 10, colour=PALE)


def _lines(panel: Panel, series: Sequence[Shown], box: Box, span: Span) -> Iterable[str]:
    x, y, w, h = box
    series = [one for one in series if any(math.isfinite(value) for _, value in one.points)]
    if not series:
        yield _nothing(box)
        return
    left, right, top, bottom = x + 62, x + w - 12, y + 34, y + h - 44
    drawn = list(_piled(series)) if panel.stacked else [(one, one.points) for one in series]
    highest = max(value for _, points in drawn for _, value in points if math.isfinite(value))
    size = MEBI if panel.unit == "bytes" else 60 if panel.unit == "s" and highest >= 120 else 1
    whole = panel.unit in ("short", "none") and highest >= 1
    ticks = [tick * size for tick in _ticks(highest / size, whole=whole)]
    most = ticks[-1]
    for tick in ticks:
        at = bottom - (bottom - top) * tick / most
        yield f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{LINE}"/>'
        yield _text(left - 6, at + 4, shown_value(panel, tick), 10, colour=PALE, anchor="end")
    for level in panel.levels:
        if 0 < level.value <= most and level.colour != "green":
            at = bottom - (bottom - top) * level.value / most
            yield (
                f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{NAMED[level.colour]}" '
                f'stroke-dasharray="5 4"/>'
            )
    for number, (_, points) in enumerate(drawn):
        for piece in _pieces(points):
            path = " ".join(
                f"{_place(moment, span, left, right):.1f},{bottom - (bottom - top) * value / most:.1f}"
                for moment, value in piece
            )
            yield (
                f'<polyline points="{path}" fill="none" stroke="{COLOURS[number % len(COLOURS)]}" '
                'stroke-width="1.6"/>'
            )
    yield _text(left, bottom + 14, _clock(span[0]), 10, colour=PALE)
    yield _text(right, bottom + 14, _clock(span[1]), 10, colour=PALE, anchor="end")
    yield from _legend([one.name for one in series], box)


def _legend(names: Sequence[str], box: Box) -> Iterable[str]:
    """The names that fit below a panel, each beside its colour; … for the others."""
    x, y, w, h = box
    at, end = x + 12.0, x + w - 12
    for number, name in enumerate(names):
        length = 20 + 6.4 * len(name)
        others = MORE if number + 1 < len(names) else 0
        if number == LEGENDS or at + length + others > end:
            yield _text(at, y + h - 9, "…", 11, colour=PALE)
            return
        yield (
            f'<rect x="{at:.0f}" y="{y + h - 15}" width="10" height="4" fill="{COLOURS[number % len(COLOURS)]}"/>'
        )
        yield _text(at + 14, y + h - 9, name, 11, colour=INK)
        at += length + 8


def shown_value(panel: Panel, value: float) -> str:
    """A value in the panel's unit, or its word."""
    if not math.isfinite(value):
        return "no data"
    if (word := panel.words.get(f"{value:.0f}")) is not None and value == int(value):
        return word
    if panel.unit == "s":
        return _duration(value)
    if panel.unit == "percentunit":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if panel.unit == "bytes":
        return f"{value / MEBI:.0f} MiB"
    number = _short(value)
    return f"{number}/s" if panel.unit == "ops" else number


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    if seconds == 0 or seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _colour(panel: Panel, value: float) -> str:
    """The colour of the highest level that the value reaches."""
    reached = [level.colour for level in panel.levels if value >= level.value]
    return NAMED[reached[-1]] if reached else NAMED["blue"]


def _ticks(highest: float, *, whole: bool) -> list[float]:
    """Round values from 0 to just above the highest."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 3
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    step = max(1.0, math.ceil(step)) if whole else step
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _pieces(points: Sequence[tuple[float, float]]) -> Iterable[list[tuple[float, float]]]:
    """Where a series has no value, its line has a gap."""
    there = [(moment, value) for moment, value in points if math.isfinite(value)]
    step, piece = _step(points), there[:1]
    for before, point in pairwise(there):
        if point[0] - before[0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(point)
    yield piece


def _step(points: Sequence[tuple[float, float]]) -> float:
    """The time between two values that follow each other."""
    return min((after[0] - before[0] for before, after in pairwise(points)), default=math.inf)


def _piled(series: Sequence[Shown]) -> Iterable[tuple[Shown, tuple[tuple[float, float], ...]]]:
    """The series stacked, each upon those before it."""
    below: dict[float, float] = {}
    for one in series:
        for moment, value in one.points:
            below[moment] = below.get(moment, 0.0) + value
        yield one, tuple((moment, below[moment]) for moment, _ in one.points)


def _runs(points: Sequence[tuple[float, float]], until: float) -> Iterable[tuple[float, float, float]]:
    """(from, to, value) for each stretch of one value."""
    if not points:
        return
    step, begin = _step(points), points[0][0]
    for (moment, value), (after, following) in pairwise([*points, (until, math.nan)]):
        if after - moment > 1.5 * step or following != value:
            yield begin, min(after, moment + step), value
            begin = after


def _place(moment: float, span: Span, left: float, right: float) -> float:
    return left + (right - left) * (moment - span[0]) / (span[1] - span[0])


def _nothing(box: Box) -> str:
    x, y, w, h = box
    return _text(x + w / 2, y + h / 2 + 6, "no data", 14, colour=PALE, anchor="middle")


def _clock(moment: float) -> str:
    return strftime("%H:%M", gmtime(moment))


def _text(
    x: float,
    y: float,
    words: str,
    size: int,
    *,
    colour: str = INK,
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )

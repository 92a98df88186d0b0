"""A dashboard's queries as Grafana sends them, with values for its variables."""

from collections.abc import Iterator, Mapping
from typing import Final

from galactic_lab.controlplane.prometheus import Api
from observability.panel import Board, Panel, Query

RATE: Final = {"__rate_interval": "1m"}


def fill(expression: str, values: Mapping[str, str]) -> str:
    """The expression with values in place of its variables, the longest names first."""
    for name, value in sorted((RATE | dict(values)).items(), key=lambda item: -len(item[0])):
        expression = expression.replace(f"${name}", value)
    return expression


def values(board: Board, api: Api, wished: Mapping[str, str] | None = None) -> dict[str, str]:
    """A value for each variable: the wished one or the first. Raises KeyError for a variable without values."""
    chosen: dict[str, str] = {}
    for variable in board.variables:
        there = api.label_values(variable.label, fill(variable.selector, chosen))
        wish = (wished or {}).get(variable.name)
        if not there or (wish and wish not in there):
            raise KeyError(f"{board.uid}: no value {wish or ''} for {variable.name} in {there}")
        chosen[variable.name] = wish or there[0]
    return chosen


def queries(board: Board, chosen: Mapping[str, str]) -> Iterator[tuple[Panel, Query, str]]:
    """Each query of each panel, with its filled-in expression."""
    for panel in board.panels:
        for query in panel.queries:
            yield panel, query, fill(query.expression, chosen)

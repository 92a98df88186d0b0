"""A dashboard as Grafana 10 and later store it (schema 39): no id of an instance, the data source a variable."""

import json
import math
from typing import Any, Final

from observability.panel import Board, Panel, Variable

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24
HEIGHTS: Final = {"stat": 4, "timeseries": 8, "states": 8}
TYPES: Final = {"states": "state-timeline"}
TAG: Final = "galactic"
NODE: Final = "${__field.labels.node}"


def text(board: Board) -> str:
    """The dashboard's file."""
    return json.dumps(model(board), indent=2, ensure_ascii=False) + "\n"


def model(board: Board) -> dict[str, Any]:
    """Grafana's JSON model."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "type": "dashboards",
                "title": "Galactic",
                "tags": [TAG],
                "asDropdown": False,
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "templating": {"list": [_source(), *map(_variable, board.variables)]},
        "annotations": {"list": []},
        "panels": [
            _panel(number, panel, place)
            for number, (panel, place) in enumerate(zip(board.panels, places(board), strict=True), 1)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.selector}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "hide": 2 if variable.hidden else 0,
        "multi": False,
        "includeAll": False,
    }


def places(board: Board) -> list[dict[str, int]]:
    """Positions from left to right, row under row."""
    found, x, y, tallest = [], 0, 0, 0
    for panel in board.panels:
        height = HEIGHTS[panel.kind]
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        found.append({"x": x, "y": y, "w": panel.width, "h": height})
        x, tallest = x + panel.width, max(tallest, height)
    return found


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": TYPES.get(panel.kind, panel.kind),
        "title": panel.title,
        "description": panel.question,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for position, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps = [
        {"color": level.colour, "value": None if math.isinf(level.value) else level.value}
        for level in panel.levels
    ] or [{"color": "blue", "value": None}]
    field: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": _mappings(panel),
        "links": _links(panel),
    }
    if panel.kind == "timeseries":
        field["color"] = {"mode": "palette-classic"}
        field["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 20 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.levels else "off"},
        }
    else:
        field["color"] = {"mode": "thresholds"}
    return field


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    options = {
        value: {"text": word, "index": index} for index, (value, word) in enumerate(panel.words.items())
    }
    return [{"type": "value", "options": options}]


def _links(panel: Panel) -> list[dict[str, Any]]:
    if not panel.leads_to:
        return []
    return [{"title": f"Node {NODE}", "url": f"/d/{panel.leads_to}?var-node={NODE}&${{__url_time_range}}"}]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "auto" if len(panel.queries) > 1 else "value_and_name" if _many(panel) else "value",
        }
    if panel.kind == "states":
        return {"mergeValues": True, "rowHeight": 0.8, "showValue": "never", "legend": {"showLegend": True}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _many(panel: Panel) -> bool:
    """Whether one query has several series."""
    return any("{{" in query.legend for query in panel.queries)

"""Every value of the chart, from values.schema.json, with the defaults of values.yaml."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from reference.page import ROOT, code, page, table, text

CHART: Final = ROOT / "charts" / "galactic"
LIMITS: Final = {
    "pattern": "matches",
    "minimum": "≥",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def pages() -> dict[str, str]:
    """The page; none without a chart."""
    schema_file, values_file = CHART / "values.schema.json", CHART / "values.yaml"
    if not (schema_file.exists() and values_file.exists()):
        return {}
    schema = json.loads(schema_file.read_text())
    defaults = yaml.safe_load(values_file.read_text()) or {}
    who = "For those who install with Helm: every value of `charts/galactic`, which refuses any other."
    parts = []
    top = {name: resolved(inner, schema) for name, inner in schema["properties"].items()}
    plain = [name for name, inner in top.items() if not inner.get("properties")]
    rows = [row for name in plain for row in _rows(name, top[name], defaults.get(name), schema)]
    parts.append("## In general\n\n" + table(("value", "type", "default", "meaning"), rows))
    for name, inner in top.items():
        if name not in plain:
            meaning = inner.get("description", "")
            below = list(_rows(name, inner, defaults.get(name), schema))[1:]
            parts.append(
                f"## {name}\n\n{text(meaning)}\n\n" + table(("value", "type", "default", "meaning"), below)
            )
    return {"values.md": page("Helm values", who, *parts, source="charts/galactic")}


def resolved(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its reference resolved; keys beside the reference override it."""
    if not isinstance(schema, Mapping):
        return {}
    found = dict(schema)
    while reference := found.pop("$ref", None):
        target: Any = root
        for level in reference.removeprefix("#/").split("/"):
            target = target[level]
        found = {**target, **found}
    return found


def _rows(
    path: str, schema: Mapping[str, Any], default: Any, root: Mapping[str, Any]
) -> Iterator[tuple[str, ...]]:
    inner = {name: resolved(one, root) for name, one in schema.get("properties", {}).items()}
    shown = "" if inner and isinstance(default, Mapping | None) else _default(default)
    yield code(path), _type(schema, root), shown, text(schema.get("description", ""))
    for name, one in inner.items():
        given = default.get(name) if isinstance(default, Mapping) else None
        yield from _rows(f"{path}.{name}", one, given, root)


def _default(value: Any) -> str:
    return "" if value is None else code(json.dumps(value))


def _type(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    kinds = schema.get("type", "")
    shown = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if shown == "array" and (inner := resolved(schema.get("items"), root)):
        shown = f"array of {inner.get('type', 'anything')}"
    limits = [f"{words} {code(schema[key])}" for key, words in LIMITS.items() if key in schema]
    return ", ".join((shown, *limits)) if shown else ", ".join(limits)

"""Every field of every kind, from crds/*.yaml."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from reference.page import ROOT, code, page, table, text

ORDER = ("vpc", "vpcattachment", "nodesegment")
LIMITS = {
    "enum": "one of",
    "pattern": "matches",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "minimum": "≥",
    "maximum": "≤",
    "format": "format",
}


def pages() -> dict[str, str]:
    definitions = [yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text()) for name in ORDER]
    who = (
        "For those who write or read manifests: every field of every kind. What is refused beyond that, and with which "
        "words, is in [Manifests](../api.md)."
    )
    parts = [_kind(definition) for definition in definitions]
    return {"kinds.md": page("Kinds and their fields", who, *parts, source="crds/")}


def _kind(definition: Mapping[str, Any]) -> str:
    spec = definition["spec"]
    names, (version,) = spec["names"], spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    short = ", ".join(code(name) for name in names["shortNames"]) or "none"
    columns = ", ".join(code(column["name"]) for column in version["additionalPrinterColumns"])
    head = (
        f"## {names['kind']}\n\n{schema['description']}\n\n"
        f"`{spec['group']}/{version['name']}`, {spec['scope'].lower()}; plural `{names['plural']}`, short {short}. "
        f"`kubectl get` shows {columns}.\n"
    )
    parts = []
    for half in ("spec", "status"):
        rows = [_row(*field) for field in _fields(schema["properties"][half], half)]
        parts.append(
            f"\n### {names['kind']} {half}\n\n{schema['properties'][half].get('description', '')}\n\n"
            + table(("field", "type", "", "meaning"), rows)
        )
    return head + "".join(parts)


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Path, schema and whether it is required, outer fields before inner ones."""
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, inner, name in schema.get("required", ())
        if inner.get("type") == "array":
            yield from _fields(inner["items"], f"{here}[]")
        else:
            yield from _fields(inner, here)


def _row(path: str, schema: Mapping[str, Any], required: bool) -> tuple[str, ...]:
    kind = schema.get("type", "")
    inner = schema.get("items") or {}
    if kind == "array":
        kind = f"{inner.get('type', '')}[]"
    limits = ["required"] if required else []
    if "default" in schema:
        limits.append(f"default {code(schema['default'])}")
    limits += [f"{words} {_limit(schema[key])}" for key, words in LIMITS.items() if key in schema]
    limits += [f"each {words} {_limit(inner[key])}" for key, words in LIMITS.items() if key in inner]
    return code(path), kind, "; ".join(limits), text(schema.get("description", ""))


def _limit(value: object) -> str:
    return ", ".join(code(one) for one in value) if isinstance(value, list) else code(value)

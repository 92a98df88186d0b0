"""Values of the chart: the schema's leaves, and random values that the schema allows."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CHART = Path(__file__).resolve().parents[2] / "charts/galactic"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), max_size=12)


def leaves(schema: dict[str, Any] = SCHEMA, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted path of every value that is not itself a group of values."""
    properties = schema.get("properties")
    if not properties:
        yield ".".join(path)
    for name, below in (properties or {}).items():
        if name != "global":
            yield from leaves(below, (*path, name))


def strategy(schema: dict[str, Any]) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 - a case a keyword
    """Random values for one schema, conditions (if, then) aside."""
    if "$ref" in schema:
        return strategy(SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return st.one_of(*map(strategy, schema[choice]))
    if "type" not in schema:
        return strategy(schema["allOf"][0])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema.get("maximum", 1 << 20))
        case "number":
            return st.integers(schema["minimum"], int(schema["maximum"]))
        case "string":
            return _strings(schema)
        case "array":
            unique = json.dumps if schema.get("uniqueItems") else None
            least = schema.get("minItems", 0)
            return st.lists(strategy(schema["items"]), min_size=least, max_size=2, unique_by=unique)
    return _objects(schema)


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" not in schema:
        return TEXT
    longest = schema.get("maxLength", 100)
    found = st.from_regex(
        schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii", exclude_categories=("Cc",))
    )
    return found.filter(lambda text: len(text) <= longest and not text.endswith("\n"))


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        keys = _strings(schema["propertyNames"]) if "propertyNames" in schema else st.nothing()
        return st.dictionaries(keys, strategy(schema["additionalProperties"]), max_size=2)
    required = set(schema.get("required", ()))
    given = {name: strategy(below) for name, below in schema["properties"].items() if name != "global"}
    return st.fixed_dictionaries(
        {name: values for name, values in given.items() if name in required},
        optional={name: values for name, values in given.items() if name not in required},
    )


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:  # noqa: C901 - a case a condition of the schema
    """What the schema allows: drawn without regard to conditions, and then made to keep them."""
    drawn = copy.deepcopy(draw(strategy(SCHEMA)))
    mqtt, certificate = (
        drawn.setdefault("mqtt", {}),
        drawn.setdefault("webhook", {}).setdefault("certificate", {}),
    )
    url = mqtt.get("url", "")
    if not url:
        drawn["mqtt"] = {key: value for key, value in mqtt.items() if key == "base"}
        drawn.get("broker", {})["enabled"] = True
    for who in ("node", "router"):
        client = mqtt.get(who, {})
        if not url.startswith(("mqtts://", "wss://")):
            client.pop("certificateHostPath", None)
            client.pop("certificateSecret", None)
        if client.get("passwordSecret", {}).get("name") and not client.get("username"):
            client["username"] = "someone"
    if not url.startswith(("mqtts://", "wss://")):
        mqtt.pop("caSecret", None)
    if certificate.get("mode") == "secret":
        certificate["secretName"] = certificate.get("secretName") or "a-secret"
    else:
        certificate.pop("secretName", None)
    if drawn["webhook"].get("port", 9443) == drawn.get("metrics", {}).get("port", 9090):
        drawn["webhook"]["port"] = 9443
        drawn["metrics"]["port"] = 9090
    for component in ("operator", "webhook", "router", "node", "broker"):
        given = drawn.get(component, {})
        context = given.get("containerSecurityContext", {})
        if context.get("runAsUser") == 0:
            context["runAsUser"] = 1
        requests = given.get("resources", {}).get("requests", {})
        defaults = ("cpu", "memory")  # what the chart asks for where nothing else is said
        for limit in (*requests, *defaults):
            given.get("resources", {}).get("limits", {}).pop(limit, None)
    return drawn

"""Objects against an API server's own description of its kinds: unknown fields, missing ones and wrong types.

An API server before 1.25 drops unknown fields of its own kinds silently.
"""

from collections.abc import Iterator
from typing import Any


class Kinds:
    """The kinds that ``/openapi/v2`` of an API server describes."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._definitions: dict[str, Any] = document["definitions"]
        self._names = {
            (gvk["group"], gvk["version"], gvk["kind"]): name
            for name, definition in self._definitions.items()
            for gvk in definition.get("x-kubernetes-group-version-kind", ())
        }

    def problems(self, thing: dict[str, Any]) -> list[str]:
        """The errors in an object; an unknown kind is one."""
        group, _, version = thing["apiVersion"].rpartition("/")
        name = self._names.get((group, version, thing["kind"]))
        if name is None:
            return [f"{thing['apiVersion']} {thing['kind']}: no such kind"]
        return list(self._check(self._definitions[name], thing, thing["kind"]))

    def _check(self, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:  # noqa: C901 - a case a type
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].rsplit("/", 1)[1]]
        kind, form = schema.get("type"), schema.get("format")
        if value is None:
            yield f"{path}: null"
        elif kind == "string" and form == "int-or-string":
            if not isinstance(value, int | str):
                yield f"{path}: {value!r} is neither integer nor string"
        elif (
            kind == "string"
            and not isinstance(value, str)
            and "Quantity" not in schema.get("description", "")
        ):
            yield f"{path}: {value!r} is no string"
        elif kind == "boolean" and not isinstance(value, bool):
            yield f"{path}: {value!r} is no boolean"
        elif kind == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
            yield f"{path}: {value!r} is no integer"
        elif kind == "array":
            if not isinstance(value, list):
                yield f"{path}: {value!r} is no list"
                return
            for number, item in enumerate(value):
                yield from self._check(schema["items"], item, f"{path}[{number}]")
        elif "properties" in schema or "additionalProperties" in schema:
            yield from self._object(schema, value, path)

    def _object(self, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
            return
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name}: missing"
        for name, below in value.items():
            if name in schema.get("properties", {}):
                yield from self._check(schema["properties"][name], below, f"{path}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from self._check(schema["additionalProperties"], below, f"{path}.{name}")
            elif "properties" in schema:
                yield f"{path}.{name}: no such field"

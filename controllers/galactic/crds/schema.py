"""CustomResourceDefinitions from the models.

``python -m galactic.crds.schema [--check] [DIRECTORY …]`` writes one YAML file a kind into each directory (default
``crds``), or with ``--check`` lists those that differ and exits 1.

They are for Kubernetes 1.30 and later: an older API server does not know ``fieldPath``, or has no ratcheting of rules.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from galactic.crds.cel import EXTENSION, rules
from galactic.crds.model import Model
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.policyslice import PolicySlice
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.names import GROUP, VERSION

KINDS: Final[tuple[type[Any], ...]] = (Vpc, VpcAttachment, VpcGateway, NodeSegment, VpcPolicy, PolicySlice)
_KEPT: Final = (
    "type",
    "description",
    "format",
    "pattern",
    "enum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "default",
    "required",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-map-type",
    "x-kubernetes-list-type",
    EXTENSION,
)


def definition(kind: type[Any]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind, structural schema included (apiextensions.k8s.io/v1)."""
    schema = kind.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.get("$defs", {})
    properties = {
        "spec": structural(schema["properties"]["spec"], definitions),
        # A status field that was never written is absent: a default would look like an observation.
        "status": without_defaults(structural(schema["properties"]["status"], definitions)),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                "shortNames": [short for short in kind.SHORT if short != kind.KIND.lower()],
                "categories": ["galactic"],
            },
            "scope": kind.SCOPE,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "jsonPath": path, "type": type_} for name, path, type_ in kind.COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": " ".join((kind.__doc__ or "").split()),
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                **properties,
                            },
                        }
                        | rules(*kind.RULES)
                    },
                }
            ],
        },
    }


def structural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A pydantic JSON schema as a structural one: references resolved, ``null`` alternatives left out, no titles."""
    merged = dict(schema)
    if reference := merged.pop("$ref", None):
        merged = {**definitions[reference.rsplit("/", 1)[1]], **merged}
    if alternatives := merged.pop("anyOf", None):
        (only,) = [choice for choice in alternatives if choice.get("type") != "null"]
        return structural({**only, **merged}, definitions)
    result = {key: merged[key] for key in _KEPT if merged.get(key) is not None}
    if isinstance(result.get("default"), list | dict):
        del result["default"]
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "items" in merged:
        result["items"] = structural(merged["items"], definitions)
    if "properties" in merged:
        result["properties"] = {
            name: structural(value, definitions) for name, value in merged["properties"].items()
        }
    elif isinstance(merged.get("additionalProperties"), Mapping):
        result["additionalProperties"] = structural(merged["additionalProperties"], definitions)
    if merged.get("properties", {}).keys() >= {"type", "status", "reason", "lastTransitionTime"}:
        result["required"] = ["status", "type"]
    if "conditions" in merged.get("properties", {}):
        result["properties"]["conditions"] |= {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        }
    return result


def without_defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The structural schema without its defaults, at any depth."""
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in result:
        result["properties"] = {name: without_defaults(value) for name, value in result["properties"].items()}
    for nested in ("items", "additionalProperties"):
        if isinstance(result.get(nested), Mapping):
            result[nested] = without_defaults(result[nested])
    return result


class _Plain(yaml.SafeDumper):
    """Writes a value that is there twice twice: not all readers of manifests know anchors."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def rendered(kind: type[Model]) -> str:
    """The YAML text of one kind's definition."""
    head = "# Generated from the models in controllers/galactic/crds by `make generate`. Do not edit.\n"
    return head + yaml.dump(definition(kind), Dumper=_Plain, sort_keys=False, width=110)


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    folders = [Path(argument) for argument in arguments if argument != "--check"] or [Path("crds")]
    stale = []
    for folder in folders:
        for kind in KINDS:
            path, text = folder / f"{kind.KIND.lower()}.yaml", rendered(kind)
            if check and (not path.exists() or path.read_text() != text):
                stale.append(str(path))
            elif not check:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

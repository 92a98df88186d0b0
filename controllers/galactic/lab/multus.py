"""Which further networks a Pod asks for, and how it is told what it got (Kubernetes multi-network spec 1.3)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from galactic.errors import Rejected

NETWORKS: Final = "k8s.v1.cni.cncf.io/networks"
STATUS: Final = "k8s.v1.cni.cncf.io/network-status"


@dataclass(frozen=True, slots=True)
class Selection:
    """One network a Pod asks for. ``runtime`` holds what plugins with that capability get as ``runtimeConfig``."""

    namespace: str
    name: str
    interface: str
    runtime: Mapping[str, Any]


def selections(annotation: str, namespace: str) -> list[Selection]:
    """The networks in an annotation's comma or JSON form, unnamed interfaces called net1, net2, … Raises Rejected."""
    text = annotation.strip()
    entries = (
        _json(text)
        if text.startswith(("[", "{"))
        else [_word(word) for word in text.split(",") if word.strip()]
    )
    result = []
    for number, entry in enumerate(entries, start=1):
        runtime = {
            key: entry[source] for key, source in (("ips", "ips"), ("mac", "mac")) if entry.get(source)
        }
        result.append(
            Selection(
                namespace=entry.get("namespace") or namespace,
                name=entry["name"],
                interface=entry.get("interface") or f"net{number}",
                runtime=runtime,
            )
        )
    used = [one.interface for one in result]
    if len(set(used)) != len(used):
        raise Rejected(f"an interface name is asked for twice: {', '.join(used)}", field=NETWORKS)
    return result


def _json(text: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise Rejected(f"not JSON: {error}", field=NETWORKS) from error
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one.get("name") for one in entries):
        raise Rejected("a JSON list of objects with a name is expected", field=NETWORKS)
    return entries


def _word(word: str) -> dict[str, Any]:
    """``[namespace/]name[@interface]``"""
    path, _, interface = word.strip().partition("@")
    namespace, _, name = path.rpartition("/")
    if not name or "/" in namespace:
        raise Rejected(f"{word.strip()!r} is not [namespace/]name[@interface]", field=NETWORKS)
    return {"namespace": namespace, "name": name, "interface": interface}


def status(results: Sequence[tuple[Selection, Mapping[str, Any]]]) -> str:
    """The network-status annotation for CNI results."""
    entries = []
    for selection, result in results:
        interfaces = [one for one in result.get("interfaces") or () if one.get("sandbox")]
        mac = next((one["mac"] for one in interfaces if one.get("mac")), "")
        entries.append(
            {
                "name": f"{selection.namespace}/{selection.name}",
                "interface": interfaces[0]["name"] if interfaces else selection.interface,
                "ips": [one["address"].partition("/")[0] for one in result.get("ips") or ()],
                "default": False,
                "dns": result.get("dns") or {},
            }
            | ({"mac": mac} if mac else {})
        )
    return json.dumps(entries)

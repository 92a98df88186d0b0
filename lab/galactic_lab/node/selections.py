"""Networks that a pod requests, and their status (Kubernetes multi-network spec 1.3).

As strict as Multus 4: the short form takes DNS labels only, the JSON form checks addresses and hardware addresses.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any, Final

from galactic.errors import Rejected

NETWORKS: Final = "k8s.v1.cni.cncf.io/networks"
STATUS: Final = "k8s.v1.cni.cncf.io/network-status"
LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
MAC: Final = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


@dataclass(frozen=True, slots=True)
class Selection:
    """One network that a Pod requests. ``runtime`` is the ``runtimeConfig`` of plugins with that capability."""

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
    for entry in entries:
        if (mac := entry.get("mac")) and not MAC.fullmatch(mac):
            raise Rejected(f"{mac!r} is no hardware address", field=f"{NETWORKS}: mac")
        for address in entry.get("ips") or ():
            try:
                ip_interface(address) if "/" in address else ip_address(address)
            except ValueError as error:
                raise Rejected(f"{address!r} is no address", field=f"{NETWORKS}: ips") from error
        if "default-route" in entry:
            raise Rejected("the lab's stand-in for Multus has no default-route", field=NETWORKS)
    return entries


def _word(word: str) -> dict[str, Any]:
    """``[namespace/]name[@interface]``, each of DNS labels."""
    path, at, interface = word.strip().partition("@")
    namespace, slash, name = path.rpartition("/")
    parts = [name, *([namespace] if slash else []), *([interface] if at else [])]
    for part in parts:
        if not LABEL.fullmatch(part):
            problem = f"{part!r} of {word.strip()!r} is no DNS label: lower-case letters, digits and dashes"
            raise Rejected(problem, field=NETWORKS)
    return {"namespace": namespace, "name": name, "interface": interface}


def status(results: Sequence[tuple[Selection, Mapping[str, Any]]]) -> str:
    """The network-status annotation for CNI results. The default network is the one without a namespace."""
    entries = []
    for selection, result in results:
        interfaces = [one for one in result.get("interfaces") or () if one.get("sandbox")]
        mac = next((one["mac"] for one in interfaces if one.get("mac")), "")
        name = f"{selection.namespace}/{selection.name}" if selection.namespace else selection.name
        entries.append(
            {
                "name": name,
                "interface": interfaces[0]["name"] if interfaces else selection.interface,
                "ips": addresses(result),
                "default": not selection.namespace,
                "dns": result.get("dns") or {},
            }
            | ({"mac": mac} if mac else {})
        )
    return json.dumps(entries)


def addresses(result: Mapping[str, Any]) -> list[str]:
    """The addresses of a CNI result, without their lengths."""
    return [one["address"].partition("/")[0] for one in result.get("ips") or ()]

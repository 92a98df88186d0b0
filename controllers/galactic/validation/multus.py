"""The annotation that Multus reads, ``k8s.v1.cni.cncf.io/networks``: a comma list or a JSON list of networks.

    [namespace/]name[@interface], …
    [{"name": …, "namespace": …, "interface": …, …}, …]

(Network Plumbing Working Group, Network Custom Resource Definition De-facto Standard §4.1.2.)
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from galactic.errors import Rejected
from galactic.names import NETWORKS_ANNOTATION

FIELD: Final = f"metadata.annotations[{NETWORKS_ANNOTATION}]"
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_JSON: Final = re.compile(r'[\[{"]')
"""Multus parses a text with one of these as JSON, and any other as a comma list."""


@dataclass(frozen=True, slots=True)
class Network:
    """One of the networks. ``namespace`` and ``interface`` are empty where the annotation leaves them out."""

    namespace: str
    name: str
    interface: str


def networks(text: str) -> tuple[Network, ...]:
    """The networks in the annotation. Raises Rejected where Multus could not parse it."""
    if not text.strip():
        return ()
    if _JSON.search(text):
        return tuple(_selected(index, entry) for index, entry in enumerate(_list(text)))
    return tuple(_written(entry.strip()) for entry in text.split(","))


def appended(text: str, name: str, interface: str, namespace: str) -> str:
    """The annotation with ``name@interface`` at its end, in its own form; unchanged if it has ``name`` already.

    ``namespace`` is the pod's. Raises Rejected where the annotation is malformed.
    """
    listed = networks(text)
    if position(listed, name, namespace) is not None:
        return text
    if not listed:
        return f"{name}@{interface}"
    if _JSON.search(text):
        return json.dumps([*_list(text), {"name": name, "interface": interface}])
    return f"{text.strip()},{name}@{interface}"


def position(listed: Sequence[Network], name: str, namespace: str) -> int | None:
    """The index of the network ``name`` of the pod's own namespace; None if the list lacks it."""
    for index, network in enumerate(listed):
        if network.name == name and network.namespace in ("", namespace):
            return index
    return None


def interfaces(listed: Sequence[Network]) -> tuple[str, ...]:
    """The interfaces' names in the pod: the requested ones, else ``net1``, ``net2`` and so on by position."""
    return tuple(network.interface or f"net{index}" for index, network in enumerate(listed, start=1))


def _list(text: str) -> list[object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _malformed(text, f"is parsed as JSON and is malformed: {error}") from error
    if not isinstance(value, list):
        raise _malformed(text, "is JSON, but no list")
    return value


def _selected(index: int, value: object) -> Network:
    if not isinstance(value, dict):
        raise _malformed(str(value), f"(entry {index}) is no object with a name")
    texts = {key: value.get(key) or "" for key in ("namespace", "name", "interface")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise _malformed(str(text), f"(entry {index}) cannot be a {key}")
    return _checked(Network(**texts), json.dumps(value))


def _written(text: str) -> Network:
    namespace, slash, rest = text.rpartition("/")
    name, at, interface = rest.partition("@")
    if (slash and not namespace) or (at and not interface) or "@" in interface or "/" in namespace:
        raise _malformed(text, "is not of the form [namespace/]name[@interface]")
    return _checked(Network(namespace, name, interface), text)


def _checked(network: Network, text: str) -> Network:
    if not _LABEL.fullmatch(network.name):
        raise _malformed(text, "does not name a NetworkAttachmentDefinition")
    if network.namespace and not _LABEL.fullmatch(network.namespace):
        raise _malformed(text, "does not name a namespace")
    if network.interface and (len(network.interface) > 15 or re.search(r"[/:\s,]", network.interface)):
        raise _malformed(text, f"has the invalid interface name {network.interface!r}")
    return network


def _malformed(text: str, problem: str) -> Rejected:
    return Rejected(
        f"{text!r} {problem}; write NAME@INTERFACE, separated by commas, or a JSON list of objects that have a name",
        reason="MalformedNetworks",
        field=FIELD,
    )

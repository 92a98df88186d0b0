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
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A DNS label (RFC 1123 §2.1)."""
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_JSON: Final = re.compile(r'[\[{"]')
"""Multus parses a text with one of these as JSON, and any other as a comma list."""

_ADDRESSES: Final = "give spec.interface.addresses of the VPCAttachment"
_ROUTES: Final = (
    "give the VPCAttachment a route (spec.routes). Multus would take the pod's own default route away"
)
_NOTHING: Final = "an attachment has no such setting; remove it"
ELSEWHERE: Final = {
    "ips": _ADDRESSES,
    "ipam-claim-reference": _ADDRESSES,
    "default-route": _ROUTES,
    "mac": _NOTHING,
    "infiniband-guid": _NOTHING,
    "bandwidth": _NOTHING,
    "portMappings": _NOTHING,
    "cni-args": _NOTHING,
}
"""Fields of a JSON entry that an attachment does not take (Network Plumbing Working Group §4.1.2.1), and the remedy."""


@dataclass(frozen=True, slots=True)
class Network:
    """One of the networks. ``namespace`` and ``interface`` are empty where the annotation leaves them out.

    ``requests``: the further fields of a JSON entry that have a value.
    """

    namespace: str
    name: str
    interface: str
    requests: tuple[str, ...] = ()


def networks(text: str) -> tuple[Network, ...]:
    """The networks in the annotation. Raises Rejected where Multus could not parse it."""
    if not text.strip():
        return ()
    if _JSON.search(text):
        return tuple(_selected(index, entry) for index, entry in enumerate(_list(text)))
    return tuple(_written(entry.strip()) for entry in text.split(","))


def appended(text: str, name: str, interface: str, namespace: str) -> str:
    """The annotation with that network at its end; unchanged if it has ``name`` already.

    It stays in its own form, but becomes JSON where a comma list cannot have the name or the interface: before 4.2
    Multus takes DNS labels only there.

    ``namespace`` is the pod's. Raises Rejected where the annotation is malformed.
    """
    listed = networks(text)
    if position(listed, name, namespace) is not None:
        return text
    entry = {"name": name, "interface": interface}
    if listed and _JSON.search(text):
        return json.dumps([*_list(text), entry])
    if not (_LABEL.fullmatch(name) and _LABEL.fullmatch(interface)):
        return json.dumps([*map(_entry, listed), entry])
    return f"{text.strip()},{name}@{interface}" if listed else f"{name}@{interface}"


def position(listed: Sequence[Network], name: str, namespace: str) -> int | None:
    """The index of the network ``name`` of the pod's own namespace; None if the list lacks it."""
    for index, network in enumerate(listed):
        if network.name == name and network.namespace in ("", namespace):
            return index
    return None


def configured_elsewhere(network: Network) -> None:
    """Raises Rejected when the annotation's entry for an attachment has what its VPCAttachment decides."""
    for request in network.requests:
        if request in ELSEWHERE:
            raise Rejected(
                f"{request!r} of {network.name!r} has no effect; {ELSEWHERE[request]}",
                reason="ConfiguredElsewhere",
                field=FIELD,
            )


def interfaces(listed: Sequence[Network]) -> tuple[str, ...]:
    """The interfaces' names in the pod: the requested ones, else ``net1``, ``net2`` and so on by position."""
    return tuple(network.interface or f"net{index}" for index, network in enumerate(listed, start=1))


def _entry(network: Network) -> dict[str, str]:
    texts = {"namespace": network.namespace, "name": network.name, "interface": network.interface}
    return {key: text for key, text in texts.items() if text}


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
        raise _malformed(str(value), f"(entry {index}) is not an object with a name")
    texts = {key: value.get(key) or "" for key in ("namespace", "name", "interface")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise _malformed(str(text), f"(entry {index}) cannot be a {key}")
    known = {key: str(text) for key, text in texts.items()}
    requests = tuple(key for key, setting in value.items() if key not in texts and setting)
    return _checked(Network(**known, requests=requests), json.dumps(value), _SUBDOMAIN)


def _written(text: str) -> Network:
    namespace, slash, rest = text.rpartition("/")
    name, at, interface = rest.partition("@")
    if (slash and not namespace) or (at and not interface) or "@" in interface or "/" in namespace:
        raise _malformed(text, "is not of the form [namespace/]name[@interface]")
    return _checked(Network(namespace, name, interface), text, _LABEL)


def _checked(network: Network, text: str, names: re.Pattern[str]) -> Network:
    if not names.fullmatch(network.name):
        dotted = _SUBDOMAIN.fullmatch(network.name)
        problem = (
            "has a dot, which only a JSON list can have"
            if dotted
            else "does not name a NetworkAttachmentDefinition"
        )
        raise _malformed(text, problem)
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

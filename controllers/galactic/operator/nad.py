"""The NetworkAttachmentDefinition of an attachment, a pure function.

Its configuration is complete enough for the node to act on while the API server is away.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.resources import NADS
from galactic.names import API_VERSION, VPC_LABEL, base62, vpc_hex
from galactic.validation.attachment import ParsedAttachment
from galactic.validation.networks import Interface, Network

CNI_VERSION: Final = "1.0.0"
LABELS: Final = {"app.kubernetes.io/managed-by": "galactic-operator"}


def configuration(
    meta: Meta,
    spec: ParsedAttachment,
    *,
    vpc: int,
    function: int,
    addresses: Sequence[Interface],
    networks: Sequence[Network],
    mtu: int,
) -> str:
    """The CNI configuration list as text; equal arguments give equal text. ``mtu`` 0 leaves it to the node.

    Identifiers are base62, networks and addresses in canonical form. ``routes``: destinations beyond the VPC's networks
    that the pod sends into the VPC.
    """
    plugin = {
        "type": "galactic",
        "vpc": base62(vpc),
        "vpcattachment": base62(function),
        "attachment": f"{meta.namespace}/{meta.name}",
        "mtu": mtu,
        "interface": spec.interface,
        "addresses": [str(address) for address in addresses],
        "networks": [str(network) for network in networks],
        "terminations": [
            {"network": str(termination.network), "via": str(termination.via)}
            for termination in spec.terminations(addresses)
        ],
        "routes": [
            {"destination": str(route.destination)} | ({"via": str(route.via)} if route.via else {})
            for route in spec.onward(addresses)
        ],
    }
    return json.dumps(
        {"cniVersion": CNI_VERSION, "name": meta.name, "plugins": [plugin]}, separators=(",", ":")
    )


def labels(vpc: int) -> dict[str, str]:
    """The labels of a definition."""
    return LABELS | {VPC_LABEL: vpc_hex(vpc)}


def definition(meta: Meta, config: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The object, with the attachment's name and owned by it, so that Kubernetes deletes both together."""
    return {
        "apiVersion": NADS.api_version,
        "kind": NADS.kind,
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "labels": dict(labels),
            "ownerReferences": [owner(meta)],
        },
        "spec": {"config": config},
    }


def owner(meta: Meta) -> dict[str, Any]:
    """The reference to the attachment as controlling owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": VpcAttachment.KIND,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
    }

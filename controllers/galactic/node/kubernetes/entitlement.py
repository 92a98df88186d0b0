"""The pods that a VPCAttachment entitles, and their configuration: a pure function of its status, which the operator
alone writes.

See docs/design/carriers.md.
"""

from dataclasses import dataclass
from typing import Any

from galactic.crds.model import parse
from galactic.crds.vpcattachment import AttachmentStatus, Carrier
from galactic.errors import Rejected
from galactic.kube.api import Object
from galactic.names import base62, parse_function, parse_vpc
from galactic.node.state.attachment import (
    PeerConfig,
    PluginConfig,
    PodRef,
    RouteConfig,
    TerminationConfig,
)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """One attachment as its status has it. ``config`` None: the operator has not written one yet."""

    name: str  # namespace/name
    config: PluginConfig | None
    carriers: tuple[Carrier, ...] | None  # None: the operator has not written any yet
    vpc: str = ""  # namespace/name of its VPC; empty before it is ready

    def carried_by(self, pod: PodRef, node: str) -> bool:
        """Whether that pod carries the attachment on that node. A runtime that passes no UID names pods by name."""
        namespace = self.name.partition("/")[0]
        return any(
            (namespace, carrier.pod, carrier.node) == (pod.namespace, pod.name, node)
            and pod.uid in ("", carrier.uid)
            for carrier in self.carriers or ()
        )

    def lost_by(self, uid: str) -> bool:
        """Whether the pod with that UID does not carry the attachment any more."""
        return self.carriers is not None and uid not in {carrier.uid for carrier in self.carriers}


def entitlement(vpcattachment: Object) -> Entitlement:
    """Raises Rejected, naming the field, where the status is not usable."""
    meta = vpcattachment["metadata"]
    status = parse(AttachmentStatus, vpcattachment.get("status") or {})
    name = f"{meta['namespace']}/{meta['name']}"
    return Entitlement(name, _config(name, status), status.carriers, status.vpc or "")


def kept(vpcattachment: Object) -> Object:
    """The part of a VPCAttachment that is remembered."""
    meta, status = vpcattachment["metadata"], vpcattachment.get("status") or {}
    fields = ("identifier", "vpc", "addresses", "configuration", "carriers", "policies")
    return {
        "metadata": {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta},
        "status": {name: status[name] for name in fields if name in status},
    }


def _config(name: str, status: AttachmentStatus) -> PluginConfig | None:
    configuration = status.configuration
    if configuration is None or not status.identifier:
        return None
    values: dict[str, Any] = {
        "vpc": _base62(parse_vpc, configuration.vpc, "status.configuration.vpc"),
        "vpcattachment": _base62(parse_function, status.identifier, "status.identifier"),
        "attachment": name,
        "mtu": configuration.mtu,
        "addresses": status.addresses,
        "networks": configuration.networks,
        "terminations": tuple(
            TerminationConfig(termination.network, termination.via)
            for termination in configuration.terminations
        ),
        "policies": status.policies,
        "routes": tuple(RouteConfig(destination) for destination in configuration.routes),
        "peers": tuple(
            PeerConfig(_base62(parse_vpc, peer.vpc, "status.configuration.peers.vpc"), peer.networks)
            for peer in configuration.peers
        ),
    }
    return PluginConfig(**values)


def _base62(parser: Any, text: str, field: str) -> str:
    try:
        return base62(parser(text))
    except Rejected as error:
        raise Rejected(str(error), field=field) from error

"""A Pod's attachment and placement, and whether it runs without its VPC interface: pure functions.

Multus calls the CNI plugin. Its thick daemon removes its configuration when it ends. A sandbox that is made meanwhile
gets the default network alone, and nothing fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from galactic.crds.nodesegment import NodeSegment
from galactic.names import ATTACHMENT_ANNOTATION, VPC_ANNOTATION

NETWORK_READY: Final = "PodReadyToStartContainers"
"""The Pod condition by which the kubelet reports a sandbox with its network (beta in Kubernetes 1.29)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a Pod runs. ``since``: the time (seconds since 1970) at which its newest sandbox was made; 0: unknown."""

    node: str  # empty: not scheduled
    started: bool  # its sandbox has its network, or its containers run
    host_network: bool
    since: float


def requested_attachment(pod: Mapping[str, Any]) -> str:
    """The name of the Pod's attachment; empty for none."""
    return str((pod["metadata"].get("annotations") or {}).get(ATTACHMENT_ANNOTATION, ""))


def requested_vpc(pod: Mapping[str, Any]) -> str:
    """The VPC in which the Pod requests an attachment of its own; empty for none."""
    return str((pod["metadata"].get("annotations") or {}).get(VPC_ANNOTATION, ""))


def owned(pod: Mapping[str, Any]) -> bool:
    """Whether a controller, such as a ReplicaSet, replaces the Pod once it is gone."""
    return any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or ())


def placement(pod: Mapping[str, Any]) -> Placement:
    """Where the Pod runs, from its specification and status."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    conditions = {condition.get("type"): condition for condition in status.get("conditions") or ()}
    network: Mapping[str, Any] = conditions.get(NETWORK_READY) or {}
    phase = status.get("phase")
    started = phase == "Running"
    if network:  # an init container may wait for the VPC; a sandbox that is not made yet is not missing one
        started = phase in ("Pending", "Running") and network.get("status") == "True"
    # A sandbox made again, as after a reboot, is newer than the pod.
    created = status.get("startTime") or pod["metadata"].get("creationTimestamp")
    since = max(seconds(text or "") for text in (created, network.get("lastTransitionTime")))
    return Placement(str(spec.get("nodeName") or ""), started, bool(spec.get("hostNetwork")), since)


def lacks_interface(place: Placement, attachment: str, segment: NodeSegment | None) -> bool:
    """Whether a Pod of that placement runs without ``attachment`` (namespace/name). ``segment``: of the Pod's node.

    False while the node has never reported. A NodeSegment may be a moment behind its pods: the caller waits.
    """
    if not place.started or place.host_network or segment is None or not segment.status.conditions:
        return False
    return not attached(attachment, segment)


def attached(attachment: str, segment: NodeSegment) -> bool:
    """Whether the node reports the attachment (namespace/name)."""
    return any(endpoint.attachment == attachment for endpoint in segment.status.endpoints)


def seconds(text: str) -> float:
    """A time as the API server writes it, in seconds since 1970; 0 for an empty or malformed text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()

"""Messages by which a node refuses an ADD, because the pod does not carry the attachment: written and recognised.

The kubelet repeats them in an Event of the pod, between other programs' words. ``galactic status`` reads them there.
"""

import re
from dataclasses import dataclass
from typing import Final

from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL

OTHER_NAMESPACE: Final = "OtherNamespace"
NO_ATTACHMENT: Final = "NoAttachment"
NOT_CARRIED: Final = "NotCarried"
DETACHED: Final = "Detached"
REASONS: Final = (OTHER_NAMESPACE, NO_ATTACHMENT, NOT_CARRIED, DETACHED)
"""The label ``reason`` of ``galactic_node_refused_total``. ``Detached`` is of pods that run, and no ADD's."""

_NAME: Final = r"VPCAttachment ([-a-z0-9.]+/[-a-z0-9.]+)"
_PATTERNS: Final = (
    (OTHER_NAMESPACE, re.compile(f"{_NAME} is not in the namespace of pod ")),
    (NO_ATTACHMENT, re.compile("the network configuration names no VPCAttachment()")),
    (NOT_CARRIED, re.compile(f"{_NAME} is not carried by pod ")),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """``attachment``: namespace/name; empty where the network configuration names none."""

    reason: str
    attachment: str


def no_attachment() -> str:
    """For a network configuration without the attachment's name."""
    return "the network configuration names no VPCAttachment; use one that the operator wrote"


def other_namespace(attachment: str, pod: str) -> str:
    """For a pod (namespace/name) that names an attachment (namespace/name) of another namespace."""
    return f"VPCAttachment {attachment} is not in the namespace of pod {pod}; name one of the pod's own namespace"


def not_carried(attachment: str, pod: str, uid: str, node: str) -> str:
    """For a pod that is not among the attachment's carriers on the node."""
    return (
        f"VPCAttachment {attachment} is not carried by pod {pod} ({uid or 'no UID'}) on node {node}, as its "
        f"status.carriers has it: the pod lacks the annotation {ATTACHMENT_ANNOTATION} or the label "
        f"{ATTACHMENT_LABEL}, or galactic-operator is away"
    )


def refusal(message: str) -> Refusal | None:
    """The refusal that a message repeats; None for a message of anything else."""
    for reason, pattern in _PATTERNS:
        if found := pattern.search(message):
            return Refusal(reason, found[1])
    return None

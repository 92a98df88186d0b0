"""Attachments of StatefulSets' Pods: which Pod carries one, and how long it is kept without a Pod.

Pure functions of the caches and the time (docs/design/statefulsets.md).
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import RETAINED, State, stamp
from galactic.kube.ordinals import Ordinal, ordinal_attachment
from galactic.kube.pods import seconds
from galactic.kube.resources import STATEFUL_SETS
from galactic.names import (
    ATTACHMENT_LABEL,
    GENERATED,
    ORDINAL_LABEL,
    STATEFUL_SET_LABEL,
    VPC_ANNOTATION,
    label_value,
)
from galactic.operator.attachment_counts import reference
from galactic.operator.objects import Pod
from galactic.operator.state import Caches

RECHECK_SECONDS: Final = 60.0
"""The longest time between two checks of a retained attachment: the queue's clock is not the wall's."""


@dataclass(frozen=True, slots=True)
class Retention:
    """``state`` is the condition Retained, None removes it. ``release``: the attachment is to be deleted.

    ``again``: seconds until the next check; None: a change leads to it.
    """

    state: State | None = None
    release: bool = False
    again: float | None = None


def stateful(meta: Meta) -> bool:
    """Whether the operator made the attachment for a Pod of a StatefulSet, which may be gone."""
    return bool(set_owners(meta)) or (
        meta.labels.get(ATTACHMENT_LABEL) == GENERATED and STATEFUL_SET_LABEL in meta.labels
    )


def set_owners(meta: Meta) -> frozenset[str]:
    """The UIDs of the StatefulSets that own the attachment."""
    return frozenset(owner.uid for owner in meta.owner_references if owner.kind == STATEFUL_SETS.kind)


def labels(place: Ordinal) -> dict[str, str]:
    """The labels of the attachment of that Pod, by which people select it."""
    return {
        ATTACHMENT_LABEL: GENERATED,
        STATEFUL_SET_LABEL: label_value(place.stateful_set),
        ORDINAL_LABEL: str(place.number),
    }


def owner(place: Ordinal) -> dict[str, Any]:
    """The attachment's owner reference."""
    return {
        "apiVersion": STATEFUL_SETS.api_version,
        "kind": STATEFUL_SETS.kind,
        "name": place.stateful_set,
        "uid": place.uid,
        "controller": True,
    }


def may_carry(pod: Pod, attachment: VpcAttachment) -> bool:
    """Whether the Pod may carry the attachment of a StatefulSet's Pod.

    It has the attachment's name, the StatefulSet that owns the attachment controls it, and it requests the same VPC.
    A Pod that carries it already goes on: its StatefulSet may be deleted without its Pods, and another adopt them.
    """
    if any(carrier.uid == pod.metadata.uid for carrier in attachment.status.carriers or ()):
        return True
    meta = attachment.metadata
    return (
        pod.ordinal is not None
        and pod.ordinal.uid in set_owners(meta)
        and ordinal_attachment(pod.metadata.name) == meta.name
        and requested(pod.vpc, meta.namespace) == reference(attachment)
    )


def requested(annotation: str, namespace: str) -> Key | None:
    """The VPC that VPC_ANNOTATION names on a Pod of the namespace; None where it names none."""
    place, slash, name = annotation.rpartition("/")
    if not name or "/" in place or (slash and not place):
        return None
    return place or namespace, name


def retention(caches: Caches, attachment: VpcAttachment, keep: float, at: float) -> Retention:
    """For an attachment of a StatefulSet's Pod. ``keep``: seconds after the scale-down; ``at``: seconds since 1970."""
    meta = attachment.metadata
    key = meta.namespace, meta.name
    pods = (caches.pods.get(pod) for pod in caches.carriers(key))
    if any(pod is not None and may_carry(pod, attachment) for pod in pods):
        return Retention()
    problem = _surplus(caches, attachment)
    if problem is None:
        return Retention()
    since = next(
        (
            seconds(condition.last_transition_time)
            for condition in attachment.status.conditions
            if condition.type == RETAINED and condition.status == "True"
        ),
        0.0,
    )
    due = (since or at) + keep
    vpc = caches.vpcs.get(reference(attachment))
    if due <= at or vpc is None or vpc.metadata.deletion_timestamp is not None:
        return Retention(release=True)
    text = f"{problem.message}; the attachment and its addresses are released at {stamp(due)}"
    return Retention(replace(problem, message=text), again=min(due - at, RECHECK_SECONDS))


def _surplus(caches: Caches, attachment: VpcAttachment) -> State | None:
    """Why no Pod is to come that carries it. None where one is, or where it is not certain."""
    meta = attachment.metadata
    own = set_owners(meta)
    if not own:
        return State("True", "NoStatefulSet", "no StatefulSet owns it any more")
    name = next((owner.name for owner in meta.owner_references if owner.uid in own), "")
    present = caches.stateful_sets.get((meta.namespace, name))
    if present is None or present.uid not in own:
        return None  # deleted: garbage collection deletes the attachment
    number = meta.name.removeprefix(f"{name}-")
    number = number if number.isdecimal() else meta.labels.get(ORDINAL_LABEL, "")
    if number.isdecimal() and int(number) not in present:
        count = f"{present.replicas} replica{'' if present.replicas == 1 else 's'}"
        return State("True", "ScaledDown", f"StatefulSet {name} has {count} and no pod {number}")
    if requested(present.vpc, meta.namespace) != reference(attachment):
        vpc = "/".join(reference(attachment))
        message = f"the template of StatefulSet {name} does not name VPC {vpc} by {VPC_ANNOTATION}"
        return State("True", "TemplateChanged", message)
    return None


def vpc_of(pod: Pod) -> Key:
    """The VPC that the Pod requests. Raises Rejected."""
    vpc = requested(pod.vpc, pod.metadata.namespace)
    if vpc is None:
        raise Rejected(
            f"{pod.vpc!r} names no VPC; write NAME or namespace/NAME",
            reason="InvalidAnnotation",
            field=f"metadata.annotations[{VPC_ANNOTATION}]",
        )
    return vpc

"""Objects of the API server as the operator reads them: models of Galactic's kinds, and parts of others. Pure."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from galactic.crds.model import Meta, Model, parse, trimmed
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.kube.api import Object
from galactic.kube.ordinals import Ordinal, ordinal, ordinal_attachment
from galactic.kube.pods import Placement, owned, placement
from galactic.names import (
    ACCEPTED_ANNOTATION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    NOT_READY_TAINT,
    VPC_ANNOTATION,
)
from galactic.operator import record
from galactic.operator.backends import Backend, backend
from galactic.validation import multus

S = TypeVar("S", bound=Model)
MESSAGE: Final = 1024
"""Characters of an invalid object's problem."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that does not fit its model: stored before its schema existed, or around it."""

    metadata: Meta
    problem: Rejected
    status: Mapping[str, Any] = field(default_factory=dict)
    """As the API server has it: an equal status is not written again."""


@dataclass(frozen=True, slots=True)
class Nad:
    """The part of a NetworkAttachmentDefinition that the operator compares."""

    version: str
    owner: str  # UID of the controlling owner, empty for none
    config: str
    labels: Mapping[str, str]  # Galactic's own


@dataclass(frozen=True, slots=True)
class PolicyPart:
    """A PolicySlice. ``spec``: without fields that were never written."""

    version: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a Pod with ATTACHMENT_LABEL that the operator reads."""

    metadata: Meta
    attachment: str  # the name of its attachment
    vpc: str  # VPC_ANNOTATION, empty for none
    generated: bool  # the operator makes the attachment
    live: bool  # has not run to its end
    place: Placement
    owned: bool  # a controller replaces it after its deletion
    further: tuple[
        str, ...
    ] = ()  # names in Multus' annotation, of its own namespace: it may have several attachments
    accepted: tuple[str, ...] | None = None  # ACCEPTED_ANNOTATION
    ordinal: Ordinal | None = None  # its place in a StatefulSet, if its attachment is of that place
    backend: Backend = field(default_factory=Backend)

    @property
    def attachments(self) -> tuple[str, ...]:
        """The names of the attachments that it carries."""
        return tuple(dict.fromkeys((self.attachment, *self.further)))

    @property
    def node(self) -> str:
        """The Node that it is scheduled to; empty before."""
        return self.place.node


@dataclass(frozen=True, slots=True)
class Node:
    """The part of a Node that the operator reads."""

    metadata: Meta
    taints: tuple[Mapping[str, Any], ...]
    addresses: tuple[str, ...] = ()
    pod_networks: tuple[str, ...] = ()

    @property
    def away(self) -> bool:
        """Whether Kubernetes has given the Node up."""
        return any(taint["key"] in AWAY_TAINTS for taint in self.taints)

    @property
    def held_back(self) -> bool:
        """Whether NOT_READY_TAINT keeps pods away."""
        return any(taint["key"] == NOT_READY_TAINT for taint in self.taints)


AWAY_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/out-of-service",
    }
)


@dataclass(frozen=True, slots=True)
class Agent:
    """A Pod of the node controller."""

    node: str
    ready: bool


def vpc(item: Object) -> Vpc | Invalid:
    return _fitting(Vpc, trimmed(item))


def attachment(item: Object) -> VpcAttachment | Invalid:
    return _fitting(VpcAttachment, item)


def policy(item: Object) -> VpcPolicy | Invalid:
    return _fitting(VpcPolicy, item)


def gateway(item: Object) -> VpcGateway | Invalid:
    return _fitting(VpcGateway, item)


def policy_part(item: Object) -> PolicyPart:
    return PolicyPart(item["metadata"].get("resourceVersion", ""), item.get("spec") or {})


def segment(item: Object) -> NodeSegment | Invalid:
    segment = _fitting(NodeSegment, trimmed(item))
    return segment if isinstance(segment, Invalid) else record.segment(segment)


def _fitting(kind: type[S], item: Object) -> S | Invalid:
    try:
        return parse(kind, item)
    except Rejected as problem:
        return Invalid(metadata(trimmed(item)), _brief(problem), item.get("status") or {})


def status_of(kind: type[S], found: Any) -> S:
    """The status of an object, also of one that does not fit its kind; an empty one where it does not either."""
    if not isinstance(found, Invalid):
        status: S = found.status
        return status
    try:
        return parse(kind, found.status)
    except Rejected:
        return kind()


def _brief(problem: Rejected) -> Rejected:
    """Its message repeats values of the object, which may be of any length."""
    text = str(problem)
    return problem if len(text) <= MESSAGE else Rejected(f"{text[:MESSAGE]}…", reason=problem.reason)


def metadata(item: Object) -> Meta:
    meta: Mapping[str, Any] = item["metadata"]
    annotations = meta.get("annotations") or {}
    own = {name: annotations[name] for name in record.ANNOTATIONS if name in annotations}
    return parse(Meta, {**meta, "annotations": own})


def node(item: Object) -> Node:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    return Node(
        metadata(item),
        tuple(spec.get("taints") or ()),
        tuple(address["address"] for address in status.get("addresses") or () if address.get("address")),
        tuple(filter(None, spec.get("podCIDRs") or [spec.get("podCIDR")])),
    )


def pod(item: Object) -> Pod:
    meta = item["metadata"]
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    attachment = annotations.get(ATTACHMENT_ANNOTATION, "")
    place = ordinal(meta["name"], meta.get("ownerReferences") or ())
    return Pod(
        Meta(
            name=meta["name"],
            namespace=meta["namespace"],
            uid=meta["uid"],
            resource_version=meta.get("resourceVersion", ""),
            deletion_timestamp=meta.get("deletionTimestamp"),
        ),
        attachment,
        annotations.get(VPC_ANNOTATION, ""),
        labels.get(ATTACHMENT_LABEL) == GENERATED and VPC_ANNOTATION in annotations,
        (item.get("status") or {}).get("phase") not in ("Succeeded", "Failed"),
        placement(item),
        owned(item),
        _further(annotations.get(NETWORKS_ANNOTATION, ""), meta["namespace"]),
        _accepted(annotations.get(ACCEPTED_ANNOTATION)),
        place if attachment == ordinal_attachment(meta["name"]) else None,
        backend(item),
    )


def _accepted(annotation: str | None) -> tuple[str, ...] | None:
    """The networks in the annotation, as they are written there."""
    if annotation is None:
        return None
    return tuple(text for part in annotation.split(",") if (text := part.strip()))


def _further(annotation: str, namespace: str) -> tuple[str, ...]:
    """The networks of a Pod's own namespace in Multus' annotation; none where Multus could not parse it."""
    with suppress(Rejected):
        return tuple(one.name for one in multus.networks(annotation) if one.namespace in {"", namespace})
    return ()


def agent(item: Object) -> Agent:
    conditions = (item.get("status") or {}).get("conditions") or ()
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions
    )
    deleted = item["metadata"].get("deletionTimestamp") is not None
    return Agent((item.get("spec") or {}).get("nodeName") or "", ready and not deleted)


def nad(item: Object) -> Nad:
    meta = item["metadata"]
    owners = [owner["uid"] for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    config = (item.get("spec") or {}).get("config")
    return Nad(
        meta.get("resourceVersion", ""),
        owners[0] if owners else "",
        config if isinstance(config, str) else "",
        {name: value for name, value in (meta.get("labels") or {}).items() if name in record.LABELS},
    )

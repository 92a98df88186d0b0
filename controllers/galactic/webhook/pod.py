"""Pods that request an attachment: their patch, and their checks.

k8s.v1alpha.galactic.datumapis.com/vpc-attachment: NAME              the attachment
k8s.v1alpha.galactic.datumapis.com/vpc: NAME or namespace/NAME       an attachment of its own, in that VPC
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from galactic.errors import NotYet, Rejected
from galactic.kube.ordinals import Ordinal, ordinal, ordinal_attachment
from galactic.names import (
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    VPC_ANNOTATION,
)
from galactic.validation import multus
from galactic.webhook.review import Answer

SUFFIX: Final = 5
"""Random letters at the end of a generated name, as in the names of Pods."""
LONGEST: Final = 63
POD_INTERFACE: Final = "eth0"
MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On a Pod that stands for a static pod of a node (k8s.io/api/core/v1, MirrorPodAnnotationKey)."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
ATTACHMENT_FIELD: Final = f"metadata.annotations[{ATTACHMENT_ANNOTATION}]"
VPC_FIELD: Final = f"metadata.annotations[{VPC_ANNOTATION}]"


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="ignore")


class _Meta(_Model):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[dict[str, Any], ...] | None = None


class _Spec(_Model):
    host_network: bool = False


class _Status(_Model):
    phase: str = ""


class _Pod(_Model):
    metadata: _Meta
    spec: _Spec = Field(default_factory=_Spec)
    status: _Status = Field(default_factory=_Status)


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a Pod that the webhook reads. ``name``: before generateName has made one, its prefix."""

    namespace: str
    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotated: bool = True  # whether it has annotations, or labels, that a patch can add to
    labelled: bool = True
    host_network: bool = False
    over: bool = False
    ordinal: Ordinal | None = None  # its place in the StatefulSet that controls it

    @property
    def attachment(self) -> str:
        """The requested attachment; empty for none."""
        return self.annotations.get(ATTACHMENT_ANNOTATION, "")

    @property
    def vpc(self) -> tuple[str, str] | None:
        """(namespace, name) of the VPC in which it requests an attachment of its own."""
        text = self.annotations.get(VPC_ANNOTATION)
        if text is None:
            return None
        namespace, slash, name = text.partition("/")
        return (namespace, name) if slash else (self.namespace, text)

    @property
    def concerned(self) -> bool:
        """Whether it requests an attachment."""
        return ATTACHMENT_ANNOTATION in self.annotations or VPC_ANNOTATION in self.annotations


@dataclass(frozen=True, slots=True)
class Attachment:
    """The state of the attachment that a pod requests."""

    interface: str
    ready: bool
    message: str = ""  # of the Ready condition
    generated: bool = False  # the operator made it, for one pod or for one place in a StatefulSet


def parse(document: Mapping[str, Any], namespace: str) -> Pod:
    """The Pod. Raises Rejected when it is malformed."""
    try:
        pod = _Pod.model_validate(document)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        raise Rejected(first["msg"], reason="Undecodable", field=".".join(map(str, first["loc"]))) from error
    meta = pod.metadata
    return Pod(
        namespace=namespace or meta.namespace,
        name=meta.name or meta.generate_name,
        annotations=meta.annotations or {},
        labels=meta.labels or {},
        annotated=meta.annotations is not None,
        labelled=meta.labels is not None,
        host_network=pod.spec.host_network,
        over=pod.status.phase in ("Succeeded", "Failed"),
        ordinal=ordinal(meta.name, meta.owner_references or ()),
    )


def checked(pod: Pod) -> None:
    """Raises Rejected for a pod that is wrong by itself."""
    if pod.host_network:
        raise Rejected(
            "true leaves the pod in the node's network, where there is nothing to attach; remove it, or the annotation",
            reason="HostNetwork",
            field="spec.hostNetwork",
        )
    if MIRROR_ANNOTATION in pod.annotations:
        raise Rejected(
            f"a static pod is not attached: kubelet starts it without the API server; remove "
            f"{ATTACHMENT_ANNOTATION if pod.attachment else VPC_ANNOTATION} from its file, or run it as a DaemonSet",
            reason="StaticPod",
            field=f"metadata.annotations[{MIRROR_ANNOTATION}]",
        )
    if ATTACHMENT_ANNOTATION in pod.annotations and not _is_name(pod.attachment):
        raise Rejected(
            f"{pod.attachment!r} is not the name of a VPCAttachment; give the name of one in namespace {pod.namespace}",
            reason="InvalidName",
            field=ATTACHMENT_FIELD,
        )
    if (vpc := pod.vpc) is not None and not (_LABEL.fullmatch(vpc[0]) and _is_name(vpc[1])):
        raise Rejected(
            f"{pod.annotations[VPC_ANNOTATION]!r} is not the name of a VPC; write NAME or NAMESPACE/NAME",
            reason="InvalidName",
            field=VPC_FIELD,
        )
    if pod.vpc and pod.attachment and pod.labels.get(ATTACHMENT_LABEL) != GENERATED:
        raise Rejected(
            f"{pod.attachment!r} beside {VPC_ANNOTATION}: a pod has an attachment of its own, or that one; remove one "
            "of the two annotations",
            reason="TwoAttachments",
            field=ATTACHMENT_FIELD,
        )
    listed = multus.networks(pod.annotations.get(NETWORKS_ANNOTATION, ""))
    if pod.attachment and (index := multus.position(listed, pod.attachment, pod.namespace)) is not None:
        multus.configured_elsewhere(listed[index])
    names = Counter((POD_INTERFACE, *multus.interfaces(listed)))
    if repeated := [name for name, times in names.items() if times > 1]:
        raise _duplicate_interface(repeated[0])


def attachment_name(pod: Pod, suffix: str) -> str:
    """The name of an attachment of the pod's own: its name and five random letters, a DNS label.

    A StatefulSet's pod has the one of its place: the pod that replaces it has the same name.
    """
    if pod.ordinal is not None:
        return ordinal_attachment(pod.name)
    stem = pod.name.replace(".", "-")[: LONGEST - 1 - len(suffix)].strip("-") or "pod"
    return f"{stem}-{suffix}"


def label(attachment: str) -> str:
    """The value of ATTACHMENT_LABEL for pods that share an attachment: its name where a label can hold it."""
    if len(attachment) <= LONGEST and attachment != GENERATED:
        return attachment
    return blake2b(attachment.encode(), digest_size=16).hexdigest()


def mutated(pod: Pod, attachment: str, interface: str) -> Answer:
    """Adds the entry for Multus, the label, and the name of a generated attachment. Idempotent.

    Raises Rejected where the Multus annotation is malformed, or has another network with that interface.
    """
    before = pod.annotations.get(NETWORKS_ANNOTATION, "")
    after = multus.appended(before, attachment, interface, pod.namespace)
    warnings: tuple[str, ...] = ()
    listed = multus.networks(after)
    index = multus.position(listed, attachment, pod.namespace)
    assert index is not None
    interfaces = multus.interfaces(listed)
    if interfaces[index] != interface:
        entry = f"{attachment} with interface {interfaces[index]}"
        remedy = f"its VPCAttachment has {interface}; remove it from the list, and the webhook adds it"
        warnings = (f"{multus.FIELD}: {entry}: {remedy}",)
    for name, times in Counter((POD_INTERFACE, *interfaces)).items():
        if times > 1:
            raise _duplicate_interface(name)
    annotations = {ATTACHMENT_ANNOTATION: attachment, NETWORKS_ANNOTATION: after}
    labels = {ATTACHMENT_LABEL: GENERATED if pod.vpc else label(attachment)}
    return Answer(
        warnings=warnings,
        patch=(
            *_set("annotations", pod.annotations, annotations, present=pod.annotated),
            *_set("labels", pod.labels, labels, present=pod.labelled),
        ),
    )


def ready(pod: Pod, attachment: Attachment | None) -> None:
    """Raises NotYet while the pod's attachment is missing or not ready."""
    if attachment is None:
        raise NotYet(
            f"{ATTACHMENT_FIELD}: there is no VPCAttachment {pod.namespace}/{pod.attachment}; make it. {CONVERGES}",
            reason="AttachmentNotFound",
        )
    if not attachment.ready:
        cause = f" ({attachment.message})" if attachment.message else ""
        raise NotYet(
            f"{ATTACHMENT_FIELD}: VPCAttachment {pod.namespace}/{pod.attachment} is not ready{cause}; "
            f"`kubectl describe vpca` says what it waits for. {CONVERGES}",
            reason="AttachmentNotReady",
        )


CONVERGES: Final = (
    "A Deployment or other controller tries again by itself; a bare pod has to be applied again."
)


def fresh(pod: Pod, attachment: Attachment | None) -> None:
    """Raises Rejected where the attachment to be generated belongs to another pod, as in a copied manifest.

    That of a place in a StatefulSet is there from the second pod on.
    """
    if pod.ordinal is not None and pod.attachment == ordinal_attachment(pod.name):
        if attachment is not None and not attachment.generated:
            raise Rejected(
                f"{pod.attachment!r} has the name of this pod of StatefulSet {pod.ordinal.stateful_set}, and was not "
                "made for it; delete that VPCAttachment, or name the StatefulSet otherwise",
                reason="AttachmentTaken",
                field=ATTACHMENT_FIELD,
            )
        return
    if attachment is not None:
        raise Rejected(
            f"{pod.attachment!r} was made for another pod; remove the annotation, the label {ATTACHMENT_LABEL} and the "
            f"entry in {NETWORKS_ANNOTATION}, which were added to that pod",
            reason="AttachmentTaken",
            field=ATTACHMENT_FIELD,
        )


def shareable(pod: Pod, attachment: Attachment | None) -> None:
    """Raises Rejected where the operator made the attachment that the pod names, for another pod: it would wait."""
    if attachment is not None and attachment.generated:
        raise Rejected(
            f"{pod.attachment!r} was made for a pod by {VPC_ANNOTATION}, and no other pod gets it; use that "
            "annotation, or make a VPCAttachment",
            reason="AttachmentTaken",
            field=ATTACHMENT_FIELD,
        )


def shared(pod: Pod, others: Sequence[str]) -> Answer:
    """A warning when other live pods have the same attachment, as during a rolling update with surge."""
    if not others:
        return Answer()
    verb = "has" if len(others) == 1 else "have"
    sentence = f"pod {', '.join(sorted(others)[:3])} {verb} VPCAttachment {pod.attachment} as well"
    return Answer(
        warnings=(
            f"{sentence}; the newest gets the traffic. For one each, use the annotation {VPC_ANNOTATION}",
        )
    )


def updated(old: Pod, new: Pod) -> None:
    """Raises Rejected where an annotation that has taken effect is changed, or is set too late to take effect."""
    if old.over or not (old.concerned or new.concerned):
        return
    for name in (ATTACHMENT_ANNOTATION, VPC_ANNOTATION):
        before, after = old.annotations.get(name), new.annotations.get(name)
        if before != after:
            raise _immutable(name, before, after)
    if (before := old.annotations.get(NETWORKS_ANNOTATION)) == (
        after := new.annotations.get(NETWORKS_ANNOTATION)
    ):
        return
    # Other programs may attach further networks to a running pod. Galactic's entry stays as it is.
    try:
        own = _entry(old)
    except Rejected:
        return
    if own is not None and _entry(new) != own:
        raise _immutable(NETWORKS_ANNOTATION, before, after)


def _entry(pod: Pod) -> multus.Network | None:
    listed = multus.networks(pod.annotations.get(NETWORKS_ANNOTATION, ""))
    index = multus.position(listed, pod.attachment, pod.namespace)
    return None if index is None else listed[index]


def _immutable(name: str, before: str | None, after: str | None) -> Rejected:
    change = "cannot be set" if before is None else f"cannot {'be removed' if after is None else 'change'}"
    return Rejected(
        f"{(before if after is None else after)!r} {change} on a pod that exists; delete the pod and make it again, or "
        "change the template of its controller",
        reason="Immutable",
        field=f"metadata.annotations[{name}]",
    )


def _duplicate_interface(name: str) -> Rejected:
    return Rejected(
        f"two interfaces of the pod would be called {name!r}; give each a name of its own, here or in the "
        "VPCAttachment's spec.interface.name",
        reason="DuplicateInterface",
        field=multus.FIELD,
    )


def _is_name(text: str) -> bool:
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def _set(
    place: str, before: Mapping[str, str], desired: Mapping[str, str], *, present: bool
) -> list[dict[str, Any]]:
    """The JSON patch that sets those keys of a mapping in the metadata. Empty if they are set."""
    changed = {key: value for key, value in desired.items() if before.get(key) != value}
    if not present:
        return [{"op": "add", "path": f"/metadata/{place}", "value": changed}] if changed else []
    return [
        {"op": "add", "path": f"/metadata/{place}/{_escaped(key)}", "value": value}
        for key, value in changed.items()
    ]


def _escaped(key: str) -> str:
    """A key in a JSON pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")

"""Pods that get an attachment of their own, with the name that the webhook put on the Pod.

The Pod owns its attachment, so Kubernetes removes it after the Pod. If the Pod is deleted before its attachment is
made, the attachment's owner does not exist, and garbage collection removes it as well. The attachment of a
StatefulSet's Pod is the StatefulSet's: the Pod that replaces the first goes on with it (``retention``).
"""

from typing import Any

from galactic.crds.model import Meta
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Conflict, Key, Terminating
from galactic.kube.ordinals import Ordinal
from galactic.kube.resources import PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    API_VERSION,
    ATTACHMENT_LABEL,
    COPIED_ANNOTATION,
    GENERATED,
    GROUP,
    VPC_LABEL,
    carrier_label,
    vpc_hex,
)
from galactic.operator.attachment_counts import reference
from galactic.operator.context import FINALIZER, ReconcileContext
from galactic.operator.nad import LABELS
from galactic.operator.objects import Invalid, Pod
from galactic.operator.statefulsets import labels, owner, requested, set_owners, stateful, vpc_of


class Pods:
    """The reconciler of Pods with VPC_ANNOTATION."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> None:
        context = self._context
        pod = context.caches.pods.get(key)
        if pod is None or not pod.generated or not pod.live or context.caches.terminating(key[0]):
            return
        if pod.metadata.deletion_timestamp is not None:
            return
        name = (key[0], pod.attachment)
        if context.caches.attachments.get(name) is None and not await self._make(pod):
            return
        present = context.caches.attachments.get(name)
        if present is None or owned(present, pod):
            if isinstance(present, VpcAttachment) and pod.ordinal is not None:
                await self._adjust(pod, pod.ordinal, present)
            present = context.caches.attachments.get(name)
            if isinstance(present, VpcAttachment) and present.metadata.deletion_timestamp is None:
                await self._copy_labels(pod, present)
        elif not self._passing(present):
            context.events.record(
                PODS,
                pod.metadata,
                "Warning",
                "NameTaken",
                f"VPCAttachment {'/'.join(name)} was not made for this pod; delete one of them",
            )

    async def _make(self, pod: Pod) -> bool:
        """Makes the Pod's attachment. False: it is not to be made. Raises Rejected where it is tried again."""
        context = self._context
        try:
            vpc = vpc_of(pod)
        except Rejected as problem:
            context.events.record(PODS, pod.metadata, "Warning", problem.reason, str(problem))
            return False
        try:
            body = attachment(pod, vpc, context.allocator.vpcs.of(vpc))
            made = await context.api.create(VPC_ATTACHMENTS, body, pod.metadata.namespace)
        except Conflict:
            raise  # another client made it a moment ago, and the watch is behind: tried again
        except Terminating:
            return False  # the pod goes with its namespace; the watch is behind
        except Rejected as problem:
            context.events.record(PODS, pod.metadata, "Warning", problem.reason, str(problem))
            raise  # tried again: the grant, the quota or the VPC may change
        context.caches.attachments.set(made)
        return True

    async def _copy_labels(self, pod: Pod, present: VpcAttachment) -> None:
        """Makes the labels that the attachment has from its Pod those of the Pod as it is now."""
        meta, wanted = present.metadata, copied(pod)
        noted = meta.annotations.get(COPIED_ANNOTATION, "")
        names = ",".join(sorted(wanted))
        patch: dict[str, Any] = {name: None for name in noted.split(",") if name and name not in wanted}
        patch |= {name: value for name, value in wanted.items() if meta.labels.get(name) != value}
        if not patch and noted == names:
            return
        body = {
            "resourceVersion": meta.resource_version,
            "labels": patch,
            "annotations": {COPIED_ANNOTATION: names or None},
        }
        attachments, api = self._context.caches.attachments, self._context.api
        attachments.set(await api.patch(VPC_ATTACHMENTS, meta.name, {"metadata": body}, meta.namespace))

    def _passing(self, attachment: VpcAttachment | Invalid) -> bool:
        """Whether the attachment goes by itself, and leads here again: its StatefulSet is gone, or it is deleted."""
        meta = attachment.metadata
        own = set_owners(meta)
        names = {(meta.namespace, owner.name) for owner in meta.owner_references if owner.uid in own}
        sets = [self._context.caches.stateful_sets.get(name) for name in names]
        gone = bool(own) and not any(one is not None and one.uid in own for one in sets)
        return gone or meta.deletion_timestamp is not None

    async def _adjust(self, pod: Pod, place: Ordinal, present: VpcAttachment) -> None:
        """Makes the attachment that an earlier Pod of that place left this Pod's."""
        api, meta = self._context.api, present.metadata
        if meta.deletion_timestamp is not None:
            return
        if requested(pod.vpc, meta.namespace) != reference(present):
            await api.delete(VPC_ATTACHMENTS, meta.name, meta.namespace, uid=meta.uid)
            return  # once it is gone, this Pod gets another
        patch: dict[str, Any] = {}
        if place.uid not in set_owners(meta):
            patch["ownerReferences"] = [owner(place)]
        if missing := {
            name: value for name, value in labels(place).items() if meta.labels.get(name) != value
        }:
            patch["labels"] = missing
        accepted = pod.accepted
        body: dict[str, Any] = (
            {"metadata": patch | {"resourceVersion": meta.resource_version}} if patch else {}
        )
        if accepted != present.spec.accepted_networks:
            body["spec"] = {"acceptedNetworks": None if accepted is None else list(accepted)}
        if body:
            self._context.caches.attachments.set(
                await api.patch(VPC_ATTACHMENTS, meta.name, body, meta.namespace)
            )


def copied(pod: Pod) -> dict[str, str]:
    """The Pod's labels that its attachment has too, for selectors of rules. Galactic's own are the operator's."""
    return {
        name: value
        for name, value in pod.backend.labels.items()
        if name not in LABELS and not _ours(name.partition("/")[0])
    }


def _ours(domain: str) -> bool:
    return domain == GROUP or domain.endswith(f".{GROUP}")


def owned(attachment: VpcAttachment | Invalid, pod: Pod) -> bool:
    """Whether the attachment was made for this Pod, or for its place in a StatefulSet."""
    meta = attachment.metadata
    if any(owner.uid == pod.metadata.uid for owner in meta.owner_references):
        return True
    place = pod.ordinal
    return place is not None and (
        place.uid in set_owners(meta)
        # Its StatefulSet was deleted without its Pods, and another adopted them.
        or (stateful(meta) and not meta.owner_references)
    )


def attachment(pod: Pod, vpc: Key, identifier: int | None) -> dict[str, Any]:
    """The Pod's attachment, in use from the beginning: with the finalizer, and the labels of VPC and node, if known."""
    meta, place = pod.metadata, pod.ordinal
    from_pod = copied(pod)
    marks = {} if identifier is None else {VPC_LABEL: vpc_hex(identifier)}
    if pod.node:
        marks[carrier_label(pod.node)] = ""
    return {
        "apiVersion": API_VERSION,
        "kind": VpcAttachment.KIND,
        "metadata": {
            "name": pod.attachment,
            "namespace": meta.namespace,
            "labels": from_pod | LABELS | (labels(place) if place else {ATTACHMENT_LABEL: GENERATED}) | marks,
            **({"annotations": {COPIED_ANNOTATION: ",".join(sorted(from_pod))}} if from_pod else {}),
            "finalizers": [FINALIZER],
            "ownerReferences": [owner(place) if place else _pod_owner(meta)],
        },
        "spec": {
            "vpc": {
                "apiVersion": API_VERSION,
                "kind": VPCS.kind,
                "name": vpc[1],
                "namespace": vpc[0],
            }
        }
        | ({} if pod.accepted is None else {"acceptedNetworks": list(pod.accepted)}),
    }


def _pod_owner(meta: Meta) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": PODS.kind, "name": meta.name, "uid": meta.uid, "controller": True}

"""Pods that get an attachment of their own, with the name that the webhook put on the Pod.

The Pod owns its attachment, so Kubernetes removes it after the Pod. If the Pod is deleted before its attachment is
made, the attachment's owner does not exist, and garbage collection removes it as well.
"""

from typing import Any

from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Conflict, Key, Terminating
from galactic.kube.resources import PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import API_VERSION, ATTACHMENT_LABEL, GENERATED, VPC_ANNOTATION, VPC_LABEL, vpc_hex
from galactic.operator.context import FINALIZER, ReconcileContext
from galactic.operator.nad import LABELS
from galactic.operator.state import Invalid, Pod


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
        if context.caches.attachments.get(name) is None:
            try:
                vpc = _vpc(pod.vpc)
            except Rejected as problem:
                context.events.record(PODS, pod.metadata, "Warning", problem.reason, str(problem))
                return
            try:
                vpc = (vpc[0] or key[0], vpc[1])
                body = attachment(pod, vpc, context.allocator.vpcs.of(vpc))
                made = await context.api.create(VPC_ATTACHMENTS, body, key[0])
            except Conflict:
                raise  # another client made it a moment ago, and the watch is behind: tried again
            except Terminating:
                return  # the pod goes with its namespace; the watch is behind
            except Rejected as problem:
                context.events.record(PODS, pod.metadata, "Warning", problem.reason, str(problem))
                raise  # tried again: the grant, the quota or the VPC may change
            context.caches.attachments.set(made)
        present = context.caches.attachments.get(name)
        if present is not None and not owned(present, pod):
            context.events.record(
                PODS,
                pod.metadata,
                "Warning",
                "NameTaken",
                f"VPCAttachment {'/'.join(name)} belongs to another pod; delete one of them",
            )


def owned(attachment: VpcAttachment | Invalid, pod: Pod) -> bool:
    """Whether the attachment was made for this Pod."""
    return any(owner.uid == pod.metadata.uid for owner in attachment.metadata.owner_references)


def attachment(pod: Pod, vpc: Key, identifier: int | None) -> dict[str, Any]:
    """The Pod's attachment, in use from the beginning: with the finalizer, and the VPC's label if that is known."""
    meta = pod.metadata
    marks = {} if identifier is None else {VPC_LABEL: vpc_hex(identifier)}
    return {
        "apiVersion": API_VERSION,
        "kind": VpcAttachment.KIND,
        "metadata": {
            "name": pod.attachment,
            "namespace": meta.namespace,
            "labels": LABELS | {ATTACHMENT_LABEL: GENERATED} | marks,
            "finalizers": [FINALIZER],
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid, "controller": True}
            ],
        },
        "spec": {
            "vpc": {
                "apiVersion": API_VERSION,
                "kind": VPCS.kind,
                "name": vpc[1],
                "namespace": vpc[0] or meta.namespace,
            }
        }
        | ({} if pod.accepted is None else {"acceptedNetworks": list(pod.accepted)}),
    }


def _vpc(text: str) -> Key:
    namespace, slash, name = text.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace):
        raise Rejected(
            f"{text!r} names no VPC; write NAME or namespace/NAME",
            reason="InvalidAnnotation",
            field=f"metadata.annotations[{VPC_ANNOTATION}]",
        )
    return namespace, name

"""Findings about pods that request an attachment and do not have one."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import PROBLEM, Finding
from galactic.cli.snapshot import Snapshot, has_ended
from galactic.kube.api import Object
from galactic.kube.pods import lacks_interface, placement, requested_attachment, requested_vpc

UNATTACHED_SECONDS: Final = 30.0
"""A pod that has run for less may be attached already, with its NodeSegment not updated yet."""
RECREATE: Final = "recreate the pod: the webhook was down when it was created"


def pods(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods created without the webhook, pods without their VPCAttachment, and running pods without an interface."""
    for name, pod in snapshot.pods.items():
        meta = pod["metadata"]
        if has_ended(pod):
            continue
        about, attachment = f"Pod {name}", requested_attachment(pod)
        networks = (meta.get("annotations") or {}).get("k8s.v1.cni.cncf.io/networks", "")
        asked = f"{meta['namespace']}/{attachment}"
        if not attachment:
            message = f"it requests VPC {requested_vpc(pod)}, but was created without an attachment"
            yield Finding(PROBLEM, about, "NotMutated", message, RECREATE)
        elif attachment not in networks:
            message = f"it requests attachment {attachment}, but was created without the entry in Multus' annotation"
            yield Finding(PROBLEM, about, "NotMutated", message, RECREATE)
        elif asked not in snapshot.attachments and "VPCAttachment" not in snapshot.unread:
            message, remedy = f"VPCAttachment {asked} does not exist", "apply it; the pod then starts"
            if runs(pod):
                message += ": the pod runs, and is taken out of its VPC after a minute"
                remedy = f"apply it, and then recreate the pod: {_delete(pod)}"
            yield Finding(PROBLEM, about, "AttachmentNotFound", message, remedy)
        elif node := _unattached(snapshot, pod, asked):
            message = (
                f"it runs on {node} without its VPC interface: Multus did not call Galactic when it started, or its "
                "VPCAttachment was taken away meanwhile"
            )
            yield Finding(PROBLEM, about, "PodNotAttached", message, _delete(pod))


def _delete(pod: Object) -> str:
    meta = pod["metadata"]
    again = "its owner replaces it" if meta.get("ownerReferences") else "then create it again"
    return f"kubectl delete pod -n {meta['namespace']} {meta['name']}; {again}"


def runs(pod: Object) -> bool:
    """Whether the pod was attached and has started."""
    return (pod.get("status") or {}).get("phase") == "Running"


def _unattached(snapshot: Snapshot, pod: Object, attachment: str) -> str:
    """The node on which a pod runs without its attachment; empty if it has it, or if that is unknown.

    A NodeSegment whose node controller is down is stale and proves nothing about its pods.
    """
    placed = placement(pod)
    if not lacks_interface(placed, attachment, snapshot.segments.get(placed.node)):
        return ""
    if any(
        component.kind == "node" and component.node == placed.node and not component.ready
        for component in snapshot.components
    ):
        return ""
    return placed.node if snapshot.at - placed.since >= UNATTACHED_SECONDS else ""

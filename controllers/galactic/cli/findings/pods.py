"""Findings about pods that ask for an attachment and were not given one."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import PROBLEM, Finding
from galactic.cli.snapshot import Snapshot, over
from galactic.kube.api import Object
from galactic.kube.pods import lacks_interface, placement, wanted, wants_vpc

UNATTACHED_SECONDS: Final = 30.0
"""A pod that runs for less than that may be attached already, and its NodeSegment a moment behind."""
ANEW = "make it anew; the webhooks were away when it was made"


def pods(snapshot: Snapshot) -> Iterator[Finding]:
    """Those that came past the webhooks, and those whose attachment is gone."""
    for name, pod in snapshot.pods.items():
        meta = pod["metadata"]
        if over(pod):
            continue
        about, attachment = f"Pod {name}", wanted(pod)
        networks = (meta.get("annotations") or {}).get("k8s.v1.cni.cncf.io/networks", "")
        asked = f"{meta['namespace']}/{attachment}"
        if not attachment:
            message = f"it asks for VPC {wants_vpc(pod)}, and was made without an attachment"
            yield Finding(PROBLEM, about, "NotMutated", message, ANEW)
        elif attachment not in networks:
            message = (
                f"it asks for attachment {attachment}, and was made without the entry in Multus' annotation"
            )
            yield Finding(PROBLEM, about, "NotMutated", message, ANEW)
        elif asked not in snapshot.attachments and "VPCAttachment" not in snapshot.unread:
            message = f"there is no VPCAttachment {asked}"
            yield Finding(
                PROBLEM, about, "AttachmentNotFound", message, "apply it; the pod then starts by itself"
            )
        elif node := _unattached(snapshot, pod, asked):
            message = (
                f"it runs on {node} without its VPC interface: Multus did not call Galactic when it started"
            )
            again = "its owner makes another one" if meta.get("ownerReferences") else "then make it again"
            remedy = f"kubectl delete pod -n {meta['namespace']} {meta['name']}; {again}"
            yield Finding(PROBLEM, about, "PodNotAttached", message, remedy)


def runs(pod: Object) -> bool:
    """Whether all of it was attached and started."""
    return (pod.get("status") or {}).get("phase") == "Running"


def _unattached(snapshot: Snapshot, pod: Object, attachment: str) -> str:
    """The node on which a pod runs without its attachment; empty if it has it, or if that cannot be known.

    A node whose controller is away does not update its NodeSegment, which then accuses no pod.
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

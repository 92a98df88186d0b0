"""Findings about pods that ask for an attachment and were not given one."""

from collections.abc import Iterator

from galactic.cli.findings.finding import PROBLEM, Finding
from galactic.cli.world import World, over, wanted, wants_vpc
from galactic.kube.client import Object

ANEW = "make it anew; the webhooks were away when it was made"


def pods(world: World) -> Iterator[Finding]:
    """Those that came past the webhooks, and those whose attachment is gone."""
    for name, pod in world.pods.items():
        meta = pod["metadata"]
        if over(pod):
            continue
        about, attachment = f"Pod {name}", wanted(pod)
        networks = (meta.get("annotations") or {}).get("k8s.v1.cni.cncf.io/networks", "")
        asked = f"{meta['namespace']}/{attachment}"
        if not attachment:
            told = f"it asks for VPC {wants_vpc(pod)}, and was made without an attachment"
            yield Finding(PROBLEM, about, "NotMutated", told, ANEW)
        elif attachment not in networks:
            told = (
                f"it asks for attachment {attachment}, and was made without the entry in Multus' annotation"
            )
            yield Finding(PROBLEM, about, "NotMutated", told, ANEW)
        elif asked not in world.attachments and "VPCAttachment" not in world.unread:
            told = f"there is no VPCAttachment {asked}"
            yield Finding(
                PROBLEM, about, "AttachmentNotFound", told, "apply it; the pod then starts by itself"
            )


def runs(pod: Object) -> bool:
    """Whether all of it was attached and started."""
    return (pod.get("status") or {}).get("phase") == "Running"

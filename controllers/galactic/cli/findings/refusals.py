"""Findings about pods that a node refuses to attach, because they ask for an attachment that is not theirs.

A pod that a node refused once and attached later has its sandbox, and is no finding. What the kubelet repeats in its
Events differs from one attempt to the next, so each pod has one finding, of the newest.
"""

from collections.abc import Iterator
from typing import Final

from galactic import refusals as words
from galactic.cli.findings.finding import PROBLEM, Finding, last_time, recent
from galactic.cli.snapshot import SANDBOX, Snapshot, has_ended
from galactic.kube.api import Object
from galactic.kube.pods import placement
from galactic.names import ATTACHMENT_ANNOTATION

MULTUS: Final = "Multus' annotation k8s.v1.cni.cncf.io/networks"


def refused(event: Object) -> bool:
    """Whether an Event is one that ``refusals`` reports."""
    return event.get("reason") == SANDBOX and words.refusal(event.get("message", "")) is not None


def refusals(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods that wait, one finding each."""
    newest: dict[str, Object] = {}
    for event in sorted(filter(refused, recent(snapshot)), key=last_time):
        of = event["involvedObject"]
        newest[f"{of.get('namespace', '')}/{of.get('name', '')}"] = event
    for name, event in newest.items():
        refusal = words.refusal(event.get("message", ""))
        pod = snapshot.pods.get(name) or snapshot.refused.get(name)
        if pod is None or refusal is None or not _waits(pod, event):
            continue
        message, remedy = _sentence(snapshot, pod, refusal)
        yield Finding(PROBLEM, f"Pod {name}", refusal.reason, message, remedy)


def _waits(pod: Object, event: Object) -> bool:
    """Whether the pod still has no sandbox; a namesake that is gone does not count."""
    uid = event["involvedObject"].get("uid")
    same = not uid or uid == pod["metadata"].get("uid", uid)
    return same and not has_ended(pod) and not placement(pod).started


def _sentence(snapshot: Snapshot, pod: Object, refusal: words.Refusal) -> tuple[str, str]:
    """The message and the remedy."""
    meta = pod["metadata"]
    namespace, node = meta["namespace"], pod["spec"].get("nodeName") or "its node"
    look = f"kubectl get pod -n {namespace} {meta['name']} -o yaml"
    if refusal.reason == words.OTHER_NAMESPACE:
        owner = refusal.attachment.partition("/")[0]
        message = (
            f"its definition names VPCAttachment {refusal.attachment}, which belongs to namespace {owner} and not to "
            f"{namespace}; the attachment's own pods are not affected"
        )
        remedy = f"name an attachment of namespace {namespace}; if this is an attack, see who made it: {look}"
    elif refusal.reason == words.NO_ATTACHMENT:
        message = f"{MULTUS} names a definition of type galactic that the operator did not write"
        remedy = f"delete that definition, and give the pod the annotation {ATTACHMENT_ANNOTATION}: {look}"
    elif f"{namespace}/{meta['name']}" in snapshot.pods:
        message = (
            f"VPCAttachment {refusal.attachment} does not have it among its status.carriers, which galactic-operator "
            "writes"
        )
        remedy = (
            f"kubectl get vpca -n {refusal.attachment.replace('/', ' ')} -o yaml; "
            f"kubectl logs -n {snapshot.home} -l app.kubernetes.io/component=operator --tail=100"
        )
    else:
        message = (
            f"{MULTUS} leads to VPCAttachment {refusal.attachment}, which it does not carry: it has no annotation "
            f"{ATTACHMENT_ANNOTATION}"
        )
        remedy = (
            "create the pod again with that annotation, and without a definition of its own; if this is an attack, "
            f"see who made it: {look}"
        )
    return f"{node} does not attach it: {message}", remedy

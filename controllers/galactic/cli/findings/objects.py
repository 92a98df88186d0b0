"""Findings about VPCs and VPCAttachments."""

from collections.abc import Iterator

from galactic.cli.findings.finding import NOTE, PATIENCE_SECONDS, PROBLEM, Finding, by_type, has_remedy
from galactic.cli.findings.programs import log
from galactic.cli.snapshot import Snapshot
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.pods import seconds


def vpcs(snapshot: Snapshot) -> Iterator[Finding]:
    """VPCs that are not Ready, or whose deletion waits."""
    for name, vpc in snapshot.vpcs.items():
        yield from _object(snapshot, "VPC", name, vpc)
        deleting = by_type(vpc.status.conditions).get("Deleting")
        if deleting and deleting.status == "True":
            remedy = f"delete its attachments first (kubectl get vpca -A); VPC {name} is then removed"
            yield Finding(NOTE, f"VPC {name}", deleting.reason, deleting.message, remedy)


def peers(snapshot: Snapshot) -> Iterator[Finding]:
    """VPCs that name peers whose peering is not in force. A request that the owner did not answer is no fault."""
    for name, vpc in snapshot.vpcs.items():
        peered = by_type(vpc.status.conditions).get("Peered")
        if peered and peered.status == "False" and vpc.spec.peers:
            remedy = "for each peer: galactic vpcs " + name + " -o json, status.peers of the VPC"
            yield Finding(NOTE, f"VPC {name}", peered.reason, peered.message, remedy)


def kinds(snapshot: Snapshot) -> Iterator[Finding]:
    """Kinds of an earlier version, whose objects lose what the operator writes: once for each kind."""
    for kind, things in (("VPC", snapshot.vpcs), ("VPCAttachment", snapshot.attachments)):
        for thing in things.values():
            current = by_type(thing.status.conditions).get("KindsCurrent")
            if current and current.status == "False":
                remedy = "kubectl apply --server-side -f crds/ of the operator's version"
                message = current.message.partition("; kubectl")[0]
                yield Finding(PROBLEM, f"kind {kind}", current.reason, message, remedy)
                break


def policies(snapshot: Snapshot) -> Iterator[Finding]:
    """VPCPolicies that are not accepted, that nodes cannot enforce, or that select nothing."""
    for name, policy in snapshot.policies.items():
        about, conditions = f"VPCPolicy {name}", by_type(policy.status.conditions)
        describe = f"kubectl describe vpcpolicy -n {name.replace('/', ' ')}"
        for kind in ("Accepted", "Enforced"):
            state = conditions.get(kind)
            if state is None or state.reason == "NotUnderstood":
                continue
            if state.status != "True":
                remedy = "" if has_remedy(state.message) else describe
                yield Finding(PROBLEM, about, state.reason, state.message, remedy)
            elif state.reason == "NothingSelected":
                remedy = "label VPCAttachments, or change spec.attachmentSelector"
                yield Finding(NOTE, about, state.reason, state.message, remedy)


def attachments(snapshot: Snapshot) -> Iterator[Finding]:
    """Attachments that are not Ready, or that other pods of their VPC do not reach."""
    for name, attachment in snapshot.attachments.items():
        about, conditions = f"VPCAttachment {name}", by_type(attachment.status.conditions)
        yield from _object(snapshot, "VPCAttachment", name, attachment)
        conflict, granted, accepted = (conditions.get(kind) for kind in ("Conflict", "Granted", "Accepted"))
        if conflict and conflict.status == "True" and attachment.status.ready:
            remedy = "delete one of the attachments, or give one other addresses"
            yield Finding(PROBLEM, about, conflict.reason, conflict.message, remedy)
        if granted and granted.status == "False":
            vpc = snapshot.vpc_of(attachment)
            remedy = f"delete the attachment, or admit the namespace in spec.allowedNamespaces of VPC {vpc}"
            yield Finding(PROBLEM, about, granted.reason, granted.message, remedy)
        if accepted and accepted.status == "True" and accepted.reason == "AddressOutsideNetworks":
            remedy = "add the network to the VPC's spec.networks: without it, its pods have no route to the address"
            yield Finding(NOTE, about, accepted.reason, accepted.message, remedy)
        if (declined := conditions.get("NetworksAccepted")) and declined.status == "False":
            remedy = "if its pod is to reach them there: kubectl edit vpca -n " + name.replace("/", " ")
            yield Finding(NOTE, about, declined.reason, declined.message, remedy)
        if len(pods := sorted(snapshot.carriers(name))) > 1:
            message = f"pods {', '.join(pods)} use it: only the newest gets traffic"
            remedy = "delete all but one; for an attachment per pod, use the annotation …/vpc (docs/api.md)"
            yield Finding(NOTE, about, "Shared", message, remedy)
        if not (nodes := _nodes(snapshot, name)):
            continue  # its pods are gone, and nothing updates its status any more
        if (routed := conditions.get("Routed")) and routed.status == "False":
            yield Finding(PROBLEM, about, routed.reason, routed.message, _router_log(name))
        else:
            yield from _unrouted(snapshot, name, attachment, nodes)


def _nodes(snapshot: Snapshot, name: str) -> set[str]:
    """The nodes of the pods that have the attachment; all nodes where pods cannot be read."""
    if "Pod" in snapshot.unread:
        return {*snapshot.segments}
    return {node for pod in snapshot.carriers(name) if (node := snapshot.pods[pod]["spec"].get("nodeName"))}


def _unrouted(snapshot: Snapshot, name: str, attachment: VpcAttachment, nodes: set[str]) -> Iterator[Finding]:
    """A locally attached attachment without a published route. The operator reports it too, but may be down."""
    if attachment.status.endpoint is not None or snapshot.router_outside:
        return
    endpoints = {
        node: endpoint
        for node, segment in snapshot.segments.items()
        for endpoint in segment.status.endpoints
        if endpoint.attachment == name and node in nodes
    }
    # An epoch far in the future is no time of day.
    recently = any(
        abs(snapshot.at - endpoint.epoch / 1e9) < PATIENCE_SECONDS for endpoint in endpoints.values()
    )
    if endpoints and not recently:
        message = f"attached on {', '.join(endpoints)}, but no route to it was published: other nodes do not reach it"
        yield Finding(PROBLEM, f"VPCAttachment {name}", "NotRouted", message, _router_log(name))


def _router_log(name: str) -> str:
    return f"check its Events: kubectl describe vpca -n {name.replace('/', ' ')}; else the log of galactic-router"


def _object(snapshot: Snapshot, kind: str, name: str, parsed: Vpc | VpcAttachment) -> Iterator[Finding]:
    """An object whose condition Ready is not True, or that the operator has not reconciled."""
    ready = by_type(parsed.status.conditions).get("Ready")
    short = {"VPC": "vpc", "VPCAttachment": "vpca"}[kind]
    if ready is None:
        if snapshot.at - seconds(parsed.metadata.creation_timestamp) > PATIENCE_SECONDS:
            message = "the operator has not reconciled it yet"
            yield Finding(PROBLEM, f"{kind} {name}", "Unseen", message, log(snapshot, "operator"))
    elif ready.status != "True":
        remedy = "" if has_remedy(ready.message) else f"kubectl describe {short} -n {name.replace('/', ' ')}"
        yield Finding(PROBLEM, f"{kind} {name}", ready.reason, ready.message, remedy)
    elif parsed.status.observed_generation < parsed.metadata.generation:
        message = "the operator has not reconciled its last change yet"
        yield Finding(NOTE, f"{kind} {name}", "Unseen", message, log(snapshot, "operator"))

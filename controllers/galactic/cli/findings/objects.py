"""Findings about what users write: VPCs and VPCAttachments."""

from collections.abc import Iterator

from galactic.cli.findings.finding import NOTE, PATIENCE_SECONDS, PROBLEM, Finding, by_type, says
from galactic.cli.findings.programs import log
from galactic.cli.snapshot import Snapshot
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.pods import seconds


def vpcs(snapshot: Snapshot) -> Iterator[Finding]:
    """VPCs that are not Ready, or that wait to be gone."""
    for name, vpc in snapshot.vpcs.items():
        yield from _object(snapshot, "VPC", name, vpc)
        deleting = by_type(vpc.status.conditions).get("Deleting")
        if deleting and deleting.status == "True":
            remedy = f"delete those first: kubectl get vpca -A; VPC {name} then goes by itself"
            yield Finding(NOTE, f"VPC {name}", deleting.reason, deleting.message, remedy)


def attachments(snapshot: Snapshot) -> Iterator[Finding]:
    """Attachments that are not Ready, or that the rest of their VPC does not reach as they should be."""
    for name, attachment in snapshot.attachments.items():
        about, conditions = f"VPCAttachment {name}", by_type(attachment.status.conditions)
        yield from _object(snapshot, "VPCAttachment", name, attachment)
        conflict, granted, accepted = (conditions.get(kind) for kind in ("Conflict", "Granted", "Accepted"))
        if conflict and conflict.status == "True" and attachment.status.ready:
            remedy = "delete the attachment that is not wanted, or give one of them other addresses"
            yield Finding(PROBLEM, about, conflict.reason, conflict.message, remedy)
        if granted and granted.status == "False":
            vpc = snapshot.vpc_of(attachment)
            remedy = f"delete the attachment, or the owner of VPC {vpc} admits the namespace in spec.allowedNamespaces"
            yield Finding(PROBLEM, about, granted.reason, granted.message, remedy)
        if accepted and accepted.status == "True" and accepted.reason == "AddressOutsideNetworks":
            remedy = "add the network to the VPC's spec.networks: pods of the VPC have no route to it"
            yield Finding(NOTE, about, accepted.reason, accepted.message, remedy)
        if len(pods := sorted(snapshot.carriers(name))) > 1:
            message = (
                f"pods {', '.join(pods)} use it: the newest gets the traffic, the others are not reached"
            )
            remedy = "delete those that are not wanted; for one attachment each, use the annotation …/vpc (docs/api.md)"
            yield Finding(NOTE, about, "Shared", message, remedy)
        if not (nodes := _nodes(snapshot, name)):
            continue  # its pods are gone, whatever a status says that nothing updates any more
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
    """A node has it, and the router has not told where it is: seen here, as the operator may be away."""
    if attachment.status.endpoint is not None or snapshot.served:
        return
    endpoints = {
        node: endpoint
        for node, segment in snapshot.segments.items()
        for endpoint in segment.status.endpoints
        if endpoint.attachment == name and node in nodes
    }
    # One that is far ahead is no time of day.
    recently = any(
        abs(snapshot.at - endpoint.epoch / 1e9) < PATIENCE_SECONDS for endpoint in endpoints.values()
    )
    if endpoints and not recently:
        message = f"attached on {', '.join(endpoints)}, but no route to it was told: the rest of the VPC does not reach it"
        yield Finding(PROBLEM, f"VPCAttachment {name}", "NotRouted", message, _router_log(name))


def _router_log(name: str) -> str:
    return (
        f"Events may say why: kubectl describe vpca -n {name.replace('/', ' ')}; else look at galactic-router"
    )


def _object(snapshot: Snapshot, kind: str, name: str, thing: Vpc | VpcAttachment) -> Iterator[Finding]:
    """One whose condition Ready is not True, or that nobody has looked at."""
    ready = by_type(thing.status.conditions).get("Ready")
    short = {"VPC": "vpc", "VPCAttachment": "vpca"}[kind]
    if ready is None:
        if snapshot.at - seconds(thing.metadata.creation_timestamp) > PATIENCE_SECONDS:
            message = "the operator has not looked at it"
            yield Finding(PROBLEM, f"{kind} {name}", "Unseen", message, log(snapshot, "operator"))
    elif ready.status != "True":
        remedy = "" if says(ready.message) else f"kubectl describe {short} -n {name.replace('/', ' ')}"
        yield Finding(PROBLEM, f"{kind} {name}", ready.reason, ready.message, remedy)
    elif thing.status.observed_generation < thing.metadata.generation:
        message = "it was changed, and the operator has not looked since"
        yield Finding(NOTE, f"{kind} {name}", "Unseen", message, log(snapshot, "operator"))

"""What is wrong in a cluster, and what to do about each of it: a pure function of one look at it.

The controllers say in conditions and Events what is the matter, with a remedy where they know one; here it is gathered,
the consequences are told apart from their causes as far as possible, and what only the whole shows is added.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from galactic.cli.world import LEADERS, Component, World, wanted, wants_vpc
from galactic.crds.model import Condition
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.client import Object
from galactic.names import PREFIX_ANNOTATION

PATIENCE_SECONDS: Final = 20.0
"""What takes no longer than that is no finding: a pod that starts, a Lease that changes hands."""
RECENT_SECONDS: Final = 900.0
"""An Event that was not repeated for so long is history."""
PROBLEM, NOTE = "problem", "note"
LOGS: Final = {
    "operator": "kubectl logs -n NAMESPACE deploy/galactic-operator",
    "webhook": "kubectl logs -n NAMESPACE deploy/galactic-webhook",
    "router": "kubectl logs -n NAMESPACE deploy/galactic-router",
    "node": "kubectl logs -n NAMESPACE ds/galactic-node",
    "broker": "kubectl logs -n NAMESPACE -l app.kubernetes.io/component=broker",
}
CONSEQUENCES: Final = {
    "operator": "new VPCs and attachments stay without identifiers and addresses; what runs goes on",
    "webhook": "pods that ask for an attachment cannot be made, and mistakes are found late; what runs goes on",
    "router": "no route changes reach nodes fast, and moves are not seen; what runs goes on",
    "node": "no pod can be attached there or taken away; what runs goes on",
    "broker": "route changes take the slower way over the API server; what runs goes on",
}
REMEDIES: Final = {
    "BrokerConnected": "check the broker, and mqtt_url, mqtt_username, mqtt_password_file of galactic-node",
    "PacketFilter": "see docs/security.md; iptables on the node must work: iptables -S GALACTIC-FORWARD",
    "Underlay": "see docs/underlay.md",
    "Synced": "the log of galactic-node on that node says what the kernel refuses",
    "DefinitionsApplied": "the log of galactic-node on that node says which definition",
    "Accepted": "change spec.prefix of one of the NodeSegments, or the Node's annotation it was made from",
}
EVENTS: Final = frozenset(
    {
        "InvalidPrefix",
        "PrefixOutsideSpace",
        "PrefixOverlap",
        "PrefixIgnored",
        "FailedCreatePodSandBox",
        "FailedCreate",
        "NotGranted",
        "AttachmentTaken",
        "NameTaken",
        "TwoAttachments",
        "SidOutsidePrefix",
        "SidMismatch",
        "AttachmentUnknown",
        "VpcMismatch",
        "FunctionMismatch",
        "NotEntitled",
        "Duplicate",
        "EpochInFuture",
        "EpochInvalid",
        "TooManyNetworks",
    }
)
"""Reasons of the Events that tell of something that no condition says."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``severity`` is problem (exit code 3) or note."""

    severity: str
    about: str
    reason: str
    message: str
    remedy: str = ""

    def plain(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


def findings(world: World) -> list[Finding]:
    """Everything that is wrong, causes before consequences."""
    found: list[Finding] = []
    for part in (_unread, _components, _leaders, _nodes, _vpcs, _attachments, _pods, _told):
        found += part(world)
    return sorted(dict.fromkeys(found), key=lambda each: each.severity != PROBLEM)


def _unread(world: World) -> Iterator[Finding]:
    for kind, why in world.unread.items():
        if why == "the kind is not installed":
            if kind in ("VPC", "VPCAttachment", "NodeSegment"):
                remedy = "install Galactic: helm install galactic charts/galactic -n galactic-system --create-namespace"
                yield Finding(PROBLEM, kind, "NotInstalled", why, remedy)
            continue
        yield Finding(
            NOTE, kind, "NotRead", why, "ask for a role that may list it; what it would show is missing here"
        )
    for name, why in world.broken.items():
        yield Finding(PROBLEM, name, "Invalid", why, f"mend it: kubectl edit {name.replace(' ', ' -n ', 0)}")


def _components(world: World) -> Iterator[Finding]:
    for each in world.components:
        if each.ready >= each.wanted:
            continue
        kind = each.name.split("-")[0]
        severity = PROBLEM if not each.ready or kind in ("node", "broker") else NOTE
        told = f"{each.ready} of {each.wanted} ready" + (f": {each.problem}" if each.problem else "")
        if kind in CONSEQUENCES and not each.ready:
            told += f" - {CONSEQUENCES[kind]}"
        yield Finding(severity, each.title, "NotReady", told, _look(each, kind))


def _look(each: Component, kind: str) -> str:
    if "mqtt" in each.problem.lower() or "broker" in each.problem.lower():
        return f"check the broker, and mqtt_url, mqtt_username, mqtt_password_file of galactic-{kind}"
    return LOGS.get(kind, "look at its log").replace("NAMESPACE", "galactic-system")


def _leaders(world: World) -> Iterator[Finding]:
    if "Lease" in world.unread or not (world.vpcs or world.components):
        return
    down = {each.name.split("-")[0] for each in world.components if not each.ready}
    for name in LEADERS:
        kind = name.removeprefix("galactic-")
        if kind in down:
            continue
        lease = world.leases.get(name)
        spec = (lease or {}).get("spec") or {}
        age = world.at - seconds(str(spec.get("renewTime") or ""))
        if (
            lease is None
            or not spec.get("holderIdentity")
            or age > PATIENCE_SECONDS + (spec.get("leaseDurationSeconds") or 15)
        ):
            told = f"no replica leads (Lease {name})" + (f", for {age:.0f} s" if lease else "")
            yield Finding(
                PROBLEM,
                kind,
                "NoLeader",
                f"{told} - {CONSEQUENCES[kind]}",
                LOGS[kind].replace("NAMESPACE", "galactic-system"),
            )


def leader(world: World, component: str) -> str:
    """Who leads of a component's replicas; empty for nobody."""
    return str(
        ((world.leases.get(f"galactic-{component}") or {}).get("spec") or {}).get("holderIdentity") or ""
    )


def _nodes(world: World) -> Iterator[Finding]:
    refused = {
        each["involvedObject"].get("name"): each
        for each in _recent(world)
        if each["involvedObject"].get("kind") == "Node"
        and each.get("reason", "").startswith(("Prefix", "InvalidPrefix"))
    }
    used = {each.node for each in world.components} | {
        (pod["spec"] or {}).get("nodeName") for pod in world.pods.values()
    }
    for name in world.nodes:
        if name in world.segments or f"NodeSegment {name}" in world.broken:
            continue
        if event := refused.get(name):
            yield Finding(PROBLEM, f"Node {name}", event["reason"], event["message"], _annotate(name))
        elif world.segments or world.components:
            told = "no SRv6 prefix: pods there get no attachment"
            severity = PROBLEM if name in used else NOTE  # not every node need have Galactic
            yield Finding(severity, f"Node {name}", "NoPrefix", told, _annotate(name))
    for name, segment in world.segments.items():
        yield from _segment(world, name, segment)


def _annotate(node: str) -> str:
    return f"kubectl annotate node {node} --overwrite {PREFIX_ANNOTATION}=PREFIX/56, one that the underlay routes to it"


def _segment(world: World, name: str, segment: NodeSegment) -> Iterator[Finding]:
    about, conditions = f"NodeSegment {name}", _by_type(segment.status.conditions)
    if name not in world.nodes and "Node" not in world.unread:
        yield Finding(NOTE, about, "NoNode", "there is no Node of that name", f"kubectl delete nseg {name}")
    if not conditions:
        told = "its node has not said anything yet"
        yield Finding(
            PROBLEM,
            about,
            "Silent",
            told,
            f"does galactic-node run on {name}? {LOGS['node'].replace('NAMESPACE', 'galactic-system')}",
        )
    causes = [each for kind, each in conditions.items() if kind != "Ready" and each.status == "False"]
    for each in causes:
        required = each.type not in ("ReducedEncapsulation", "SourceValidation")
        remedy = (
            REMEDIES.get(each.type, "see docs/underlay.md")
            if not _says(each.message)
            else f"kubectl describe nseg {name}"
        )
        yield Finding(
            PROBLEM if required else NOTE, about, f"{each.type}: {each.reason}", each.message, remedy
        )
    ready = conditions.get("Ready")
    if ready and ready.status != "True" and not any(each.message in ready.message for each in causes):
        yield Finding(PROBLEM, about, ready.reason, ready.message, f"kubectl describe nseg {name}")


def _vpcs(world: World) -> Iterator[Finding]:
    for name, vpc in world.vpcs.items():
        yield from _object(world, "VPC", name, vpc)
        deleting = _by_type(vpc.status.conditions).get("Deleting")
        if deleting and deleting.status == "True":
            remedy = f"delete those first: kubectl get vpca -A; VPC {name} then goes by itself"
            yield Finding(NOTE, f"VPC {name}", deleting.reason, deleting.message, remedy)


def _attachments(world: World) -> Iterator[Finding]:
    for name, attachment in world.attachments.items():
        about, conditions = f"VPCAttachment {name}", _by_type(attachment.status.conditions)
        yield from _object(world, "VPCAttachment", name, attachment)
        conflict, granted, accepted = (conditions.get(kind) for kind in ("Conflict", "Granted", "Accepted"))
        if conflict and conflict.status == "True" and attachment.status.ready:
            remedy = "delete the attachment that is not wanted, or give one of them other addresses"
            yield Finding(PROBLEM, about, conflict.reason, conflict.message, remedy)
        if granted and granted.status == "False":
            vpc = world.vpc_of(attachment)
            remedy = f"delete the attachment, or the owner of VPC {vpc} admits the namespace in spec.allowedNamespaces"
            yield Finding(PROBLEM, about, granted.reason, granted.message, remedy)
        if accepted and accepted.status == "True" and accepted.reason == "AddressOutsideNetworks":
            remedy = "add the network to the VPC's spec.networks: pods of the VPC have no route to it"
            yield Finding(NOTE, about, accepted.reason, accepted.message, remedy)
        if (routed := conditions.get("Routed")) and routed.status == "False":
            yield Finding(PROBLEM, about, routed.reason, routed.message, _untold(name))
        else:
            yield from _unrouted(world, name, attachment)


def _unrouted(world: World, name: str, attachment: VpcAttachment) -> Iterator[Finding]:
    """A node has it, and the router has not told where it is: seen here, as the operator may be away."""
    if attachment.status.endpoint is not None:
        return
    on = [
        node
        for node, each in world.segments.items()
        if any(it.attachment == name for it in each.status.endpoints)
    ]
    recently = any(
        abs(world.at - it.epoch / 1e9) < PATIENCE_SECONDS  # one that is far ahead is no time of day
        for each in world.segments.values()
        for it in each.status.endpoints
        if it.attachment == name
    )
    if on and not recently:
        told = (
            f"attached on {', '.join(on)}, but no route to it was told: the rest of the VPC does not reach it"
        )
        yield Finding(PROBLEM, f"VPCAttachment {name}", "NotRouted", told, _untold(name))


def _untold(name: str) -> str:
    return (
        f"Events may say why: kubectl describe vpca -n {name.replace('/', ' ')}; else look at galactic-router"
    )


def _object(world: World, kind: str, name: str, thing: Vpc | VpcAttachment) -> Iterator[Finding]:
    """One whose condition Ready is not True, or that nobody has looked at."""
    ready = _by_type(thing.status.conditions).get("Ready")
    short = {"VPC": "vpc", "VPCAttachment": "vpca"}[kind]
    if ready is None:
        if world.at - seconds(thing.metadata.creation_timestamp) > PATIENCE_SECONDS:
            remedy = LOGS["operator"].replace("NAMESPACE", "galactic-system")
            yield Finding(PROBLEM, f"{kind} {name}", "Unseen", "the operator has not looked at it", remedy)
    elif ready.status != "True":
        remedy = "" if _says(ready.message) else f"kubectl describe {short} -n {name.replace('/', ' ')}"
        yield Finding(PROBLEM, f"{kind} {name}", ready.reason, ready.message, remedy)
    elif thing.status.observed_generation < thing.metadata.generation:
        remedy = LOGS["operator"].replace("NAMESPACE", "galactic-system")
        told = "it was changed, and the operator has not looked since"
        yield Finding(NOTE, f"{kind} {name}", "Unseen", told, remedy)


def _pods(world: World) -> Iterator[Finding]:
    for name, pod in world.pods.items():
        meta, status = pod["metadata"], pod.get("status") or {}
        if meta.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed"):
            continue
        about = f"Pod {name}"
        networks = (meta.get("annotations") or {}).get("k8s.v1.cni.cncf.io/networks", "")
        attachment = wanted(pod)
        if not attachment:
            told = f"it asks for VPC {wants_vpc(pod)}, and was made without an attachment"
            yield Finding(
                PROBLEM, about, "NotMutated", told, "make it anew; the webhooks were away when it was made"
            )
        elif attachment not in networks:
            told = (
                f"it asks for attachment {attachment}, and was made without the entry in Multus' annotation"
            )
            yield Finding(
                PROBLEM, about, "NotMutated", told, "make it anew; the webhooks were away when it was made"
            )
        elif (
            f"{meta['namespace']}/{attachment}" not in world.attachments
            and "VPCAttachment" not in world.unread
        ):
            told = f"there is no VPCAttachment {meta['namespace']}/{attachment}"
            yield Finding(
                PROBLEM, about, "AttachmentNotFound", told, "apply it; the pod then starts by itself"
            )


def _told(world: World) -> Iterator[Finding]:
    """Events that tell what no condition does, of things that are still there."""
    for event in _recent(world):
        reason, of = event.get("reason", ""), event["involvedObject"]
        name = f"{of['namespace']}/{of['name']}" if of.get("namespace") else of.get("name", "")
        if reason not in EVENTS or of.get("kind") == "Node":
            continue
        message = " ".join(event.get("message", "").split())
        if of.get("kind") == "Pod":
            pod = world.pods.get(name)
            if pod is None or _running(pod):
                continue
            yield Finding(PROBLEM, f"Pod {name}", reason, message, _sandbox(pod))
        elif reason == "FailedCreate" and "galactic" in message:
            remedy = (
                "if the webhooks are away: kubectl get pods -n galactic-system; else do what the answer says"
            )
            yield Finding(PROBLEM, f"{of.get('kind')} {name}", reason, message, remedy)
        elif of.get("kind") == "VPCAttachment" and name in world.attachments:
            remedy = (
                "a node claims what is not its own: look at galactic-node on the node that the message names"
            )
            yield Finding(PROBLEM, f"VPCAttachment {name}", reason, message, remedy)


def _sandbox(pod: Object) -> str:
    node = pod["spec"].get("nodeName", "")
    return (
        f"kubectl describe nseg {node}"
        if node
        else f"kubectl describe pod -n {pod['metadata']['namespace']} {pod['metadata']['name']}"
    )


def _running(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _recent(world: World) -> list[Object]:
    """Warnings that were told lately."""
    return [each for each in world.events if world.at - _when(each) < RECENT_SECONDS]


def _when(event: Object) -> float:
    last = (
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
    )
    return seconds(last or event["metadata"].get("creationTimestamp") or "")


def _by_type(conditions: Iterable[Condition]) -> Mapping[str, Condition]:
    return {each.type: each for each in conditions}


def _says(message: str) -> bool:
    """Whether a message has a remedy of its own: ours put it after a semicolon, or a colon with what to give."""
    return any(
        mark in message for mark in ("; ", ": give", ": set", ": make", ": raise", "`modprobe", "needs ")
    )


def seconds(text: str) -> float:
    """A time of the API server's, in seconds since 1970; 0 where there is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


def plain(found: Iterable[Finding]) -> list[dict[str, Any]]:
    """As JSON has it."""
    return [each.plain() for each in found]

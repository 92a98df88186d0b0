"""Findings about nodes: missing prefixes, and conditions of NodeSegments that are False."""

from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import Final

from galactic.cli.findings.finding import NOTE, PROBLEM, Finding, by_type, has_remedy, recent
from galactic.cli.findings.programs import log
from galactic.cli.smaller_links import with_names
from galactic.cli.snapshot import Snapshot
from galactic.crds.nodesegment import NodeSegment
from galactic.kube.api import Object
from galactic.names import PREFIX_ANNOTATION

OPTIONAL: Final = (
    "ReducedEncapsulation",
    "SourceValidation",
    "PathMTU",
    "Untracked",
    "PasswordEncrypted",
    "Policies",
)
"""Conditions that need not be True for pods to be attached and to reach others."""
REMEDIES_BY_REASON: Final = {
    "ForeignDrop": (
        "accept them there, with the commands in the message and in the configuration of the firewall that made the "
        "chain; see docs/security.md"
    ),
    "Contested": (
        "that program's rules ahead of Galactic's take effect on packets of VPCs: Calico's FelixConfiguration has "
        "chainInsertMode: Append; see docs/security.md"
    ),
}
ALIKE: Final = 3
"""Up to this number, nodes with the same problem get a finding each."""
REMEDIES: Final = {
    "BrokerConnected": "check the broker, and mqtt_url, mqtt_username, mqtt_password_file of galactic-node",
    "PasswordEncrypted": "give the broker a listener with TLS, and galactic-node mqtts:// in mqtt_url",
    "PacketFilter": "see docs/security.md; iptables on the node must work: iptables -S GALACTIC-FORWARD",
    "Underlay": "see docs/underlay.md",
    "MultusConfigured": "pods that start there get no VPC interface: check Multus on that node",
    "Entitled": "make the VPCAttachment again and then the pod, or delete the pod: it loses its VPC interface",
    "Neighbours": "galactic trace from another pod of the VPC shows where packets are dropped",
    "PathMTU": "see docs/mtu.md",
    "Policies": "see docs/policies.md: the node needs nf_tables, and the program nft in its image",
    "Accepted": "change spec.prefix of one of the NodeSegments, or the annotation of its Node",
}


def nodes(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes without a NodeSegment, and NodeSegments with a False condition."""
    refused = {
        event["involvedObject"].get("name"): event
        for event in recent(snapshot)
        if event["involvedObject"].get("kind") == "Node"
        and event.get("reason", "").startswith(("Prefix", "InvalidPrefix"))
    }
    used = {component.node for component in snapshot.components} | {
        (pod["spec"] or {}).get("nodeName") for pod in snapshot.pods.values()
    }
    for name, node in snapshot.nodes.items():
        if finding := _overlap(snapshot, name, node):
            yield finding
            continue
        if name in snapshot.segments or f"NodeSegment {name}" in snapshot.broken:
            continue
        if event := refused.get(name):
            yield Finding(PROBLEM, f"Node {name}", event["reason"], event["message"], _annotate(name))
        elif snapshot.segments or snapshot.components:
            message = "no SRv6 prefix: pods on it cannot be attached"
            severity = PROBLEM if name in used else NOTE  # not every node needs Galactic
            yield Finding(severity, f"Node {name}", "NoPrefix", message, _annotate(name))
    listed = [
        finding
        for name, segment in snapshot.segments.items()
        for finding in _segment(snapshot, name, segment)
    ]
    alike: dict[str, list[Finding]] = {}
    for finding in listed:
        alike.setdefault(finding.reason, []).append(finding)
    for several in alike.values():
        yield from several if len(several) <= ALIKE else [_merged(several)]


def _merged(alike: list[Finding]) -> Finding:
    """One finding for the same problem on many nodes, such as an unreachable broker."""
    names = [finding.about.removeprefix("NodeSegment ") for finding in alike]
    first = alike[0]
    about = f"{len(alike)} NodeSegments ({', '.join(names[:ALIKE])}, …)"
    return Finding(first.severity, about, first.reason, first.message, first.remedy)


def _overlap(snapshot: Snapshot, name: str, node: Object) -> Finding | None:
    """The prefix in a Node's annotation is not the Node's own, and belongs to another node."""
    annotated = (node["metadata"].get("annotations") or {}).get(PREFIX_ANNOTATION)
    own = snapshot.segments.get(name)
    prefix = _prefix(annotated)
    if prefix is None or (own is not None and prefix == _prefix(own.spec.prefix)):
        return None
    for other, segment in snapshot.segments.items():
        taken = _prefix(segment.spec.prefix)
        if other != name and taken is not None and prefix.overlaps(taken):
            kept = (
                f"; {name} keeps {own.spec.prefix}" if own is not None else "; pods on it cannot be attached"
            )
            message = f"its annotation {annotated} overlaps {taken} of node {other}{kept}"
            return Finding(PROBLEM, f"Node {name}", "PrefixOverlap", message, _annotate(name))
    return None


def _prefix(text: str | None) -> IPv6Network | None:
    try:
        return None if text is None else IPv6Network(text)
    except ValueError:
        return None


def _annotate(node: str) -> str:
    return (
        f"kubectl annotate node {node} --overwrite {PREFIX_ANNOTATION}=PREFIX/56, a prefix that the "
        "underlay routes to the node"
    )


def _segment(snapshot: Snapshot, name: str, segment: NodeSegment) -> Iterator[Finding]:
    about, conditions = f"NodeSegment {name}", by_type(segment.status.conditions)
    if name not in snapshot.nodes and "Node" not in snapshot.unread:
        remedy = f"if the node does not come back: kubectl delete nseg {name}"
        yield Finding(NOTE, about, "NoNode", "no Node has this name", remedy)
    if not conditions:
        remedy = f"does galactic-node run on {name}? {log(snapshot, 'node', name)}"
        yield Finding(PROBLEM, about, "Silent", "the node controller has not written its status yet", remedy)
    causes = [
        condition for kind, condition in conditions.items() if kind != "Ready" and condition.status == "False"
    ]
    describe = f"kubectl describe nseg {name}"
    for cause in causes:
        severity = NOTE if cause.type in OPTIONAL else PROBLEM
        own = has_remedy(cause.message) and cause.type not in REMEDIES
        remedy = describe if own else _remedy(snapshot, name, cause.type)
        remedy = REMEDIES_BY_REASON.get(cause.reason, remedy)
        message = with_names(snapshot, cause.message) if cause.type == "PathMTU" else cause.message
        yield Finding(severity, about, f"{cause.type}: {cause.reason}", message, remedy)
    ready = conditions.get("Ready")
    if ready and ready.status != "True" and not any(cause.message in ready.message for cause in causes):
        yield Finding(PROBLEM, about, ready.reason, ready.message, describe)


def _remedy(snapshot: Snapshot, node: str, kind: str) -> str:
    if kind in ("Synced", "DefinitionsApplied"):
        return f"the node controller's log has the kernel's error: {log(snapshot, 'node', node)}"
    return REMEDIES.get(kind, "see docs/underlay.md")

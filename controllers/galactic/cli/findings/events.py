"""Findings that only Events tell, of things that are still there."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import PROBLEM, Finding, recent
from galactic.cli.findings.pods import runs
from galactic.cli.snapshot import Snapshot
from galactic.kube.api import Object

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


def event_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Warnings of the last quarter of an hour."""
    for event in recent(snapshot):
        reason, of = event.get("reason", ""), event["involvedObject"]
        name = f"{of['namespace']}/{of['name']}" if of.get("namespace") else of.get("name", "")
        if reason not in EVENTS or of.get("kind") == "Node":
            continue
        message = " ".join(event.get("message", "").split())
        if of.get("kind") == "Pod":
            pod = snapshot.pods.get(name)
            if pod is not None and not runs(pod):
                yield Finding(PROBLEM, f"Pod {name}", reason, message, _sandbox(pod))
        elif reason == "FailedCreate" and "galactic" in message:
            remedy = (
                f"if the webhooks are away: kubectl get pods -n {snapshot.home}; else do what the answer says"
            )
            yield Finding(PROBLEM, f"{of.get('kind')} {name}", reason, message, remedy)
        elif of.get("kind") == "VPCAttachment" and name in snapshot.attachments:
            remedy = (
                "a node claims what is not its own: look at galactic-node on the node that the message names"
            )
            yield Finding(PROBLEM, f"VPCAttachment {name}", reason, message, remedy)


def _sandbox(pod: Object) -> str:
    if node := pod["spec"].get("nodeName", ""):
        return f"kubectl describe nseg {node}"
    return f"kubectl describe pod -n {pod['metadata']['namespace']} {pod['metadata']['name']}"

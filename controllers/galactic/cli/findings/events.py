"""Findings from Events whose objects still exist and whose problem no condition shows."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import NOTE, PROBLEM, Finding, last_time, recent
from galactic.cli.findings.pods import runs
from galactic.cli.findings.programs import log
from galactic.cli.findings.refusals import refused
from galactic.cli.snapshot import Snapshot
from galactic.kube.api import Object
from galactic.kube.pods import requested_attachment

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
        "HostBits",
        "InvalidIdentifier",
        "InvalidNetwork",
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
        "NotCarried",
    }
)
"""Reasons of Events that no condition repeats."""


EXPOSURES: Final = {
    "PasswordExposed": "give the broker a listener with TLS, and galactic-router mqtts:// in mqtt_url",
    "DatabaseExposed": "see docs/history.md#the-database",
}
"""Reasons of the routers' Events about themselves, with what to do."""

REPEATED: Final = frozenset({"NotEntitled", "SidOutsidePrefix"})
"""Reasons of Events that the router repeats every four minutes while they hold."""
REPEATED_SECONDS: Final = 300.0


def event_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Warning Events of the last 15 minutes; of those that are repeated, of the last 5."""
    exposed: set[str] = set()
    for event in recent(snapshot):
        reason, of = event.get("reason", ""), event["involvedObject"]
        if reason in EXPOSURES and reason not in exposed and of.get("namespace") == snapshot.home:
            exposed.add(reason)  # once for all replicas
            yield Finding(NOTE, "router", reason, event.get("message", ""), EXPOSURES[reason])
        name = f"{of['namespace']}/{of['name']}" if of.get("namespace") else of.get("name", "")
        if reason not in EVENTS or of.get("kind") == "Node" or refused(event):
            continue
        if reason in REPEATED and snapshot.at - last_time(event) >= REPEATED_SECONDS:
            continue
        message = " ".join(event.get("message", "").split())
        if of.get("kind") == "Pod":
            pod = snapshot.pods.get(name)
            if pod is not None and not runs(pod):
                yield Finding(PROBLEM, f"Pod {name}", reason, message, _sandbox(snapshot, name, pod))
        elif reason == "FailedCreate" and "galactic" in message:
            remedy = f"if the webhook is down: kubectl get pods -n {snapshot.home}; else follow the message"
            yield Finding(PROBLEM, f"{of.get('kind')} {name}", reason, message, remedy)
        elif of.get("kind") == "VPCAttachment" and name in snapshot.attachments:
            remedy = "a node announces an endpoint that is not its own: check galactic-node on the node in the message"
            yield Finding(PROBLEM, f"VPCAttachment {name}", reason, message, remedy)


def _sandbox(snapshot: Snapshot, name: str, pod: Object) -> str:
    """Where the reason is: at the attachment if that is not ready, else in the node controller's log."""
    namespace, _, own_name = name.partition("/")
    attachment = f"{namespace}/{requested_attachment(pod)}"
    known = snapshot.attachments.get(attachment)
    if known is not None and not known.status.ready:
        return f"kubectl describe vpca -n {attachment.replace('/', ' ')}"
    describe = f"kubectl describe pod -n {namespace} {own_name}"
    if node := pod["spec"].get("nodeName", ""):
        return f"{describe}; the node controller's log has each refused call: {log(snapshot, 'node', node)}"
    return describe

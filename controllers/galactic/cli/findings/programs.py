"""Findings about Galactic's programs and the broker: not running, not leading, not readable."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import NOTE, PATIENCE_SECONDS, PROBLEM, Finding
from galactic.cli.snapshot import LEADERS, Component, Snapshot
from galactic.kube.pods import seconds

CONSEQUENCES: Final = {
    "operator": "new VPCs and attachments get no identifiers and addresses; attached pods keep their traffic",
    "webhook": "pods that request an attachment cannot be created, and mistakes show late; attached pods "
    "keep their traffic",
    "router": "route changes do not reach nodes over MQTT, and moves are not processed; attached pods "
    "keep their traffic",
    "node": "no pod can be attached or removed there; attached pods keep their traffic",
    "broker": "route changes reach nodes through the API server, later; attached pods keep their traffic",
}

NO_HISTORY: Final = "no history is written; routes do not depend on it"
"""The consequence where only the router's database fails."""


def unread(snapshot: Snapshot) -> Iterator[Finding]:
    """Kinds that could not be listed, and objects that could not be read."""
    for kind, why in snapshot.unread.items():
        if why == "the kind is not installed":
            if kind in ("VPC", "VPCAttachment", "NodeSegment"):
                remedy = "install Galactic: helm install galactic charts/galactic -n galactic-system --create-namespace"
                yield Finding(PROBLEM, kind, "NotInstalled", why, remedy)
            continue
        yield Finding(
            NOTE, kind, "NotRead", why, "ask for a role that may list it; findings about it are missing"
        )
    for name, why in snapshot.broken.items():
        kind, _, of = name.partition(" ")
        namespace, _, bare = of.rpartition("/")
        where = f"-n {namespace} {kind} {bare}" if namespace else f"{kind} {bare}"
        yield Finding(PROBLEM, name, "Invalid", why, f"correct it: kubectl edit {where}")


def programs(snapshot: Snapshot) -> Iterator[Finding]:
    """Components with fewer ready replicas than wanted."""
    for component in snapshot.components:
        if component.ready >= component.wanted:
            continue
        severity = PROBLEM if not component.ready or component.kind in ("node", "broker") else NOTE
        message = f"{component.ready} of {component.wanted} ready" + (
            f": {component.problem}" if component.problem else ""
        )
        if component.kind in CONSEQUENCES and not component.ready:
            message += f" - {NO_HISTORY if _only_history(component) else CONSEQUENCES[component.kind]}"
        yield Finding(severity, component.title, "NotReady", message, _remedy(snapshot, component))


def _remedy(snapshot: Snapshot, component: Component) -> str:
    problem = component.problem.lower()
    if "mqtt" in problem or "broker" in problem:
        return (
            f"check the broker, and mqtt_url, mqtt_username, mqtt_password_file of galactic-{component.kind}"
        )
    if "postgres" in problem:
        return (
            f"check PostgreSQL, and database_url of galactic-{component.kind}; missed changes are "
            "written once it answers"
        )
    return component.log or log(snapshot, component.kind)


def _only_history(component: Component) -> bool:
    return component.kind == "router" and all(
        part.startswith("postgres:") for part in component.problem.split("; ")
    )


def log(snapshot: Snapshot, kind: str, node: str = "") -> str:
    """The command that shows a program's log. ``node``: of the program on that node."""
    for component in snapshot.components:
        if component.kind == kind and component.log and (not node or component.node == node):
            return component.log
    return f"kubectl logs -n {snapshot.home} -l app.kubernetes.io/component={kind} --tail=100"


def leaders(snapshot: Snapshot) -> Iterator[Finding]:
    """Leases that are not renewed, of programs that run."""
    if "Lease" in snapshot.unread or not (snapshot.vpcs or snapshot.components):
        return
    down = {component.kind for component in snapshot.components if not component.ready}
    for name in LEADERS:
        kind = name.removeprefix("galactic-")
        if kind in down:
            continue
        lease = snapshot.leases.get(name)
        if kind == "router" and snapshot.router_outside and lease is None:
            message = "this cluster has no router, so attachments have no endpoint in their status"
            remedy = (
                "correct if a router outside serves it (docs/tutorials/two-clusters.md); else: helm upgrade"
            )
            yield Finding(NOTE, kind, "Outside", message, remedy)
            continue
        spec = (lease or {}).get("spec") or {}
        age = snapshot.at - seconds(str(spec.get("renewTime") or ""))
        patience = PATIENCE_SECONDS + (spec.get("leaseDurationSeconds") or 15)
        if lease is None or not spec.get("holderIdentity") or age > patience:
            message = f"no replica leads (Lease {name})" + (f", for {age:.0f} s" if lease else "")
            yield Finding(PROBLEM, kind, "NoLeader", f"{message} - {CONSEQUENCES[kind]}", log(snapshot, kind))


def leader(snapshot: Snapshot, component: str) -> str:
    """The leading replica of a component; empty for none."""
    return str(
        ((snapshot.leases.get(f"galactic-{component}") or {}).get("spec") or {}).get("holderIdentity") or ""
    )

"""Findings about Galactic's programs and the broker: what does not run, who does not lead, what cannot be read."""

from collections.abc import Iterator
from typing import Final

from galactic.cli.findings.finding import NOTE, PATIENCE_SECONDS, PROBLEM, Finding
from galactic.cli.snapshot import LEADERS, Component, Snapshot
from galactic.kube.pods import seconds

CONSEQUENCES: Final = {
    "operator": "new VPCs and attachments stay without identifiers and addresses; what runs goes on",
    "webhook": "pods that ask for an attachment cannot be made, and mistakes are found late; what runs goes on",
    "router": "no route changes reach nodes fast, and moves are not seen; what runs goes on",
    "node": "no pod can be attached there or taken away; what runs goes on",
    "broker": "route changes take the slower way over the API server; what runs goes on",
}

NO_HISTORY: Final = "no history is written; routes do not wait for it"
"""What it means where a router's database is all that it complains about."""


def unread(snapshot: Snapshot) -> Iterator[Finding]:
    """Kinds that could not be listed, and objects that could not be read."""
    for kind, why in snapshot.unread.items():
        if why == "the kind is not installed":
            if kind in ("VPC", "VPCAttachment", "NodeSegment"):
                remedy = "install Galactic: helm install galactic charts/galactic -n galactic-system --create-namespace"
                yield Finding(PROBLEM, kind, "NotInstalled", why, remedy)
            continue
        yield Finding(
            NOTE, kind, "NotRead", why, "ask for a role that may list it; what it would show is missing here"
        )
    for name, why in snapshot.broken.items():
        kind, _, of = name.partition(" ")
        namespace, _, bare = of.rpartition("/")
        where = f"-n {namespace} {kind} {bare}" if namespace else f"{kind} {bare}"
        yield Finding(PROBLEM, name, "Invalid", why, f"mend it: kubectl edit {where}")


def programs(snapshot: Snapshot) -> Iterator[Finding]:
    """Those of which fewer are ready than there should be."""
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
        return f"check PostgreSQL, and database_url of galactic-{component.kind}; what is missing is written afterwards"
    return component.log or log(snapshot, component.kind)


def _only_history(component: Component) -> bool:
    return component.kind == "router" and all(
        part.startswith("postgres:") for part in component.problem.split("; ")
    )


def log(snapshot: Snapshot, kind: str, node: str = "") -> str:
    """The command that shows a program's log. ``node`` for the one that runs there."""
    for component in snapshot.components:
        if component.kind == kind and component.log and (not node or component.node == node):
            return component.log
    return f"kubectl logs -n {snapshot.home} -l app.kubernetes.io/component={kind} --tail=100"


def leaders(snapshot: Snapshot) -> Iterator[Finding]:
    """Leases that nobody renews, of programs that run."""
    if "Lease" in snapshot.unread or not (snapshot.vpcs or snapshot.components):
        return
    down = {component.kind for component in snapshot.components if not component.ready}
    for name in LEADERS:
        kind = name.removeprefix("galactic-")
        if kind in down:
            continue
        lease = snapshot.leases.get(name)
        if kind == "router" and snapshot.served and lease is None:
            message = "no router belongs to this cluster, so nothing here tells where an attachment is"
            remedy = (
                "right where a router outside serves it (docs/tutorials/two-clusters.md); else: helm upgrade"
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
    """Who leads of a component's replicas; empty for nobody."""
    return str(
        ((snapshot.leases.get(f"galactic-{component}") or {}).get("spec") or {}).get("holderIdentity") or ""
    )

"""``galactic status``: all findings and their remedies on one screen."""

import asyncio
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.cluster_options import DEGRADED, FINE, ClusterOptions
from galactic.cli.render import BOLD, GREEN, RED, YELLOW, Form, Output, document, paint, show, table

if TYPE_CHECKING:
    from galactic.cli.findings import Finding
    from galactic.cli.snapshot import Snapshot
    from galactic.crds.model import Condition
    from galactic.kube.client import Kube

POLL_SECONDS: Final = 2.0
SHOWN: Final = 20
"""The most findings on one screen; -o wide shows all."""


def status(
    options: ClusterOptions,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until there are no problems.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds that --wait waits.")] = 300.0,
    output: Form = Output.TABLE,
) -> int:
    """Show components, nodes and problems with their remedies on one screen."""
    snapshot, findings = options.run(
        _settled(options, timeout if wait else 0.0), seconds=options.seconds + (timeout if wait else 0.0)
    )
    wrong = any(finding.severity == "problem" for finding in findings)
    if not document(summary(snapshot, findings), output):
        show(screen(snapshot, findings, everything=output is Output.WIDE))
    return DEGRADED if wrong else FINE


async def _settled(options: ClusterOptions, patience: float) -> "tuple[Snapshot, list[Finding]]":
    """The first snapshot without problems, or the one after ``patience`` seconds."""
    from galactic.errors import Unreachable  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    async with options.kube() as kube:
        while True:
            last = loop.time() >= deadline
            try:
                snapshot, findings = await examine(options, kube)
                if last or not any(finding.severity == "problem" for finding in findings):
                    return snapshot, findings
            except Unreachable:
                if last:
                    raise
            await asyncio.sleep(min(POLL_SECONDS, max(0.0, deadline - loop.time())))


async def examine(options: ClusterOptions, kube: "Kube") -> "tuple[Snapshot, list[Finding]]":
    """A snapshot of the cluster, with its findings."""
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.findings import NOTE, Finding, findings  # noqa: PLC0415
    from galactic.cli.snapshot import read  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415

    snapshot = await read(kube)
    listed: list[Finding] = []
    try:
        access = cluster_access(options, kube)
        snapshot.components = await access.components()
        snapshot.router_outside = access.router_outside(snapshot.components)
        if not snapshot.components and "VPC" not in snapshot.unread:
            message = "no pod has the label app.kubernetes.io/name=galactic"
            listed.append(
                Finding(NOTE, "components", "NotFound", message, "is Galactic installed by its chart?")
            )
    except GalacticError as error:
        listed.append(Finding(NOTE, "components", "NotRead", str(error), "the state of programs is missing"))
    return snapshot, findings(snapshot) + listed


def summary(snapshot: "Snapshot", findings: "list[Finding]") -> dict[str, Any]:
    """The report as JSON types."""
    from galactic.cli.findings import leader, plain  # noqa: PLC0415

    return {
        "ok": not any(finding.severity == "problem" for finding in findings),
        "components": [
            {
                "name": component.name,
                "node": component.node,
                "ready": component.ready,
                "wanted": component.wanted,
                "version": component.version,
                "leader": leader(snapshot, component.name),
                "problem": component.problem,
            }
            for component in snapshot.components
        ],
        "nodes": [
            {
                "name": name,
                "prefix": segment.spec.prefix if (segment := snapshot.segments.get(name)) else None,
                "ready": _ready(snapshot, name),
                "vpcs": segment.status.counts.vpcs if segment and segment.status.counts else 0,
                "endpoints": segment.status.counts.endpoints if segment and segment.status.counts else 0,
                "kernel": segment.status.node.kernel if segment and segment.status.node else "",
                "version": segment.status.node.version if segment and segment.status.node else "",
            }
            for name in sorted(snapshot.nodes.keys() | snapshot.segments.keys())
        ],
        "vpcs": {
            "total": len(snapshot.vpcs),
            "ready": sum(vpc.status.ready for vpc in snapshot.vpcs.values()),
        },
        "attachments": {
            "total": len(snapshot.attachments),
            "ready": sum(attachment.status.ready for attachment in snapshot.attachments.values()),
            "attached": sum(
                attachment.status.endpoint is not None for attachment in snapshot.attachments.values()
            ),
        },
        "gateways": [
            {
                "name": name,
                "vpc": f"{gateway.metadata.namespace}/{gateway.spec.vpc.name}",
                "ready": gateway.status.ready,
                "redundant": _is(gateway.status.conditions, "Redundant"),
                "families": [*gateway.status.families],
                "snat": gateway.status.snat,
                "nodes": [
                    {"node": one.node, "addresses": [*one.addresses], "ready": one.ready}
                    for one in gateway.status.nodes
                ],
            }
            for name, gateway in sorted(snapshot.gateways.items())
        ],
        "findings": plain(findings),
    }


def _ready(snapshot: "Snapshot", node: str) -> str:
    segment = snapshot.segments.get(node)
    if segment is None:
        return "no prefix"
    states = [condition.status for condition in segment.status.conditions if condition.type == "Ready"]
    return {"True": "ready", "False": "not ready"}.get(states[0], "unknown") if states else "silent"


def _is(conditions: "Iterable[Condition]", kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in conditions)


def screen(snapshot: "Snapshot", findings: "list[Finding]", *, everything: bool) -> Iterator[str]:
    """The report as lines of a screen."""
    report = summary(snapshot, findings)
    yield from _programs(report)
    yield ""
    yield from _nodes(report)
    yield ""
    if report["gateways"]:
        yield from _gateways(report)
        yield ""
    vpcs, attachments = report["vpcs"], report["attachments"]
    yield (
        f"VPCs {vpcs['ready']}/{vpcs['total']} ready, attachments {attachments['ready']}/{attachments['total']} ready, "
        f"{attachments['attached']} attached"
    )
    yield ""
    if not findings:
        yield paint("Nothing is wrong.", GREEN, BOLD)
        return
    shown = findings if everything else findings[:SHOWN]
    width = max(60, shutil.get_terminal_size((120, 40)).columns)
    for finding in shown:
        yield from _finding(finding, width)
    if len(findings) > len(shown):
        yield f"… and {len(findings) - len(shown)} more: galactic status -o wide"
    problems = sum(finding.severity == "problem" for finding in findings)
    yield paint(f"{problems} problems, {len(findings) - problems} notes.", RED if problems else YELLOW, BOLD)


def _programs(report: dict[str, Any]) -> list[str]:
    rows, marks = [], []
    for component in report["components"]:
        if component["node"]:
            continue
        rows.append(
            [
                component["name"],
                f"{component['ready']}/{component['wanted']}",
                component["version"] or "-",
                component["leader"] or "-",
            ]
        )
        marks.append(
            ()
            if component["ready"] >= component["wanted"]
            else (RED,)
            if not component["ready"]
            else (YELLOW,)
        )
    nodes = [component for component in report["components"] if component["node"]]
    if nodes:
        ready = sum(component["ready"] for component in nodes)
        versions = ", ".join(sorted({component["version"] or "-" for component in nodes}))
        rows.append(["node", f"{ready}/{len(nodes)}", versions, "-"])
        marks.append(() if ready == len(nodes) else (RED,))
    return table(("COMPONENT", "READY", "VERSION", "LEADER"), rows, marks)


def _nodes(report: dict[str, Any]) -> list[str]:
    rows, marks = [], []
    away = {
        component["node"]
        for component in report["components"]
        if component["node"] and not component["ready"]
    }
    for node in report["nodes"]:
        state = f"{node['ready']}, no controller" if node["name"] in away else node["ready"]
        row = [node["name"], node["prefix"] or "-", state, node["vpcs"], node["endpoints"]]
        rows.append([*map(str, row), node["kernel"] or "-"])
        marks.append(() if state == "ready" else (RED,))
    return table(("NODE", "PREFIX", "STATE", "VPCS", "ENDPOINTS", "KERNEL"), rows, marks)


def _gateways(report: dict[str, Any]) -> list[str]:
    rows, marks = [], []
    for gateway in report["gateways"]:
        nodes = [
            f"{one['node']}{'' if one['ready'] else ' (not ready)'} {','.join(one['addresses'])}".rstrip()
            for one in gateway["nodes"]
        ]
        state = "not ready" if not gateway["ready"] else "ready" if gateway["redundant"] else "not redundant"
        rows.append(
            [
                gateway["name"],
                gateway["vpc"],
                state,
                ",".join(gateway["families"]) or "-",
                "; ".join(nodes) or "-",
            ]
        )
        marks.append({"ready": (), "not redundant": (YELLOW,)}.get(state, (RED,)))
    return table(("GATEWAY", "VPC", "STATE", "FAMILIES", "NODES AND ADDRESSES"), rows, marks)


def _finding(finding: "Finding", width: int) -> Iterator[str]:
    problem = finding.severity == "problem"
    yield (
        paint(f"{'✗' if problem else '!'} {finding.about}", RED if problem else YELLOW, BOLD)
        + f"  {finding.reason}"
    )
    for text, lead in ((finding.message, "    "), (finding.remedy, "  → ")):
        yield from textwrap.wrap(
            text,
            width,
            initial_indent=lead,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )

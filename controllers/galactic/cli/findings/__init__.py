"""Findings, problems with their remedies: a pure function of a snapshot of the cluster.

Findings repeat the controllers' conditions and Events, omit consequences of other findings where possible, and add
problems that only the whole snapshot shows. Modules: ``programs``, ``nodes``, ``objects`` (VPCs, attachments,
policies), ``gateways``, ``pods``, ``services``, ``refusals``, ``events``; ``finding`` has what they share.
"""

from galactic.cli.findings.events import event_findings
from galactic.cli.findings.finding import NOTE, PROBLEM, Finding, plain
from galactic.cli.findings.gateways import gateways, ways_out
from galactic.cli.findings.nodes import nodes
from galactic.cli.findings.objects import attachments, kinds, peers, policies, vpcs
from galactic.cli.findings.pods import pods
from galactic.cli.findings.programs import leader, leaders, programs, unread
from galactic.cli.findings.refusals import refusals
from galactic.cli.findings.services import services
from galactic.cli.snapshot import Snapshot
from galactic.kube.pods import seconds

__all__ = ["NOTE", "PROBLEM", "Finding", "findings", "leader", "plain", "seconds"]


def findings(snapshot: Snapshot) -> list[Finding]:
    """All findings, problems before notes."""
    collected: list[Finding] = []
    for part in (
        unread,
        programs,
        leaders,
        nodes,
        kinds,
        vpcs,
        peers,
        attachments,
        policies,
        gateways,
        ways_out,
        pods,
        services,
        refusals,
        event_findings,
    ):
        collected += part(snapshot)
    return sorted(dict.fromkeys(collected), key=lambda finding: finding.severity != PROBLEM)

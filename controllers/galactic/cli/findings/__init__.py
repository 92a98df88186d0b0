"""What is wrong in a cluster, and what to do about each of it: a pure function of one look at it.

The controllers say in conditions and Events what is the matter, with a remedy where they know one; here it is gathered,
the consequences are told apart from their causes as far as possible, and what only the whole shows is added. A module
a noun: ``programs``, ``nodes``, ``objects`` (VPCs and attachments), ``pods``; ``finding`` has what they share.
"""

from galactic.cli.findings.events import event_findings
from galactic.cli.findings.finding import NOTE, PROBLEM, Finding, plain
from galactic.cli.findings.nodes import nodes
from galactic.cli.findings.objects import attachments, vpcs
from galactic.cli.findings.pods import pods
from galactic.cli.findings.programs import leader, leaders, programs, unread
from galactic.cli.snapshot import Snapshot
from galactic.kube.pods import seconds

__all__ = ["NOTE", "PROBLEM", "Finding", "findings", "leader", "plain", "seconds"]


def findings(snapshot: Snapshot) -> list[Finding]:
    """Everything that is wrong, causes before consequences."""
    collected: list[Finding] = []
    for part in (unread, programs, leaders, nodes, vpcs, attachments, pods, event_findings):
        collected += part(snapshot)
    return sorted(dict.fromkeys(collected), key=lambda finding: finding.severity != PROBLEM)

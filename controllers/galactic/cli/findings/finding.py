"""One finding, and how times, Events and conditions are read for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from galactic.cli.snapshot import Snapshot
from galactic.crds.model import Condition
from galactic.kube.api import Object
from galactic.kube.pods import seconds

PATIENCE_SECONDS: Final = 20.0
"""What takes no longer than that is no finding: a pod that starts, a Lease that changes hands."""
RECENT_SECONDS: Final = 900.0
"""An Event that was not repeated for so long is history."""
PROBLEM, NOTE = "problem", "note"


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


def plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """As JSON has it."""
    return [finding.plain() for finding in findings]


def by_type(conditions: Iterable[Condition]) -> Mapping[str, Condition]:
    """Conditions by their type."""
    return {condition.type: condition for condition in conditions}


def says(message: str) -> bool:
    """Whether a message has a remedy of its own: ours put it after a semicolon, or a colon with what to give."""
    return any(
        mark in message for mark in ("; ", ": give", ": set", ": make", ": raise", "`modprobe", "needs ")
    )


def recent(snapshot: Snapshot) -> list[Object]:
    """Warnings that were told lately."""
    return [event for event in snapshot.events if snapshot.at - _when(event) < RECENT_SECONDS]


def _when(event: Object) -> float:
    last = (
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
    )
    return seconds(last or event["metadata"].get("creationTimestamp") or "")

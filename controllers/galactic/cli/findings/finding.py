"""The finding, and the reading of times, Events and conditions for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from galactic.cli.snapshot import Snapshot
from galactic.crds.model import Condition
from galactic.kube.api import Object
from galactic.kube.pods import seconds

PATIENCE_SECONDS: Final = 20.0
"""Shorter delays are no finding: a pod that starts, a Lease that changes its holder."""
RECENT_SECONDS: Final = 900.0
"""Older Events are no finding."""
PROBLEM, NOTE = "problem", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with its remedy. ``severity``: problem (exit code 3) or note."""

    severity: str
    about: str
    reason: str
    message: str
    remedy: str = ""

    def plain(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


def plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON types."""
    return [finding.plain() for finding in findings]


def by_type(conditions: Iterable[Condition]) -> Mapping[str, Condition]:
    """Conditions by their type."""
    return {condition.type: condition for condition in conditions}


def has_remedy(message: str) -> bool:
    """Whether a message has its own remedy: controllers put it after a semicolon, or after a colon and a verb."""
    return any(
        mark in message for mark in ("; ", ": give", ": set", ": make", ": raise", "`modprobe", "needs ")
    )


def recent(snapshot: Snapshot) -> list[Object]:
    """Warning Events of the last ``RECENT_SECONDS``."""
    return [event for event in snapshot.events if snapshot.at - last_time(event) < RECENT_SECONDS]


def last_time(event: Object) -> float:
    """When the Event was last repeated, in seconds since 1970; 0: unknown."""
    last = (
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
    )
    return seconds(last or event["metadata"].get("creationTimestamp") or "")

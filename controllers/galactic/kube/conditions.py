"""Conditions that keep the time of their last change, and status patches with the changed fields alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from galactic.crds.model import Condition
from galactic.errors import GalacticError, NotYet, Rejected

READY: Final = "Ready"
ACCEPTED: Final = "Accepted"
CONFLICT: Final = "Conflict"
GRANTED: Final = "Granted"
DELETING: Final = "Deleting"
ROUTED: Final = "Routed"
ATTACHED: Final = "Attached"
ENFORCED: Final = "Enforced"
"""Of a VPCPolicy: whether the nodes of its attachments enforce it."""
POLICIES: Final = "Policies"
"""Of a NodeSegment, written by its node: whether it can enforce rules inside VPCs."""
RETAINED: Final = "Retained"
"""Of a StatefulSet's attachment without a pod to come: absent unless it is kept for a time."""
KINDS_CURRENT: Final = "KindsCurrent"
"""Of an object: absent unless the API server drops fields of its status."""
NETWORKS_ACCEPTED: Final = "NetworksAccepted"
"""Of an attachment: absent unless it declines networks of its VPC."""
PEERED: Final = "Peered"
"""Of a VPC: absent unless it names peers, or a VPC names it."""
REDUNDANT: Final = "Redundant"
"""Of a VPCGateway: whether as many nodes lead out as it asks for."""
PUBLISHED: Final = "Published"
"""Of a VPCGateway: absent unless it publishes ports. Whether each leads to a ready pod."""
MULTUS: Final = "MultusConfigured"
"""Of a NodeSegment, written by its node: absent where the node does not check Multus."""


@dataclass(frozen=True, slots=True)
class State:
    """A condition's new state: ``reason`` is a stable CamelCase word, ``message`` is for people. Neither is empty.

    (Some builds of old API servers take an empty string in a custom resource for null, and refuse it.)
    """

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def now() -> str:
    """The time as Kubernetes writes it."""
    return stamp(datetime.now(UTC).timestamp())


def stamp(seconds: float) -> str:
    """Seconds since 1970 as Kubernetes writes a time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reason_of(problem: GalacticError) -> str:
    """The stable word for a problem."""
    return problem.reason if isinstance(problem, Rejected | NotYet) else type(problem).__name__


def conditions(
    before: Sequence[Condition],
    states: Mapping[str, State | None],
    generation: int,
    time: str,
) -> list[dict[str, Any]]:
    """The list with those states set; None removes a type. Other types stay as they are.

    ``lastTransitionTime`` changes only when the status does.
    """
    result = []
    previous = {condition.type: condition for condition in before}
    for condition in before:
        if condition.type not in states:
            result.append(condition.model_dump(by_alias=True, exclude_unset=True))
        elif (state := states[condition.type]) is not None:
            result.append(_written(condition.type, state, previous[condition.type], generation, time))
    result += [
        _written(type_, state, None, generation, time)
        for type_, state in states.items()
        if state is not None and type_ not in previous
    ]
    return result


def _written(
    type_: str, state: State, before: Condition | None, generation: int, time: str
) -> dict[str, Any]:
    changed = before is None or before.status != state.status or not before.last_transition_time
    return {
        "type": type_,
        "status": state.status,
        "reason": state.reason,
        "message": state.message,
        "lastTransitionTime": time if changed or before is None else before.last_transition_time,
        "observedGeneration": generation,
    }


def status_patch(before: Mapping[str, Any], after: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    """A merge patch for the status subresource, from ``before`` to ``after``; None if nothing differs.

    Fields that ``after`` does not name belong to other writers and stay. A list of conditions is replaced as a whole,
    so its patch carries the resource version it was computed from: a write in between makes the patch fail.
    """
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    if not changed:
        return None
    patch: dict[str, Any] = {"status": changed}
    if "conditions" in changed and version:
        patch["metadata"] = {"resourceVersion": version}
    return patch

"""Whether the API server keeps what the operator writes: kinds of an earlier version drop fields without an error."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from galactic.crds.model import Condition, Meta
from galactic.kube.api import Object
from galactic.kube.conditions import KINDS_CURRENT, State, conditions, now
from galactic.kube.resources import Resource

log = structlog.get_logger(__name__)
REMEDY: Final = "kubectl apply --server-side -f crds/ of the operator's version"


class DroppedFields:
    """By kind the fields of the status that the API server dropped."""

    def __init__(self) -> None:
        self._dropped: defaultdict[str, set[str]] = defaultdict(set)

    def observe(self, resource: Resource, written: Mapping[str, Any], answer: Object) -> bool:
        """Compares a write with its answer. Whether the state of the kind changed."""
        status = answer.get("status") or {}
        before = self._dropped[resource.plural]
        lost = {name for name, value in written.items() if value is not None and name not in status}
        after = {name for name in before | lost if name not in status}
        self._dropped[resource.plural] = after
        if before == after:
            return False
        if after:
            log.error(
                "kind is of an earlier version", kind=resource.kind, dropped=sorted(after), remedy=REMEDY
            )
        else:
            log.info("kind is of this version", kind=resource.kind)
        return True

    def outdated(self, resource: Resource) -> bool:
        """Whether the API server dropped a field of the kind, and has not kept it since."""
        return bool(self._dropped[resource.plural])

    def stated(
        self, resource: Resource, meta: Meta, before: Sequence[Condition], after: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The status with the condition ``KindsCurrent`` added, or removed, if that makes a difference."""
        dropped = sorted(self._dropped[resource.plural])
        if not dropped and not any(condition.type == KINDS_CURRENT for condition in before):
            return dict(after)
        state = (
            State(
                "False",
                "KindOutdated",
                f"the API server drops {', '.join(f'status.{name}' for name in dropped)}: the kind {resource.kind} "
                f"is of an earlier version than the operator, and new pods are not attached; {REMEDY}",
            )
            if dropped
            else None
        )
        present = (
            [Condition.model_validate(one) for one in after["conditions"]]
            if "conditions" in after
            else before
        )
        return {**after, "conditions": conditions(present, {KINDS_CURRENT: state}, meta.generation, now())}

"""Rules in CEL that the API server checks by itself (``x-kubernetes-validations``), also while no webhook runs.

The webhook checks all of this as well. The API server validates a kind's schema before it calls validating webhooks, so
a rule's text is what users read where a server has rules at all.

A rule with ``oldSelf`` is about a change and needs Kubernetes 1.25. A rule without is about a value. From 1.30 on the
API server skips it where the value did not change; an older one would refuse each later write of an object that was
stored before the rule existed, its status and finalizers included. So the chart leaves out rules about values before
1.30, all rules before 1.25, and the fields that a server does not know: ``messageExpression`` before 1.27,
``fieldPath`` before 1.28.
"""

from dataclasses import dataclass
from typing import Any, Final

EXTENSION: Final = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """``expression`` must hold. ``message``: field and remedy. ``details``: CEL of a text that has the value as well.

    ``path``: the field in question, below the one that carries the rule.
    """

    expression: str
    message: str
    details: str
    path: str = ""

    def schema(self) -> dict[str, Any]:
        """As a member of ``x-kubernetes-validations``."""
        body = {"rule": self.expression, "message": self.message, "messageExpression": self.details}
        return body | ({"fieldPath": self.path} if self.path else {})


def rules(*members: Rule) -> dict[str, Any]:
    """The extension of a JSON schema."""
    return {EXTENSION: [member.schema() for member in members]} if members else {}


VALUES_FROM: Final = (1, 30)
"""The first minor of Kubernetes that gets rules about values."""
KNOWN_FROM: Final = {EXTENSION: (1, 25), "messageExpression": (1, 27), "fieldPath": (1, 28)}
"""The first minor that knows a field."""


def for_server(schema: Any, version: tuple[int, int]) -> Any:
    """The schema, at any depth, without what an API server of that version does not know or should not get."""
    if isinstance(schema, list):
        return [for_server(member, version) for member in schema]
    if not isinstance(schema, dict):
        return schema
    unknown = {name for name, first in KNOWN_FROM.items() if version < first}
    result = {name: for_server(value, version) for name, value in schema.items() if name not in unknown}
    if isinstance(result.get(EXTENSION), list) and version < VALUES_FROM:
        result[EXTENSION] = [rule for rule in result[EXTENSION] if "oldSelf" in rule["rule"]]
        if not result[EXTENSION]:
            del result[EXTENSION]
    return result

"""Rules in CEL that the API server checks by itself (``x-kubernetes-validations``), also while no webhook runs.

The webhook checks all of this as well. The API server validates a kind's schema before it calls validating webhooks, so
a rule's text is what users read.

A rule with ``oldSelf`` is about a change. A rule without is about a value: the API server skips it where the value did
not change (Kubernetes 1.30), so an object that was stored before the rule existed can still be written.
"""

from dataclasses import dataclass
from typing import Any, Final

EXTENSION: Final = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """``expression`` must hold. ``message``: field and remedy. ``details``: CEL of a text that has the value as well;
    empty where lists within lists would make it cost more than the API server allows.

    ``path``: the field in question, below the one that carries the rule.
    """

    expression: str
    message: str
    details: str = ""
    path: str = ""

    def schema(self) -> dict[str, Any]:
        """As a member of ``x-kubernetes-validations``."""
        body = {"rule": self.expression, "message": self.message}
        body |= {"messageExpression": self.details} if self.details else {}
        return body | ({"fieldPath": self.path} if self.path else {})


def rules(*members: Rule) -> dict[str, Any]:
    """The extension of a JSON schema."""
    return {EXTENSION: [member.schema() for member in members]} if members else {}

"""The short form of a reference to a VPC, ``spec.vpc: NAME`` or ``NAMESPACE/NAME``, written out before it is stored."""

from collections.abc import Mapping
from typing import Any

from galactic.validation.references import expanded
from galactic.webhook.review import ALLOWED, Answer

PATH = "/spec/vpc"
"""A JSON pointer (RFC 6901)."""


def written_out(document: Mapping[str, Any]) -> Answer:
    """The patch of an object that names its VPC in short; of others none."""
    text = (document.get("spec") or {}).get("vpc")
    if not isinstance(text, str):
        return ALLOWED
    return Answer(patch=({"op": "replace", "path": PATH, "value": dict(expanded(text))},))

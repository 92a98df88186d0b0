"""Services that publish addresses of a VPC: the part of their selector by which Kubernetes publishes no others."""

from collections.abc import Mapping
from typing import Any

from galactic.names import ADDRESSES_LABEL, ADDRESSES_OF_VPC
from galactic.validation.services import VpcService
from galactic.webhook.review import ALLOWED, Answer

PATH = f"/spec/selector/{ADDRESSES_LABEL.replace('/', '~1')}"
"""A JSON pointer (RFC 6901)."""


def mutated(service: VpcService, document: Mapping[str, Any]) -> Answer:
    """Adds ADDRESSES_LABEL to the selector; removes it from that of a Service without the annotation. Idempotent."""
    if service.annotation is None:
        present = ADDRESSES_LABEL in ((document.get("spec") or {}).get("selector") or {})
        return Answer(patch=({"op": "remove", "path": PATH},)) if present else ALLOWED
    if service.excluded:
        return ALLOWED
    return Answer(patch=({"op": "add", "path": PATH, "value": ADDRESSES_OF_VPC},))

"""Warnings about annotations of Galactic's domain that no program of Galactic's reads, such as misspelled ones."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from galactic.kube.resources import PODS
from galactic.names import ACCEPTED_ANNOTATION, ATTACHMENT_ANNOTATION, GROUP, VPC_ANNOTATION

CONFIGURATION_ANNOTATION: Final = f"{GROUP}/configuration"
"""On Galactic's own Pods: the chart's digest of their configuration."""
READ: Final[Mapping[str, tuple[str, ...]]] = {
    PODS.plural: (ATTACHMENT_ANNOTATION, VPC_ANNOTATION, ACCEPTED_ANNOTATION),
}
"""The annotations that are read, by the resource that has them."""
CLOSE: Final = 0.75
"""The least similarity of a suggestion, as ``difflib`` measures it."""


def unknown(resource: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning for each annotation of our domain without effect on such an object. ``resource``: the plural."""
    read = READ.get(resource, ())
    return tuple(
        _warning(name, read)
        for name in (document.get("metadata") or {}).get("annotations") or {}
        if _ours(name) and name not in (*read, CONFIGURATION_ANNOTATION)
    )


def _ours(name: str) -> bool:
    domain, slash, _ = name.partition("/")
    return bool(slash) and (domain == GROUP or domain.endswith(f".{GROUP}"))


def _warning(name: str, read: tuple[str, ...]) -> str:
    close = get_close_matches(name, read, 1, CLOSE)
    remedy = f"did you mean {close[0]}?" if close else "remove it"
    return f"metadata.annotations[{name}]: has no effect here; {remedy}"

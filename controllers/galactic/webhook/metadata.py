"""A bound on the metadata of Galactic's own kinds, which the API server does not have for all of it."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from galactic.errors import Rejected

MOST: Final = 64 << 10
"""Bytes as JSON. Kubernetes itself bounds annotations (256 KiB), but neither labels nor finalizers."""
_FIELDS: Final = ("annotations", "labels", "finalizers", "ownerReferences")


def bounded(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> None:
    """Raises Rejected for an object whose metadata became larger than MOST; one that was, stays writable."""
    sizes = _sizes(new)
    if sum(sizes.values()) <= MOST or (old is not None and sum(_sizes(old).values()) > MOST):
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise Rejected(
        f"has {sum(sizes.values())} bytes, of which {largest} {sizes[largest]}; at most {MOST} are allowed: remove "
        "what no program needs, or keep it in a ConfigMap",
        reason="TooLarge",
        field="metadata",
    )


def _sizes(document: Mapping[str, Any]) -> dict[str, int]:
    meta = document.get("metadata") or {}
    return {name: len(msgspec.json.encode(meta[name])) for name in _FIELDS if meta.get(name)}

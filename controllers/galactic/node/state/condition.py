"""A condition of this node's NodeSegment as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConditionState:
    """One condition as it is now. ``reason`` is one CamelCase word, ``message`` a sentence."""

    type: str
    status: bool
    reason: str
    message: str = ""

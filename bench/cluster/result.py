"""The figures of one cluster."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from processes import Turns

Writes = Counter[tuple[str, str, str]]
"""(user, kind and subresource, verb) → number."""


@dataclass
class Start:
    """Of all programs at once, with everything there.

    ``ready`` and ``consistent``: seconds after the start, by process; ``resident``: RSS afterwards, in bytes.
    """

    ready: Mapping[str, float]
    consistent: Mapping[str, float]
    writes: Writes
    resident: Mapping[str, int]


@dataclass
class Result:
    """``whole`` and ``lists``: writes and lists while a pod comes and goes. ``turns`` by phase, ``memory`` in bytes an
    attachment; ``spent`` a pod and ``change`` in processor seconds. ``preloaded``: attachments that were there before
    ``start``.
    """

    nodes: int
    attachments: int
    paced: int = 0
    preloaded: int = 0
    start: Start | None = None
    ready_per_second: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    writes: Writes = field(default_factory=Counter)
    by_others: int = 0
    whole: float = 0.0
    lists: float = 0.0
    turns: dict[str, dict[str, Turns]] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    base: dict[str, int] = field(default_factory=dict)
    reachable: list[float] = field(default_factory=list)
    change: dict[str, float] = field(default_factory=dict)
    broker: tuple[float, int] = 0.0, 0


def by_kind(writes: Writes, pods: int) -> str:
    """The writes a pod by component, kind and verb."""
    total = Counter[str]()
    for (user, kind, verb), count in writes.items():
        component = "node" if user.startswith("galactic-node-") else user.partition("-")[0]
        total[f"{component} {verb} {kind}"] += count
    return ", ".join(f"{name} {count / pods:.2f}" for name, count in total.most_common())


def note(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)

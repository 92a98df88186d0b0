"""Nodes that flood a topic are suppressed on it for a while, like flapping routes (RFC 2439). No I/O.

A node's share (``fair_queue``) decides how often its messages are decoded; they were received already. All messages
reach the router over one connection, in order, so too many of one node delay the others'. Therefore the router does
not receive a topic of a node that exceeds a limit well above its share: for 2 s at first, and twice as long each time
that the node exceeds it again soon after. The broker retains what the node publishes meanwhile: nothing is lost.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from galactic.router.rib.path import NodeRef

SUPPRESS_SECONDS: Final = (2.0, 64.0)


class Limit(NamedTuple):
    """The traffic that a node may publish on one topic in one second before it is suppressed."""

    messages: int = 250
    bytes: int = 8 * 1024 * 1024


class Source(NamedTuple):
    """One topic of one node; ``kind`` is its last level."""

    node: NodeRef
    kind: str


class Penalty(NamedTuple):
    """How long a source was last suppressed, and until when its next suppression lasts twice as long."""

    seconds: float
    until: float


class FloodDamping:
    """Counts what arrives, by source. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, limit: Limit = Limit()) -> None:  # noqa: B008
        self._clock, self._limit = clock, limit
        self._counts: dict[Source, list[int]] = {}
        self._ends = 0.0
        self.suppressed: dict[Source, float] = {}
        """Until when."""
        self._penalties: dict[Source, Penalty] = {}

    def count(self, source: Source, size: int) -> bool:
        """One message of that many bytes. True when with it its source becomes suppressed."""
        now = self._clock()
        if now >= self._ends:
            self._counts.clear()
            self._ends = now + 1
        count = self._counts.setdefault(source, [0, 0])
        count[0] += 1
        count[1] += size
        within = count[0] <= self._limit.messages and count[1] <= self._limit.bytes
        if within or source in self.suppressed:
            return False
        shortest, longest = SUPPRESS_SECONDS
        before = self._penalties.get(source)
        seconds = min(max(2 * before.seconds, shortest), longest) if before else shortest
        self.suppressed[source] = now + seconds
        self._penalties[source] = Penalty(seconds, now + 3 * seconds)
        return True

    def released(self) -> list[Source]:
        """The sources whose suppression is over."""
        now = self._clock()
        sources = [source for source, until in self.suppressed.items() if until <= now]
        for source in sources:
            del self.suppressed[source]
            self._counts.pop(source, None)
        self._penalties = {
            source: penalty
            for source, penalty in self._penalties.items()
            if penalty.until > now or source in self.suppressed
        }
        return sources

    def active(self, kind: str) -> bool:
        """Whether any topic of that kind is suppressed, or was until lately."""
        return any(source.kind == kind for source in self._penalties)

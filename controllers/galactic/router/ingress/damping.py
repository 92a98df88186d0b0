"""Who says so much that listening to it costs the others: put aside for a while. No I/O.

A node's share (``limits``) decides how often it has its turn; what it says beyond was read already. Everything comes to
the router over one connection, in order, so what one node says too much delays what the others say. Therefore a node
that exceeds a limit well above its share is not listened to on that topic any more, for 2 s at first and twice as long
each time that it does it again soon after. What it says meanwhile is retained by the broker: nothing is lost.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from galactic.router.rib.path import NodeRef

HOLD_SECONDS: Final = (2.0, 64.0)


class Limit(NamedTuple):
    """What a node may say on one topic in one second before it is put aside."""

    messages: int = 250
    bytes: int = 8 * 1024 * 1024


class Source(NamedTuple):
    """One topic of one node; ``kind`` is its last level."""

    origin: NodeRef
    kind: str


class FloodDamping:
    """Counts what is heard, by source. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, limit: Limit = Limit()) -> None:  # noqa: B008
        self._clock, self._limit = clock, limit
        self._counts: dict[Source, list[int]] = {}
        self._ends = 0.0
        self.aside: dict[Source, float] = {}
        """Who is not listened to, until when."""
        self._suspect: dict[
            Source, tuple[float, float]
        ] = {}  # who was: for how long, and until when that counts

    def said(self, source: Source, size: int) -> bool:
        """One message of that many bytes. True when with it its source is put aside."""
        now = self._clock()
        if now >= self._ends:
            self._counts.clear()
            self._ends = now + 1
        count = self._counts.setdefault(source, [0, 0])
        count[0] += 1
        count[1] += size
        if (count[0] <= self._limit.messages and count[1] <= self._limit.bytes) or source in self.aside:
            return False
        shortest, longest = HOLD_SECONDS
        before, _ = self._suspect.get(source, (0.0, 0.0))
        hold = min(max(2 * before, shortest), longest)
        self.aside[source] = now + hold
        self._suspect[source] = hold, now + 3 * hold
        return True

    def over(self) -> list[Source]:
        """Those to be listened to again."""
        now = self._clock()
        found = [source for source, until in self.aside.items() if until <= now]
        for source in found:
            del self.aside[source]
            self._counts.pop(source, None)
        self._suspect = {
            source: held for source, held in self._suspect.items() if held[1] > now or source in self.aside
        }
        return found

    def watched(self, kind: str) -> bool:
        """Whether anybody's topic of that kind is aside, or was until lately."""
        return any(source.kind == kind for source in self._suspect)

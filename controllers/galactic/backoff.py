"""Pauses between attempts: each is twice the one before, up to a bound, until an attempt succeeds."""

import random
from typing import Final

SPREAD: Final = 0.5
"""Share by which a pause differs at random, so that clients that failed together do not come back together."""


class Backoff:
    """The pauses, in seconds, of one loop that tries again."""

    def __init__(self, shortest: float, longest: float, *, spread: float = SPREAD) -> None:
        self._shortest, self._longest, self._spread = shortest, longest, spread
        self._failures = 0

    def pause(self) -> float:
        """How long to wait after one more failure: within ``spread`` of ``shortest``, of twice that, and so on."""
        seconds = min(self._shortest * 2.0 ** min(self._failures, 32), self._longest)
        self._failures += 1
        return seconds * random.uniform(1 - self._spread, 1 + self._spread)

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self._failures = 0

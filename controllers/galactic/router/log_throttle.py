"""What is said once in a while, however often there is reason for it."""

import time
from collections.abc import Callable, Hashable
from typing import Final

SECONDS: Final = 60.0
MOST: Final = 1000
"""Different things that are remembered. Who makes up more makes some be said again."""


class LogThrottle:
    """``due`` for anything that can be a key. ``clock`` in seconds."""

    def __init__(
        self, seconds: float = SECONDS, *, most: int = MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._said: dict[Hashable, tuple[float, int]] = {}  # when, and how often it was not said since

    def due(self, key: Hashable) -> int:
        """How often it happened since it was last said, this time included; 0: it is not to be said now."""
        now = self._clock()
        at, silent = self._said.get(key, (now - self._seconds, 0))
        if now - at < self._seconds:
            self._said[key] = at, silent + 1
            return 0
        self._said.pop(key, None)
        if len(self._said) >= self._most:
            del self._said[next(iter(self._said))]  # the one that was said longest ago
        self._said[key] = now, 0
        return silent + 1

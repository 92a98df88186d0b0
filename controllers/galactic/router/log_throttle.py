"""Log lines that are written once in a while, however often there is reason for them."""

import time
from collections.abc import Callable, Hashable
from typing import Final

SECONDS: Final = 60.0
MOST: Final = 1000
"""Keys that are remembered. More of them make some lines be written again."""


class LogThrottle:
    """One line for each key in ``seconds``."""

    def __init__(
        self, seconds: float = SECONDS, *, most: int = MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._logged: dict[Hashable, tuple[float, int]] = {}  # when, and how often it was not logged since

    def count(self, key: Hashable) -> int:
        """How often it happened since it was logged last, this time included; 0: it is not to be logged now."""
        now = self._clock()
        at, unlogged = self._logged.get(key, (now - self._seconds, 0))
        if now - at < self._seconds:
            self._logged[key] = at, unlogged + 1
            return 0
        self._logged.pop(key, None)
        if len(self._logged) >= self._most:
            del self._logged[next(iter(self._logged))]  # the one that was logged longest ago
        self._logged[key] = now, 0
        return unlogged + 1

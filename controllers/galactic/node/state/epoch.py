"""The hybrid logical clock that epochs and sequences are taken from (docs/architecture.md, "Messages").

After Kulkarni et al., "Logical Physical Clocks" (2014), folded into one number: nanoseconds since 1970, or one more
than the highest number ever seen where that is later. So a new number is the highest, although the clock was set back,
or a dead node's clock ran ahead.
"""

import time
from collections.abc import Callable
from typing import Final

HIGHEST: Final = (1 << 63) - 1
"""The API server keeps int64."""


class Clock:
    """Numbers, each greater than all before it and than all that it observed."""

    def __init__(self, now: Callable[[], int] = time.time_ns, last: int = 0) -> None:
        self._now = now
        self.last = last

    def take(self, *seen: int) -> int:
        """The next number: ``max(now, last + 1, highest of seen + 1)``, at most ``HIGHEST``."""
        self.last = min(max(self._now(), self.last + 1, *(number + 1 for number in seen)), HIGHEST)
        return self.last

    def observe(self, number: int) -> None:
        """Numbers that follow are greater than ``number``."""
        self.last = max(self.last, min(number, HIGHEST))

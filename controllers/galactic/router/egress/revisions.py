"""Numbers that follow the wall clock in ms: a table's revisions and a leader's terms.

Each is at least the one before plus 1, whoever said that. So what is retained must be believed only as far as a clock
can be wrong: otherwise one message could move the numbers to the end of their range, where nothing comes after.
"""

import time
from typing import Final

AHEAD: Final = 366 * 24 * 3600 * 1000
"""How far ahead of our own clock a number is believed: a year in ms, which is wronger than clocks are by accident."""


def milliseconds() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def plausible(number: int) -> bool:
    """Whether some router may have said that by now."""
    return 0 <= number <= milliseconds() + AHEAD

"""Numbers that follow the wall clock in ms: a table's revisions and a leader's terms.

Each is at least the one before plus 1, whichever router wrote that. So a retained number is accepted only as far ahead
as a clock can be wrong: otherwise one message could move the numbers to the end of their range.
"""

import time
from typing import Final

AHEAD: Final = 366 * 24 * 3600 * 1000
"""How far ahead of the router's clock a number is accepted: a year in ms, more than clocks are wrong by accident."""


def milliseconds() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def plausible(number: int) -> bool:
    """Whether some router may have written that by now."""
    return 0 <= number <= milliseconds() + AHEAD

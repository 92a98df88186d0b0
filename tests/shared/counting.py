"""The cost of work in calls, where a measured time would include the machine's other work."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """The number of calls within, by kind: Python or C functions."""
    calls = Counter[str]()
    before = sys.getprofile()
    sys.setprofile(
        lambda _frame, event, _what: calls.update((event,)) if event in ("call", "c_call") else None
    )
    try:
        yield calls
    finally:
        sys.setprofile(before)

"""What work costs, where time would be measured with whatever else the machine does."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """What is called within, by the kind of the call."""
    calls = Counter[str]()
    before = sys.getprofile()
    sys.setprofile(
        lambda _frame, event, _what: calls.update((event,)) if event in ("call", "c_call") else None
    )
    try:
        yield calls
    finally:
        sys.setprofile(before)

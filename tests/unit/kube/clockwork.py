"""An event loop with a time of its own, which passes when there is nothing left to do, and then at once.

What is due in ten seconds is due when all that can be done before is done, however long that took: a test on it costs
no waiting, and a machine that stands still in the middle of it changes nothing. For tests that ask nobody outside of
the loop: no other process, socket or thread.
"""

import asyncio
import selectors


class Clockwork(asyncio.SelectorEventLoop):
    """``time`` is seconds since some moment, as with any loop."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.moment

    def stand_still(self, seconds: float) -> None:
        """As if the process had been held up for so long, just now."""
        self._clock.moment += seconds


class _Clock(selectors.DefaultSelector):
    """Whoever would wait for an event lets the time pass instead."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits, and for nothing that could come")
        self.moment += max(0.0, timeout)
        return super().select(0)

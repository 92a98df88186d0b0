"""An event loop with a time of its own, which passes when there is nothing left to do, and then at once.

What is due in ten seconds is due when all that can be done before is done, however long that took: a test on it costs
no waiting, and a machine that stands still in the middle of it changes nothing. For tests that ask nobody outside of
the loop: no other process, socket or thread.
"""

import asyncio
import selectors


class Clockwork(asyncio.SelectorEventLoop):
    """``time`` is seconds since some moment, as with any loop. ``turn``: what each turn takes of it, or all that is
    begun is done before anything else falls due.
    """

    def __init__(self, turn: float = 0.0) -> None:
        self._clock = _Clock(turn)
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.moment

    def stand_still(self, seconds: float) -> None:
        """As if the process had been held up for so long, just now."""
        self._clock.moment += seconds


class _Clock(selectors.DefaultSelector):
    """Whoever would wait for an event lets the time pass instead."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self._turn = turn
        self.moment = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits, and for nothing that could come")
        self.moment += max(self._turn, timeout)
        return super().select(0)

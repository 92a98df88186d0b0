"""An event loop with a clock of its own, which advances only when no task can run, and then at once.

A timer of ten seconds fires when all other work is done, however long that took: a test costs no waiting, and a machine
that pauses in the middle changes nothing. For tests without a process, socket or thread outside of the loop.
"""

import asyncio
import selectors


class Clockwork(asyncio.SelectorEventLoop):
    """``time`` is in seconds since some moment, as with any loop. ``turn``: seconds that each turn of the loop takes;
    with 0 all runnable work is done before the next timer.
    """

    def __init__(self, turn: float = 0.0) -> None:
        self._clock = _Clock(turn)
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.moment

    def stand_still(self, seconds: float) -> None:
        """As if the process had been suspended for that time."""
        self._clock.moment += seconds


class SetClock:
    """Seconds that the test sets."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class _Clock(selectors.DefaultSelector):
    """Advances the clock instead of waiting for an event."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self._turn = turn
        self.moment = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("every task waits, and no timer is set")
        self.moment += max(self._turn, timeout)
        return super().select(0)

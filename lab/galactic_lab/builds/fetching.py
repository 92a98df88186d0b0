"""Commands that fetch from a mirror, run again when they fail: a mirror may be away for a moment."""

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

from galactic.backoff import Backoff

TRIES: Final = 3
PAUSE_SECONDS: Final = (10.0, 60.0)
"""The first pause, and the longest."""


def pauses() -> Iterator[float]:
    """The seconds between one try and the next, ``TRIES`` - 1 of them."""
    backoff = Backoff(*PAUSE_SECONDS)
    for _ in range(TRIES - 1):
        yield backoff.pause()


def fetched(run: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """The first run with exit code 0, else the last."""
    for seconds in pauses():
        if (done := run()).returncode == 0:
            return done
        time.sleep(seconds)
    return run()

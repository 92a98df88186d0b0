"""Processes that a lab left behind: found by namespace, and ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

NETNS: Final = Path("/run/netns")
TERM_SECONDS: Final = 1.5
KILL_SECONDS: Final = 60.0


def inside(namespace: str) -> set[int]:
    """Processes in a named network namespace."""
    if not (NETNS / namespace).exists():
        return set()
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return {int(word) for word in done.stdout.split()} - {os.getpid()}


def end(find: Callable[[], set[int]]) -> None:
    """Ends the processes that ``find`` returns, until it returns none: SIGTERM first, then SIGKILL."""
    for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        deadline, signalled = time.monotonic() + seconds, set[int]()
        while (pids := find()) and time.monotonic() < deadline:
            for pid in pids - signalled:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= pids
            time.sleep(0.05)

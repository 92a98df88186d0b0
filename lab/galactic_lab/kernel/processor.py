"""One processor for a User Mode Linux guest: ``python -m galactic_lab.kernel.processor LINUX argument…``.

The guest's kernel and the process that runs in it are two processes of this machine that wait for each other at every
system call and page fault. Where each has a processor of its own, one has to be woken for each of these turns, which on
a virtual machine takes longer than the turn: on one processor the same guest gets through its work in half the time.

A guest that is traced (one without seccomp mode, before Linux 7) sleeps at each of these turns, and the scheduler lets
other processes go first each time: with a real-time priority it takes a third of the time on a quiet machine, a
fifth on a busy one.
"""

import contextlib
import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from galactic_lab.builds import cache

LOCK: Final = "processors.lock"
GUEST: Final = "linux"
"""The file name of a guest's kernel."""


def guests() -> Iterator[set[int]]:
    """The processors that each guest of this machine may run on."""
    seen = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "exe").readlink().name.removesuffix(" (deleted)") != GUEST:
                continue
            command = (folder / "cmdline").read_bytes()
            allowed = os.sched_getaffinity(int(folder.name))
        except OSError:
            continue
        if command not in seen:  # a traced guest has a process of this machine for each of its processes
            seen.add(command)
            yield allowed


def least_pinned() -> int:
    """The processor, of those that this process may run on, with the fewest guests pinned to it."""
    alone = Counter(processor for allowed in guests() if len(allowed) == 1 for processor in allowed)
    return min(sorted(os.sched_getaffinity(0)), key=lambda processor: alone[processor])


def pin() -> None:
    """Pins this process, which becomes a guest, to one processor. Other callers wait until it has become a guest."""
    cache.root().mkdir(parents=True, exist_ok=True)
    lock = os.open(cache.root() / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # until exec closes it
    os.sched_setaffinity(0, {least_pinned()})


def hurry() -> None:
    """Gives this process, which becomes a guest, the lowest real-time priority; none where the machine refuses it."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))


def main() -> None:
    pin()
    hurry()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()

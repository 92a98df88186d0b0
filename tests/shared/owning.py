"""Whose a lab is: tests that make one keep a file in it locked while they live."""

import fcntl
from contextlib import suppress

from galactic_lab.cluster import Lab


def owned(lab: Lab, name: str) -> bool | None:
    """Whether the tests that made it are still there; None: it was not made by tests that name their file so."""
    try:
        owner = (lab.state.root / name).open()
    except FileNotFoundError:
        return None
    with owner, suppress(BlockingIOError):
        fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    return True

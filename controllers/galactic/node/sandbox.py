"""Whether a path leads to a pod's network namespace that is there."""

import fcntl
import os
from pathlib import Path
from typing import Final

_NS_GET_NSTYPE: Final = 0xB703
_CLONE_NEWNET: Final = 0x40000000


def alive(path: str) -> bool:
    """Whether a network namespace other than this process' own is at ``path``.

    The file that a namespace was mounted on may outlive the mount; then it is an empty file, and nobody's namespace.
    """
    try:
        own, found = Path("/proc/self/ns/net").stat(), Path(path).stat()
        if found.st_dev != own.st_dev or found.st_ino == own.st_ino:
            return False  # what is no namespace is not even opened
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return fcntl.ioctl(there, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False
    finally:
        os.close(there)

"""Starts the guest in place of this process: ``guest.py NAMESPACE LINUX argument…``.

A killed guest leaves helper processes, stopped or waiting, that still hold its tap. They are ended first: all processes
of the same kernel file in the lab's network namespace, since a lab has one guest.
"""

import os
import sys
from pathlib import Path

from galactic_lab.kernel import leftovers, processor


def left(namespace: str, linux: Path) -> set[int]:
    """Processes in ``namespace`` that run ``linux``."""
    found = set()
    for pid in leftovers.inside(namespace):
        try:
            program = str(Path(f"/proc/{pid}/exe").readlink())
        except OSError:
            continue
        if program.removesuffix(" (deleted)") == str(linux):
            found.add(pid)
    return found


def main() -> None:
    namespace, linux, *arguments = sys.argv[1:]
    leftovers.end(lambda: left(namespace, Path(linux).resolve()))
    processor.pin()
    os.execv(linux, [linux, *arguments])  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    main()

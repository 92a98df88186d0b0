"""Sysctls of a network namespace, by their path below /proc/sys."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from galactic.linux.namespace import Namespace

ROOT: Final = Path("/proc/sys")


def values(namespace: Namespace, paths: Iterable[str]) -> dict[str, str]:
    """The values of those paths that exist."""

    def read() -> dict[str, str]:
        present = {}
        for path in paths:
            try:
                present[path] = (ROOT / path).read_text().strip()
            except OSError:  # no such device, no such module, or write-only
                continue
        return present

    return namespace.run(read)


def write(namespace: Namespace, wanted: Mapping[str, str]) -> dict[str, OSError]:
    """Sets what it can. Returns the failures, with FileNotFoundError if the device or module does not exist yet.

    A correct value is not written: a read-only /proc/sys with the right values is enough.
    """

    def set_all() -> dict[str, OSError]:
        failed = {}
        for path, value in wanted.items():
            file = ROOT / path
            try:
                if file.read_text().strip() != value:
                    file.write_text(value)
            except OSError as error:
                failed[path] = error
        return failed

    return namespace.run(set_all) if wanted else {}


def writable(path: str) -> bool:
    """Whether this process may write that sysctl in its own namespace."""
    return os.access(ROOT / path, os.W_OK)

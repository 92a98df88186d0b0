"""The guest kernels by name, each with its version in Debian's archive.

Labs boot one of them (``State.linux``), by default the newest; tests/kernel boots all of them. The cache records the
chosen versions: labs and tests that run after `galactic lab build` use the same kernels.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from galactic.errors import Unreachable
from galactic_lab.builds import cache, packages, suites
from galactic_lab.builds.build import BuildFailed
from galactic_lab.builds.build_linux import Source, build
from galactic_lab.state import LINUX

SETTING: Final = "GALACTIC_LAB_LINUX"
"""The variable with the name of the kernel that labs boot."""
RELEASE: Final = "linux-source"
"""The package that depends on the source of the kernel that a Debian release has."""
DAY_SECONDS: Final = 86400
"""A recorded choice is renewed after this time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The source of a guest kernel: one version of a package, or (None) the newest that apt offers."""

    package: str
    version: str | None = None
    suite: str = ""
    """The suite of Debian's archive, where it is not the machine's; the source is then a dependency of ``package``."""

    def __str__(self) -> str:
        return f"{self.package}={self.version or 'newest'}" + (f" of {self.suite}" if self.suite else "")


PINNED: Final = "pinned"
KERNELS: Final = {
    PINNED: Wanted("linux-source-6.1", "6.1.176-1"),
    "newest": Wanted("linux-source-6.1"),
    LINUX: Wanted("linux-source", suite="trixie-backports"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A recorded choice: the source, the entry it was chosen for, and the time in seconds since 1970."""

    wanted: str
    source: str
    time: float


def select(wanted: Wanted, served: Callable[[str], Sequence[str]], release: str | None) -> Source | None:
    """The source to build from; ``served`` returns the versions of a package that apt offers, newest first.

    Where apt lacks the pinned version, the oldest; where it lacks the package, that of the Debian ``release``. None if
    apt offers neither package.
    """
    for package in (wanted.package, release):
        if package and (versions := served(package)):
            if wanted.version is None:
                return Source(package, versions[0])
            exact = package == wanted.package and wanted.version in versions
            return Source(package, wanted.version if exact else versions[-1])
    return None


def known(name: str) -> Source | None:
    """The source of that kernel without asking apt: the pinned one, or the last choice."""
    wanted = KERNELS[name]
    exact = Source(wanted.package, wanted.version) if wanted.version else None
    if exact and _at_hand(exact):
        return exact
    choice = _record().get(name)
    return Source.parse(choice.source) if choice and choice.wanted == str(wanted) else exact


def settled(name: str) -> Source | None:
    """The source, if the pinned version is built or installed, or a choice of the last day is built; else None."""
    source = known(name)
    if source is None:
        return None
    if str(source) == str(KERNELS[name]):
        return source if _at_hand(source) else None
    fresh = time.time() - _record()[name].time < DAY_SECONDS
    return source if fresh and build(source).built() else None


def resolve(name: str) -> Source:
    """The source of that kernel, chosen and recorded unless it is settled. Raises BuildFailed if apt offers none."""
    if source := settled(name):
        return source
    suite = KERNELS[name].suite
    source = (_backport(suite) if suite else None) or _offered(KERNELS[PINNED if suite else name])
    if source is None:
        source = known(name)
        if source is None or not build(source).built():
            raise BuildFailed(f"apt offers neither {KERNELS[name].package} nor {RELEASE}")
        return source
    _write(_record() | {name: Choice(str(KERNELS[name]), str(source), time.time())})
    return source


def _offered(wanted: Wanted) -> Source | None:
    """The source that the machine's own apt sources offer."""
    packages.update()
    release = next((one for one in packages.depends(RELEASE) if one.startswith(f"{RELEASE}-")), None)
    return select(wanted, packages.served, release)


def _backport(suite: str) -> Source | None:
    """The newest source of another suite; None where it cannot be reached."""
    try:
        with suites.private(suite) as options:
            for package in packages.depends(RELEASE, options):
                if package.startswith(f"{RELEASE}-") and (versions := packages.served(package, options)):
                    return Source(package, versions[0], suite)
    except Unreachable:
        return None
    return None


def remark(name: str, source: Source) -> str:
    """The reason for a source other than ``KERNELS`` names; empty if it is the same."""
    wanted = KERNELS[name]
    if wanted.suite:
        why = f"apt does not reach {wanted.suite}: {source} is taken, in which processes start more slowly"
        return "" if source.suite else why
    if source.package == wanted.package and wanted.version in {None, source.version}:
        return ""
    which = "newest" if wanted.version is None else "oldest"
    return f"apt does not offer {wanted}: {source} is taken, the {which} of its package"


def _at_hand(source: Source) -> bool:
    """Whether the source is built or installed: apt is then not asked."""
    return build(source).built() or packages.version(source.package) == source.version


def _path() -> Path:
    return cache.root() / "linux.json"


def _record() -> dict[str, Choice]:
    try:
        return {name: Choice(**kept) for name, kept in json.loads(_path().read_text()).items()}
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _write(record: dict[str, Choice]) -> None:
    cache.root().mkdir(parents=True, exist_ok=True)
    partial = _path().with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({name: asdict(choice) for name, choice in record.items()}, indent=2) + "\n")
    partial.rename(_path())

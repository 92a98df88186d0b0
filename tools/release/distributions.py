"""Libraries that the image, development and the lab require: by pyproject.toml, and as installed here."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = "galactic"
IMAGE: Final = ("cli",)
"""The extras of the image, beside the dependencies; controllers/Dockerfile installs them."""
LAB: Final = "lab"
"""The folder of the distribution galactic-lab. Among extras it stands for that distribution's requirements."""
DEVELOPMENT: Final = ("dev", LAB)
"""The extras that `make venv` installs."""


def normal(name: str) -> str:
    """The normal form of a library's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project(root: Path = ROOT) -> dict[str, Any]:
    """The table ``project`` of the pyproject.toml in ``root``."""
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return found


def asked(extras: Iterable[str], root: Path = ROOT) -> Iterator[Requirement]:
    """The requirements of the project with those extras, and with the project's extras that these name."""
    table = project(root)
    required = table["optional-dependencies"] | {
        "": table["dependencies"],
        LAB: project(root / LAB)["dependencies"],
    }
    waiting, seen = ["", *extras], set[str]()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in required[extra]:
            requirement = Requirement(line)
            if normal(requirement.name) == PROJECT:
                waiting += requirement.extras
            else:
                yield requirement


def closure(extras: Iterable[str] = ()) -> dict[str, Distribution]:
    """All required libraries, by normal name. Raises SystemExit for one that is not installed."""
    found: dict[str, Distribution] = {}
    waiting = list(asked(extras))
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        wanted = frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            one = found[name] = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(
                f"{requirement} is required and not installed; `touch pyproject.toml && make venv`"
            ) from None
        for line in one.requires or ():
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                waiting.append(further)
    return found


def constraints(root: Path = ROOT) -> dict[str, str]:
    """Normal name → version, of constraints.txt. Raises SystemExit for a line that pins nothing."""
    found = {}
    for line in (root / "constraints.txt").read_text().splitlines():
        name, pinned, version = line.partition("==")
        if not pinned or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not re.fullmatch(r"[\w.!+]+", version):
            raise SystemExit(f"constraints.txt: {line!r} is not NAME==VERSION")
        found[normal(name)] = version
    return found

"""Numbers of marks by package, in ``counts.json``: they may fall and never rise."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prose.marks import Mark, of_file

ROOT: Final = Path(__file__).resolve().parents[2]
COUNTS: Final = Path(__file__).with_name("counts.json")
CODE: Final = ("bench", "controllers", "lab", "src", "tests", "tools")
PAGES: Final = ("*.md", "docs/**/*.md")
LEFT_OUT: Final = ("CHANGELOG.md", "docs/licences.md")
Counts = dict[str, dict[str, int]]
"""Package → kind of mark → how many."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A mark in a file; ``path`` from the repository's root."""

    path: str
    mark: Mark

    @property
    def package(self) -> str:
        """The file's folder, without folders of its inside: ``controllers/galactic/router``, ``docs``."""
        depth = 3 if self.path.startswith("controllers/") else 2
        return "/".join(Path(self.path).parent.parts[:depth]) or "."

    @property
    def kind(self) -> str:
        """All identifiers are of one kind."""
        return "identifier" if self.mark.word.startswith("`") else self.mark.word

    def __str__(self) -> str:
        return f"{self.path}:{self.mark.line}: {self.mark.word}"


def places(root: Path = ROOT) -> Iterator[Place]:
    """All marks in the repository."""
    files = [path for folder in CODE for path in (root / folder).rglob("*.py")]
    files += [path for pattern in PAGES for path in root.glob(pattern)]
    for path in sorted(files):
        name = path.relative_to(root).as_posix()
        if name not in LEFT_OUT:
            yield from (Place(name, mark) for mark in of_file(path))


def counted(found: list[Place]) -> Counts:
    """Their numbers, sorted."""
    counter = Counter((place.package, place.kind) for place in found)
    counts: Counts = {}
    for (package, kind), number in sorted(counter.items()):
        counts.setdefault(package, {})[kind] = number
    return counts


def risen(found: list[Place], allowed: Counts) -> list[Place]:
    """The marks of each package and kind that has more than allowed."""
    counts = counted(found)
    return [
        place
        for place in found
        if counts[place.package][place.kind] > allowed.get(place.package, {}).get(place.kind, 0)
    ]


def totals(counts: Counts) -> Counter[str]:
    """The numbers by kind, of all packages."""
    return sum((Counter(kinds) for kinds in counts.values()), Counter[str]())


def read(path: Path = COUNTS) -> Counts:
    """The committed numbers."""
    counts: Counts = json.loads(path.read_text())
    return counts

"""Every attack in the tables of docs/security.md names its story, and every story that is named exists."""

import re
from functools import cache
from pathlib import Path

import pytest
from blocks import DOCS, ROOT

PAGES = (DOCS / "security.md", DOCS / "operations" / "threats.md")
FILE = re.compile(r"`(tests/[\w/]+\.py)`")
FUNCTION = re.compile(r"`(test_\w+)`")


def rows(page: Path, heading: str = "") -> list[str]:
    """The rows of the page's tables, of those alone whose heading line is that."""
    found: list[str] = []
    wanted = False
    for before, line in zip(
        ["", *page.read_text().splitlines()], page.read_text().splitlines(), strict=False
    ):
        if not line.startswith("|"):
            continue
        if not before.startswith("|"):
            wanted = heading in line
        elif wanted and not line.startswith("|-"):
            found.append(line)
    return found


@cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("row", rows(PAGES[0], "| attack | stopped by | story |"))
def test_each_attack_has_a_story(row: str) -> None:
    assert FILE.search(row.split("|")[3]), "the last column names no file of tests"


def test_there_are_attacks() -> None:
    assert len(rows(PAGES[0], "| attack | stopped by | story |")) > 20
    assert not [row for row in rows(PAGES[0], "| attack |") if row.count("|") < 4]


@pytest.mark.parametrize(
    "row", [row for page in PAGES for row in rows(page) if FILE.search(row) or FUNCTION.search(row)]
)
def test_each_story_that_is_named_exists(row: str) -> None:
    files = [ROOT / path for path in FILE.findall(row)]
    assert not [path for path in files if not path.is_file()]
    known = {name for path in files or (ROOT / "tests").rglob("test_*.py") for name in functions(path)}
    assert set(FUNCTION.findall(row)) <= known

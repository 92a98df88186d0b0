"""The column "in the code" of docs/glossary.md: every module, class and function in it exists."""

import re
from pathlib import Path

import pytest
from blocks import DOCS, ROOT

SOURCES = ROOT / "controllers" / "galactic"
PAGE = (DOCS / "glossary.md").read_text()
ROWS = [line.split("|")[1:-1] for line in PAGE.split("\n") if line.startswith("| ") and line.count("|") == 4]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", row[2])})


@pytest.mark.parametrize("name", NAMED)
def test_it_exists(name: str) -> None:
    """A module or package, else a class or function of one."""
    path = SOURCES / Path(*name.split("."))
    if path.with_suffix(".py").exists() or path.is_dir():
        return
    module = path.parent.with_suffix(".py")
    assert module.exists()
    assert re.search(rf"^(class|def) {path.name}\b", module.read_text(), re.MULTILINE)


def test_there_are_names() -> None:
    assert len(NAMED) > 25

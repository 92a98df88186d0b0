"""Workers begin all stories before what comes after them: the labs of the stories end there."""

import re
from pathlib import Path

import pytest
from pieces import APART, INSTALLED, LONG, SLOW, piece, rank

TESTS = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(TESTS.parent)) for path in TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("file", [file for file in FILES if "/e2e/" in file])
def test_stories_come_early(file: str) -> None:
    assert rank(file) < len(LONG)


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(SLOW)])
def test_what_has_no_lab_comes_after_all_stories(file: str) -> None:
    assert rank(file) == len(LONG)


@pytest.mark.parametrize("name", LONG)
def test_each_name_in_the_order_is_of_some_file(name: str) -> None:
    assert any(name in file for file in FILES if file.startswith(SLOW))


@pytest.mark.parametrize("name", APART)
def test_what_needs_no_stories_lab_comes_before_all_stories(name: str) -> None:
    stories = [file for file in FILES if "/e2e/" in file and rank(file) >= len(APART)]
    assert max(rank(file) for file in FILES if name in file) < min(map(rank, stories))


def needs_a_cluster(file: str) -> bool:
    """The fixture ``lab`` of tests/chart is a control plane."""
    return re.search(r"\blab: Lab\b", (TESTS.parent / file).read_text()) is not None


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("tests/chart/")])
def test_files_that_install_the_chart_share_a_cluster_and_a_worker(file: str) -> None:
    assert needs_a_cluster(file) == (file in INSTALLED)
    assert piece(f"{file}::test_x") == ("+".join(INSTALLED) if file in INSTALLED else file)


@pytest.mark.parametrize("file", FILES)
def test_a_piece_begins_as_early_as_the_first_of_its_files(file: str) -> None:
    assert rank(piece(f"{file}::test_x")) <= rank(file)

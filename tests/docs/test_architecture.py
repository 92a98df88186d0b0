"""The map in docs/architecture.md: every module and room that it names exists, and it names every room."""

import re

from blocks import DOCS, ROOT

SOURCES = ROOT / "controllers" / "galactic"
LAB = ROOT / "lab"
PAGE = (DOCS / "architecture.md").read_text()
NAMED = frozenset(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", PAGE))


def test_the_named_modules_and_rooms_exist() -> None:
    assert len(NAMED) > 60
    assert not sorted(name for name in NAMED if not any((root / name).exists() for root in (SOURCES, ROOT)))


def test_every_room_is_named() -> None:
    """Folders deeper inside are named by their package's docstring."""
    packages = (*SOURCES.glob("*/__init__.py"), *SOURCES.glob("*/*/__init__.py"))
    rooms = {f"{path.parent.relative_to(SOURCES)}/" for path in packages}
    rooms |= {f"{path.parent.relative_to(ROOT)}/" for path in LAB.rglob("__init__.py")}
    assert len(rooms) > 20
    assert not sorted(rooms - NAMED)


def test_each_way_has_at_most_twelve_steps() -> None:
    ways = re.findall(r"^## The way of .+?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert len(ways) == 3
    for way in ways:
        assert 8 <= len(re.findall(r"^\d+\. ", way, re.MULTILINE)) <= 12

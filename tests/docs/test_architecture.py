"""The map in docs/architecture.md: every module and room that it names exists, and it names every room."""

import re
from pathlib import Path

from blocks import DOCS, ROOT

SOURCES = ROOT / "controllers" / "galactic"
PAGE = (DOCS / "architecture.md").read_text()
NAMED = frozenset(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", PAGE))
PARTS = frozenset({"images/", "runtime/", "versions/"})
"""Rooms inside a room of the map: the packages' own docstrings name them."""


def _is_there(name: str) -> bool:
    return any((root / name).exists() for root in (SOURCES, ROOT))


def test_what_it_names_exists() -> None:
    assert len(NAMED) > 60
    assert not sorted(name for name in NAMED if not _is_there(name))


def test_every_room_is_on_it() -> None:
    rooms = {f"{path.parent.relative_to(SOURCES)}/" for path in SOURCES.rglob("__init__.py")} - {"./"}
    rooms = {room for room in rooms if f"{Path(room).name}/" not in PARTS}
    assert len(rooms) > 15
    assert not sorted(room for room in rooms if room not in NAMED)


def test_each_way_has_at_most_twelve_steps() -> None:
    ways = re.findall(r"^## The way of .+?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert len(ways) == 3
    for way in ways:
        assert 8 <= len(re.findall(r"^\d+\. ", way, re.MULTILINE)) <= 12

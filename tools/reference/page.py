"""Markdown: tables and pages. All text that comes from code is escaped here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCES: Final = ROOT / "controllers" / "galactic"


def text(words: str) -> str:
    """Words in a cell of a table; text between backquotes stays literal."""
    parts = " ".join(words.split()).replace("|", "\\|").split("`")
    parts[::2] = [_escaped(part) for part in parts[::2]]
    return "`".join(parts)


def _escaped(words: str) -> str:
    for sign in "\\*[_":
        words = words.replace("\\|", "|").replace(sign, f"\\{sign}").replace("|", "\\|")
    return words.replace("<", "&lt;")


def code(literal: object) -> str:
    """A literal in a cell of a table; nothing for an empty one."""
    words = " ".join(str(literal).split()).replace("|", "\\|")
    return f"`` {words} ``" if "`" in words else f"`{words}`" if words else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def page(title: str, who: str, *parts: str, source: str) -> str:
    """A whole page, generated from ``source``."""
    note = f"<!-- Generated from {source} by `make generate`. Do not edit. -->\n"
    return "\n".join([f"{note}\n# {title}\n\n{who}\n", *(part.rstrip("\n") + "\n" for part in parts)])

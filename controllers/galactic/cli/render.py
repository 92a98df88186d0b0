"""Output of commands: tables for people, JSON and YAML for programs; colours only on a terminal."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer


class Output(StrEnum):
    """Output formats."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


Form = Annotated[Output, typer.Option("--output", "-o", help="Output format.")]
RED, GREEN, YELLOW, BOLD, DIM = "31", "32", "33", "1", "2"
_GAP: Final = "  "


def coloured() -> bool:
    """Whether standard output is a terminal that wants colours (https://no-color.org, CLICOLOR_FORCE)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("CLICOLOR_FORCE")) or (
        sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    )


def paint(text: str, *styles: str) -> str:
    """The text in these styles, if colours are on."""
    return f"\x1b[{';'.join(styles)}m{text}\x1b[0m" if styles and text and coloured() else text


def document(value: Any, form: Output) -> bool:
    """Prints ``value`` as JSON or YAML; False for the table formats."""
    if form is Output.JSON:
        print(json.dumps(value, indent=2))
    elif form is Output.YAML:
        import yaml  # noqa: PLC0415

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
    else:
        return False
    return True


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], marks: Iterable[Sequence[str]] = ()
) -> list[str]:
    """Lines of a table as in kubectl: never wrapped or cut, so that programs can search them.

    ``marks`` has the styles of each row.
    """
    cells = [list(header), *(list(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    styles = [(BOLD,), *marks]
    lines = []
    for number, row in enumerate(cells):
        line = _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        lines.append(paint(line, *styles[number]) if number < len(styles) else line)
    return lines


def show(lines: Iterable[str]) -> None:
    """Prints lines."""
    for line in lines:
        print(line)

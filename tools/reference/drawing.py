"""A small SVG writer: boxes, arrows and words on a light background, readable in dark themes too."""

from collections.abc import Sequence
from html import escape
from typing import Final

INK: Final = "#1f2937"
GREY: Final = "#6b7280"
BLUE: Final = "#2563eb"
GREEN: Final = "#15803d"
ORANGE: Final = "#b45309"
PALE: Final = {BLUE: "#dbeafe", GREEN: "#dcfce7", ORANGE: "#fef3c7", GREY: "#f3f4f6"}
SIZE: Final = 13
LINE: Final = 17


class Drawing:
    """Coordinates are pixels from the upper left corner. ``text`` at the end."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
                f'font-family="system-ui, sans-serif" font-size="{SIZE}">'
            ),
            f"<title>{escape(title)}</title>",
            (
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{GREY}"/></marker></defs>'
            ),
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, colour: str = GREY, *words: str) -> None:
        """A frame with words in its middle."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{PALE[colour]}" stroke="{colour}"/>'
        )
        top = y + height / 2 - (len(words) - 1) * LINE / 2 + SIZE * 0.35
        for number, line in enumerate(words):
            self.words(
                x + width / 2, top + number * LINE, line, middle=True, bold=number == 0 and len(words) > 1
            )

    def frame(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """A dashed frame around other shapes, with its title at the upper left."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none" stroke="{GREY}" '
            'stroke-dasharray="5 4"/>'
        )
        self.words(x + 10, y + 18, title, bold=True)

    def words(
        self, x: float, y: float, line: str, colour: str = INK, *, middle: bool = False, bold: bool = False
    ) -> None:
        anchor = ' text-anchor="middle"' if middle else ""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(f'<text x="{x:g}" y="{y:g}" fill="{colour}"{anchor}{weight}>{escape(line)}</text>')

    def arrow(self, points: Sequence[tuple[int, int]], colour: str = GREY, *, both: bool = False) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        start = ' marker-start="url(#tip)"' if both else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" '
            f'marker-end="url(#tip)"{start}/>'
        )

    def number(self, x: int, y: int, what: int) -> None:
        """A step's number in a disc."""
        self._parts.append(f'<circle cx="{x}" cy="{y}" r="10" fill="{INK}"/>')
        self.words(x, y + 4.5, str(what), "#ffffff", middle=True, bold=True)

    @property
    def text(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"

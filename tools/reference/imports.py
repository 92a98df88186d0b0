"""The pictures of the import graph: the rooms of each controller and what they import, drawn from the code itself."""

from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import Final

import grimp

from reference.drawing import BLUE, GREY, Drawing

CONTROLLERS: Final = ("router", "node", "operator", "webhook")
PER_LINE: Final = 7
CELL: Final = 136
BOX: Final = (124, 28)
FLOOR: Final = 74
MARGIN: Final = 20


@dataclass(frozen=True, slots=True)
class Rooms:
    """A package's direct children, modules and packages alike, with the imports between them."""

    package: str
    imports: dict[str, frozenset[str]]
    packages: frozenset[str]

    def floor(self, name: str) -> int:
        """0 for a child that imports no other one, else one above the highest that it imports."""
        return max((self.floor(other) + 1 for other in self.imports[name]), default=0)

    @property
    def floors(self) -> int:
        return 1 + max(map(self.floor, self.imports))

    @property
    def arrows(self) -> int:
        return sum(map(len, self.imports.values()))

    def direct(self, name: str) -> frozenset[str]:
        """Its imports, without those that follow from another one: the transitive reduction."""
        return self.imports[name] - {far for near in self.imports[name] for far in self._reachable(near)}

    def _reachable(self, name: str) -> frozenset[str]:
        return self.imports[name].union(*(self._reachable(other) for other in self.imports[name]))


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("galactic")


def rooms(package: str) -> Rooms:
    """Of ``galactic.PACKAGE``; ``__main__``, which is wiring only, is left out. Exits if they import each other."""
    graph, root = _graph(), f"galactic.{package}"
    children = {name for name in graph.find_children(root) if not name.endswith("__main__")}
    below = {name: {name} | graph.find_descendants(name) for name in children}
    inside = {module: name for name, modules in below.items() for module in modules}

    def imported(name: str) -> frozenset[str]:
        modules = {to for module in below[name] for to in graph.find_modules_directly_imported_by(module)}
        others = {inside[module] for module in modules if module in inside} - {name}
        return frozenset(other.rpartition(".")[2] for other in others)

    short = {name: name.rpartition(".")[2] for name in sorted(children)}
    packages = frozenset(short[name] for name in children if len(below[name]) > 1)
    imports = {short[name]: imported(name) for name in short}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        raise SystemExit(f"{root}: rooms import each other: {' ← '.join(error.args[1])}") from error
    return Rooms(package, imports, packages)


def drawn(graph: Rooms) -> str:
    """Floors from top to bottom; packages in colour. An arrow goes from the importing room to the imported one."""
    names = sorted(graph.imports, key=lambda name: (-graph.floor(name), name))
    lines: list[list[str]] = []
    for _, group in groupby(names, key=graph.floor):
        floor = list(group)
        lines += [floor[start : start + PER_LINE] for start in range(0, len(floor), PER_LINE)]
    width = 2 * MARGIN + CELL * max(map(len, lines))
    title = f"galactic.{graph.package}: {len(names)} rooms, {graph.arrows} imports, {graph.floors} floors"
    drawing = Drawing(max(width, 480), 50 + FLOOR * len(lines), title)
    drawing.words(MARGIN, 24, title, bold=True)
    places = {
        name: (max(width, 480) // 2 - CELL * len(line) // 2 + CELL * column, 44 + FLOOR * row)
        for row, line in enumerate(lines)
        for column, name in enumerate(line)
    }
    for name in names:
        x, y = places[name]
        for other in sorted(graph.direct(name)):
            to_x, to_y = places[other]
            drawing.arrow([(x + BOX[0] // 2, y + BOX[1]), (to_x + BOX[0] // 2, to_y)])
    for name in names:
        drawing.box(*places[name], *BOX, BLUE if name in graph.packages else GREY, name)
    return drawing.text


def pictures() -> dict[str, str]:
    return {f"imports-{name}.svg": drawn(rooms(name)) for name in CONTROLLERS}

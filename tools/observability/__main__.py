"""Writes the dashboards into charts/galactic/files/dashboards; with ``--check`` lists those that differ and exits 1."""

import sys
from pathlib import Path
from typing import Final

from observability.boards import BOARDS
from observability.grafana import text

FOLDER: Final = Path(__file__).resolve().parents[2] / "charts/galactic/files/dashboards"


def main(arguments: list[str]) -> int:
    made = {FOLDER / f"{board.uid.removeprefix('galactic-')}.json": text(board) for board in BOARDS}
    stale = [path for path, words in made.items() if not path.exists() or path.read_text() != words]
    gone = [path for path in FOLDER.glob("*.json") if path not in made]
    if "--check" in arguments:
        if stale or gone:
            sys.stderr.write(f"out of date: {', '.join(map(str, [*stale, *gone]))}; run `make generate`\n")
        return 1 if stale or gone else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(made[path])
    for path in gone:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

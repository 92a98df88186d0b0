"""Draws the dashboards with a lab's figures into docs/pictures: ``python -m observability.picture --name LAB``.

The lab has a Prometheus (``galactic lab up --prometheus``), and should have traffic and changes.
"""

import argparse
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from galactic.errors import GalacticError
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.prometheus import Api
from observability.asked import fill, values
from observability.boards import BOARDS
from observability.drawing import Shown, picture
from observability.panel import Board, Panel

PICTURES: Final = Path(__file__).resolve().parents[2] / "docs/pictures"
POINTS: Final = 150


def drawn(board: Board, api: Api, seconds: float, wished: Mapping[str, str] | None = None) -> str:
    """The board's picture of the last ``seconds``. Raises GalacticError, KeyError."""
    chosen = values(board, api, wished)
    until = time.time()
    shown = [_asked(panel, api, chosen, seconds) for panel in board.panels]
    visible = [chosen[variable.name] for variable in board.variables if not variable.hidden]
    heading = "".join(f"  ·  {value}" for value in visible)
    return picture(board, heading, shown, until - seconds, until)


def _asked(panel: Panel, api: Api, chosen: Mapping[str, str], seconds: float) -> list[Shown]:
    found = []
    for query in panel.queries:
        expression = fill(query.expression, chosen)
        series = (
            api.query(expression)
            if panel.kind == "stat"
            else api.query_range(expression, seconds, seconds / POINTS)
        )
        found += [Shown(_named(query.legend, one.labels), one.points) for one in series]
    return found


def _named(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m observability.picture", description=__doc__)
    parser.add_argument("--name", default="default", help="name of the lab (default: default)")
    parser.add_argument("--minutes", type=float, default=15.0, help="minutes to draw (default: 15)")
    parser.add_argument(
        "--out", type=Path, default=PICTURES, help="folder for the pictures (default: docs/pictures)"
    )
    asked = parser.parse_args(arguments)
    state = Lab(asked.name).state
    if not state.prometheus:
        sys.stderr.write(
            f"lab {asked.name!r} has no Prometheus: galactic lab up --name {asked.name} --prometheus\n"
        )
        return 1
    api = Api(state.prometheus_url)
    try:
        for board in BOARDS:
            path = asked.out / f"dashboard-{board.uid.removeprefix('galactic-')}.svg"
            path.write_text(drawn(board, api, asked.minutes * 60))
            sys.stdout.write(f"{path}\n")
    except (GalacticError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

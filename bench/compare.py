"""Two checkouts side by side: ``python bench/compare.py BEFORE AFTER [--rounds 5] [--only WORD]``.

Each round runs every measurement in BEFORE and in AFTER, and the next round in the other order, so a machine that is
slower for a while is slower for both. Each checkout runs its own benches with its own ``.venv`` (``make venv``). Prints
one table: medians, the median of the rounds' own ratios with the lowest and the highest, and the processor seconds of
the whole bench, all its processes together. On a busy machine wall times are not reliable: go by
processor seconds and memory. Needs root, as some of the benches do; takes three minutes a round on a quiet machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("galactic-operator", "galactic-webhook", "galactic-node", "galactic-router", "galactic")
NUMBER = r"([\d.,]+)"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number in what a bench prints: the pattern's group."""

    name: str
    unit: str
    pattern: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """A command below ``bench/``, and the figures that it prints."""

    command: str
    figures: tuple[Figure, ...]


def columns(*words: str) -> str:
    """A row of a table: those words, with a number where a word is ``#`` (the first is the group) or ``_``."""
    texts = {"#": NUMBER, "_": r"[\d.,]+"}
    return r"^\s*" + r"\s+".join(texts.get(word) or re.escape(word) for word in words)


BENCHES = (
    Bench(
        "node/routes.py 1 10000",
        (
            Figure("route writes", "/s", columns("10000", "#"), more_is_better=True),
            Figure("resync of 10,000 routes", "ms", columns("10000", "_", "_", "_", "#")),
            Figure(
                "a changed route, to the kernel",
                "µs",
                columns("10000", *"___", "_", "ms", "_", "ms", "_", "#"),
            ),
        ),
    ),
    Bench(
        "node/table.py 1 20000 0",
        (
            Figure("20,000 routes, broker → kernel", "s", columns("cold", "join", "#")),
            Figure("node's memory, a route", "bytes", columns("memory", "#")),
            Figure("a change, broker → kernel, p50", "ms", columns("a", "change,", "p50", "#")),
            Figure("a change, broker → kernel, p99", "ms", columns("a", "change,", "p99", "#")),
        ),
    ),
    Bench(
        "router/changes.py 1",
        (
            Figure("router's processor, a change", "µs", columns("100", "_", "#")),
            Figure("registration → change", "ms", columns("100", "_", "_", "µs", "_", "_", "µs", "_", "#")),
        ),
    ),
    Bench(
        "router/sync.py 1 20000",
        (
            Figure("router restarts with 20,000 routes", "s", columns("20000", "tuned", "_", "s", "_", "#")),
            Figure(
                "router's memory, an endpoint", "bytes", columns("20000", "tuned", *"_s_", "_", "s", "_", "#")
            ),
        ),
    ),
    Bench(
        "node/cni.py --repeats 15 --present 200 --parallel 50 --stand-in",
        (
            Figure("start of the CNI plugin", "ms", r"cold start: galactic " + NUMBER),
            Figure("ADD", "ms", r"whole ADD: galactic " + NUMBER),
            Figure("ADD, of ptp's", "", r"whole ADD(?:.*\n)+?\s+ratio " + NUMBER),
            Figure("ADD among 200 attachments", "ms", r"ADD among 200: many " + NUMBER),
            Figure("50 ADDs at once", "s", r"50 ADDs at once: 0 failed, " + NUMBER),
        ),
    ),
    Bench(
        "operator 300",
        (
            Figure("300 attachments ready", "s", columns("300", "#")),
            Figure("operator's processor, an attachment", "ms", columns("300", *"___", "#")),
            Figure("operator's requests, an attachment", "", columns("300", "_", "_", "#")),
            Figure("operator's memory, 10,000 attachments", "MiB", columns("300", *"___", "_", "ms", "#")),
        ),
    ),
    Bench(
        "startup.py 1 " + " ".join(PROGRAMS),
        tuple(
            Figure(f"start of {name}, {quantity}", unit, columns(name, *words, "#"))
            for name in PROGRAMS
            for quantity, unit, words in (
                ("wall", "ms", ()),
                ("processor", "ms", ("_", "ms")),
                ("RSS", "MiB", ("_", "ms", "_", "ms")),
            )
        ),
    ),
)


def run(checkout: Path, command: str) -> tuple[str, float, float]:
    """The output of a bench of that checkout, and its seconds of wall and of processor."""
    folders = (checkout / name for name in ("controllers", "lab", "src", "tools"))
    environment = {"PYTHONPATH": ":".join(str(folder) for folder in folders if folder.is_dir())}
    program, *arguments = command.split()
    argv = [str(checkout / ".venv/bin/python"), str(checkout / "bench" / program), *arguments]
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        argv, cwd=checkout, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False
    )
    after, wall = os.times(), time.perf_counter() - started
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout, wall, cpu


def measured(bench: Bench, checkout: Path) -> dict[str, float]:
    """Figure → number. Exits if one is missing, as a bench that fails proves nothing."""
    text, wall, cpu = run(checkout, bench.command)
    numbers = {f"{bench.command}: wall": wall, f"{bench.command}: processor": cpu}
    for figure in bench.figures:
        found = re.search(figure.pattern, text, re.MULTILINE)
        if found is None:
            sys.exit(f"{checkout}: bench/{bench.command} printed no figure {figure.name!r}:\n{text}")
        numbers[figure.name] = float(found[1].replace(",", ""))
    return numbers


def row(name: str, unit: str, sides: tuple[list[float], list[float]], *, more_is_better: bool = False) -> str:
    """A line of the table; what is worse by more than 5 % is bold."""
    before, after = map(statistics.median, sides)
    ratios = [new / old if old else 1.0 for old, new in zip(*sides, strict=True)]
    ratio = statistics.median(ratios)
    worse = ratio < 1 / 1.05 if more_is_better else ratio > 1.05
    text = f"**{ratio:.2f}**" if worse else f"{ratio:.2f}"
    return f"| {name} | {before:,.4g} {unit} | {after:,.4g} {unit} | {text} | {min(ratios):.2f} to {max(ratios):.2f} |"


def table(benches: list[Bench], results: dict[str, dict[str, list[float]]]) -> str:
    def sides(name: str) -> tuple[list[float], list[float]]:
        return results["before"][name], results["after"][name]

    lines = ["| | before | after | ratio | ratios of the rounds |", "|---|---|---|---|---|"]
    for bench in benches:
        lines += [
            row(figure.name, figure.unit, sides(figure.name), more_is_better=figure.more_is_better)
            for figure in bench.figures
        ]
    for bench in benches:
        lines.append(row(f"processor of `{bench.command}`", "s", sides(f"{bench.command}: processor")))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="benches whose command has this word")
    parser.add_argument("--log", type=Path, help="a file for each round's figures, as JSON lines")
    given = parser.parse_args()
    benches = [bench for bench in BENCHES if given.only in bench.command]
    checkouts = {"before": given.before.resolve(), "after": given.after.resolve()}
    results: dict[str, dict[str, list[float]]] = {side: {} for side in checkouts}
    for number in range(given.rounds):
        for bench in benches:
            for side in list(checkouts)[:: -1 if number % 2 else 1]:
                figures = measured(bench, checkouts[side])
                for name, value in figures.items():
                    results[side].setdefault(name, []).append(value)
                if given.log:
                    with given.log.open("a") as log:
                        log.write(json.dumps({"side": side, **figures}) + "\n")
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    print(table(benches, results))


if __name__ == "__main__":
    main()

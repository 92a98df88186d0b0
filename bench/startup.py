"""The cost of starting each process: ``python bench/startup.py [REPEATS [PROGRAM…]]``.

For each program of ``pyproject.toml``, or those that are named, a fresh interpreter imports the module that the program
begins with, with bytecode that is already compiled: milliseconds of wall and of processor, and the peak of RSS in MiB.
The programs alternate; the figures are medians.
"""

import os
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def programs() -> dict[str, str]:
    """Name → module, of those that run as processes; ``interpreter`` imports nothing, for comparison."""
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
    modules = {
        name: entry.partition(":")[0] for name, entry in scripts.items() if name.startswith("galactic")
    }
    return {"interpreter": "sys", **modules}


def imported(module: str) -> tuple[float, float, float]:
    """Milliseconds of wall, of processor, and MiB of one interpreter that imports the module."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", f"import {module}"])
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"import {module}: exit code {process.returncode}")
    return wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3, usage.ru_maxrss / 1024


def main(repeats: int, names: list[str]) -> None:
    modules = {name: module for name, module in programs().items() if not names or name in names}
    for module in modules.values():
        imported(module)  # compiles
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in modules}
    for _ in range(repeats):
        for name, module in modules.items():
            measured[name].append(imported(module))
    print(f"{'program':<28} {'wall':>8} {'CPU':>8} {'RSS':>10}   medians of {repeats}")
    for name, figures in measured.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{name:<28} {wall:>5.0f} ms {cpu:>5.0f} ms {memory:>6.1f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5, sys.argv[2:])

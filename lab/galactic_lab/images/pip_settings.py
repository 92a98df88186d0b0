"""Pip's settings on this machine, as ``pip config list`` prints them."""

import subprocess
import sys


def listed(text: str) -> dict[str, str]:
    """The settings in that output. The environment goes before files, [install] before [global]."""
    ranked: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        section, dot, name = key.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section, -1)
        if dot and rank >= ranked.get(name, (0, ""))[0]:
            ranked[name] = rank, value.strip("'\"").replace("\\n", " ")
    return {name: value for name, (_, value) in ranked.items()}


def read() -> dict[str, str]:
    """The settings of this machine, from files and ``PIP_…`` variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return listed(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

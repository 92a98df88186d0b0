"""Finds every program the lab runs, and builds those that neither the machine nor the cache has."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from galactic.errors import Rejected
from galactic.lab import packages
from galactic.lab.build_kubernetes import KUBERNETES
from galactic.lab.build_tools import TOOLS
from galactic.lab.builds import Build

CLIENT_MINOR: Final = 28
"""kubectl older than this lacks what tests and examples use; a newer one is taken as it is."""


@dataclass(frozen=True, slots=True)
class Assets:
    """Paths of everything the control plane runs; ``version`` is the API server's (major, minor)."""

    apiserver: Path
    controller_manager: Path
    scheduler: Path
    etcd: Path
    mosquitto: Path
    kubectl: Path
    helm: Path
    version: tuple[int, int]


def _machine(name: str) -> Path | None:
    """From ``$KUBEBUILDER_ASSETS``, else from PATH."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if folder and os.access(Path(folder) / name, os.X_OK):
        return Path(folder) / name
    found = packages.program(name)
    return Path(found) if found else None


def _together() -> dict[str, Path] | None:
    """The three servers of the machine, if it has all of them; versions are never mixed."""
    found = {name: path for name in KUBERNETES.files if (path := _machine(name))}
    return found if len(found) == len(KUBERNETES.files) else None


def _client(name: str) -> Path | None:
    """Kubectl or helm of the machine, if they are new enough."""
    path = _machine(name)
    if path is None:
        return None
    arguments = ["version", "--client"] if name == "kubectl" else ["version"]
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    found = re.search(r"v(\d+)\.(\d+)", done.stdout)
    if not found:
        return None
    major, minor = int(found[1]), int(found[2])
    return path if (minor >= CLIENT_MINOR if name == "kubectl" else major >= 3) else None


def needed(guests: Sequence[Build]) -> list[Build]:
    """The builds this machine lacks, whether built already or not, and those of the guest kernels."""
    builds = [] if _together() else [KUBERNETES]
    builds += guests
    builds += [] if _client("kubectl") and _client("helm") else [TOOLS]
    return builds


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("  {task.fields[name]:<18}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("about"),
        TimeRemainingColumn(),
        TextColumn("left  {task.description}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield progress


def build(builds: list[Build], console: Console) -> None:
    """Everything in ``builds`` is in the cache. One after the other: each uses every processor. Raises BuildFailed."""
    pending = [one for one in builds if not one.built()]
    if not pending:
        return
    console.print(
        f"Building {', '.join(one.name for one in pending)} once (about "
        f"{sum(one.seconds for one in pending) / 60:.0f} minutes on two processors); later runs use the cache."
    )
    with _bar(console) as progress:
        tasks = [
            progress.add_task("waiting", total=one.seconds, name=one.name, start=False) for one in pending
        ]
        for one, task in zip(pending, tasks, strict=True):
            progress.start_task(task)
            shown = _Report(progress, task)
            one.ensure(shown)
            progress.update(task, completed=one.seconds, description="done")


class _Report:
    """Shows how far a build is; never backwards. Where nobody watches, prints a line now and then instead."""

    def __init__(self, progress: Progress, task: object) -> None:
        self._progress, self._task = progress, task
        self._title = ""

    def __call__(self, done: float, title: str) -> None:
        self._progress.update(self._task, completed=done, description=title)  # type: ignore[arg-type]
        if title != self._title and not self._progress.console.is_terminal:
            self._progress.console.print(f"  {title}")
        self._title = title


def find() -> Assets:
    """Everything, found. Raises Rejected with what to do for what is still missing."""
    servers: dict[str, Path | None] = {name: KUBERNETES.find(name) for name in KUBERNETES.files}
    servers |= _together() or {}
    clients = {name: _client(name) or TOOLS.find(name) for name in TOOLS.files}
    daemons = {name: _machine(name) for name in ("etcd", "mosquitto")}
    paths: dict[str, Path] = {}
    for name, path in (servers | clients | daemons).items():
        if path is None:
            raise Rejected(f"{name} is missing; run `galactic lab build`", field="assets")
        paths[name] = path
    apiserver = paths["kube-apiserver"]
    shown = subprocess.run([str(apiserver), "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"v(\d+)\.(\d+)", shown)
    if not number:
        raise Rejected(f"{apiserver} does not say its version: {shown!r}", field="assets")
    return Assets(
        apiserver=apiserver,
        controller_manager=paths["kube-controller-manager"],
        scheduler=paths["kube-scheduler"],
        etcd=paths["etcd"],
        mosquitto=paths["mosquitto"],
        kubectl=paths["kubectl"],
        helm=paths["helm"],
        version=(int(number[1]), int(number[2])),
    )

"""The programs of a lab's control plane: found on the machine or in the cache, or built."""

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
from galactic_lab import node_programs
from galactic_lab.builds import build_modules, cache, packages
from galactic_lab.builds.build import Build
from galactic_lab.builds.build_helm import HELM
from galactic_lab.builds.build_modules import SERVERS

SKEW: Final = 1
"""How many minors kubectl may be older or newer than the API server: Kubernetes' version skew policy."""
HELM_MAJOR: Final = 3


@dataclass(frozen=True, slots=True)
class Assets:
    """Paths of the control plane's programs; ``version`` is the API server's (major, minor)."""

    apiserver: Path
    controller_manager: Path
    scheduler: Path
    etcd: Path
    mosquitto: Path
    kubectl: Path
    helm: Path
    version: tuple[int, int]


def ours(program: Path) -> bool:
    """Whether the program is from the cache, not the machine's own."""
    return program.is_relative_to(cache.root())


def _brought(name: str) -> Path | None:
    """From ``$KUBEBUILDER_ASSETS``."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder) / name if folder else None
    return path if path and os.access(path, os.X_OK) else None


def _machine(name: str) -> list[Path]:
    """From ``$KUBEBUILDER_ASSETS``, then from PATH."""
    found = (_brought(name), packages.program(name))
    return [Path(path) for path in found if path]


def _together(kubernetes: str) -> dict[str, Path]:
    """The servers in ``$KUBEBUILDER_ASSETS``, with their etcd, if it has all three; versions are never mixed.

    None where a version of Kubernetes was asked for.
    """
    found = {name: path for name in SERVERS if (path := _brought(name))}
    if kubernetes or len(found) != len(SERVERS):
        return {}
    etcd = _brought("etcd")
    return found | ({"etcd": etcd} if etcd else {})


def _answer(*argv: str | Path) -> str:
    """The program's output."""
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False).stdout


def release(printed: str) -> tuple[int, int] | None:
    """Major and minor in a program's output, such as ``Client Version: v1.37.2``."""
    found = re.search(r"v(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else None


def fits(client: tuple[int, int] | None, server: tuple[int, int]) -> bool:
    """Whether that kubectl may be used with that API server."""
    return client is not None and client[0] == server[0] and abs(client[1] - server[1]) <= SKEW


def server_version(kubernetes: str) -> tuple[int, int]:
    """The API server's version, also before it is built."""
    if servers := _together(kubernetes):
        program = servers["kube-apiserver"]
        printed = _answer(program, "--version")
        version = release(printed)
        if version is None:
            raise Rejected(f"{program} does not say its version: {printed!r}", field="KUBEBUILDER_ASSETS")
        return version
    major, minor = (kubernetes or build_modules.default_version()).split(".")[:2]
    return int(major), int(minor)


def _kubectl(server: tuple[int, int]) -> Path | None:
    """The machine's kubectl, if the version skew policy allows it."""
    asked = ((path, _answer(path, "version", "--client")) for path in _machine("kubectl"))
    return next((path for path, printed in asked if fits(release(printed), server)), None)


def _kubectl_build(kubernetes: str, server: tuple[int, int]) -> Build:
    """The build with a kubectl of a fitting version: that of the servers, unless these are not built."""
    if not kubernetes and not fits(release(f"v{build_modules.default_version()}"), server):
        kubernetes = f"{server[0]}.{server[1]}"
    return build_modules.kubernetes(kubernetes)


def helm() -> Path | None:
    """The machine's helm if it is new enough, else that of the cache, if any."""
    candidates = ((path, release(_answer(path, "version"))) for path in _machine("helm"))
    return next(
        (path for path, version in candidates if version and version[0] >= HELM_MAJOR), HELM.find("helm")
    )


def needed(
    kubernetes: str = "", *, guests: Sequence[Build] = (), nodes: bool = False, chart: bool = False
) -> list[Build]:
    """The builds for that version of Kubernetes and these guests, without programs that the machine has."""
    build = build_modules.kubernetes(kubernetes)
    servers, server = _together(kubernetes), server_version(kubernetes)
    builds = [] if servers else [build]
    builds += [] if _kubectl(server) else [_kubectl_build(kubernetes, server)]
    builds += [] if "etcd" in servers else [build_modules.etcd()]
    builds += guests
    builds += node_programs.needed(kubernetes) if nodes or chart else []
    builds += node_programs.chart(kubernetes)[1] if chart else []
    found = helm()
    builds += [] if found and not ours(found) else [HELM]
    return list({one.home: one for one in builds}.values())


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
    """Builds in order those of ``builds`` that the cache lacks; each uses all processors. Raises BuildFailed."""
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
    """Shows the progress of a build, never backwards. Without a terminal it prints a line now and then."""

    def __init__(self, progress: Progress, task: object) -> None:
        self._progress, self._task = progress, task
        self._title = ""

    def __call__(self, done: float, title: str) -> None:
        self._progress.update(self._task, completed=done, description=title)  # type: ignore[arg-type]
        if title != self._title and not self._progress.console.is_terminal:
            self._progress.console.print(f"  {title}")
        self._title = title


def find(kubernetes: str = "") -> Assets:
    """The programs for that version of Kubernetes. Raises Rejected with a remedy where one is missing."""
    build, etcd = build_modules.kubernetes(kubernetes), build_modules.etcd()
    server = server_version(kubernetes)
    found = {name: build.find(name) for name in SERVERS} | {"etcd": etcd.find("etcd")}
    found |= _together(kubernetes)
    found["kubectl"] = _kubectl(server) or _kubectl_build(kubernetes, server).find("kubectl")
    found["helm"] = helm()
    found["mosquitto"] = next(iter(_machine("mosquitto")), None)
    paths: dict[str, Path] = {}
    for name, path in found.items():
        if path is None:
            raise Rejected(f"{name} is missing; run `galactic lab build`", field="assets")
        paths[name] = path
    return Assets(
        apiserver=paths["kube-apiserver"],
        controller_manager=paths["kube-controller-manager"],
        scheduler=paths["kube-scheduler"],
        etcd=paths["etcd"],
        mosquitto=paths["mosquitto"],
        kubectl=paths["kubectl"],
        helm=paths["helm"],
        version=server,
    )

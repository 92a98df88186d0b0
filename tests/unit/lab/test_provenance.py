"""The report of what a run took from the machine: true, printed once, and harmless."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from galactic.errors import Rejected
from galactic_lab import assets, provenance
from galactic_lab.builds import cache, guest_kernels, packages
from galactic_lab.builds.build_linux import Source, build
from galactic_lab.builds.guest_kernels import KERNELS, Wanted
from galactic_lab.provenance import Fact, facts, table

CHECKOUT = Path(__file__).parents[3]
Found = make_dataclass("Found", ["a", "b", "c", "d", "version"])
NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is asked for its version."""
    monkeypatch.setattr(provenance, "_version", lambda _path: "1.0")
    monkeypatch.setattr(assets, "find", lambda *_: Found(*[None] * 5))


def made(home: Path, file: str, at: float = NOW, script: str = "") -> Path:
    """A build in the cache; its file is a program that prints."""
    home.mkdir(parents=True)
    (home / file).write_text(f"#!/bin/sh\n{script}\n")
    (home / file).chmod(0o755)
    os.utime(home, (at, at))
    return home / file


def fact(name: str, since: float | None = None) -> Fact:
    (fact_found,) = (fact for fact in facts(since) if fact.name == name)
    return fact_found


@pytest.mark.usefixtures("quick")
def test_a_guest_kernel_is_pinned_of_the_day_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "pinned", Wanted("linux-source-9", "9.1-1"))
    monkeypatch.setitem(KERNELS, "newest", Wanted("linux-source-9"))
    monkeypatch.setattr(packages, "update", lambda: None)
    monkeypatch.setattr(packages, "served", lambda _package: ["9.3-1", "9.2-1"])
    missing = fact("guest kernel pinned")
    assert missing == Fact(
        "guest kernel pinned", "9.1-1", "linux-source-9, pinned; not built: galactic lab build"
    )
    assert fact("guest kernel newest") == Fact(
        "guest kernel newest", "?", "not chosen yet: galactic lab build"
    )
    made(build(Source("linux-source-9", "9.1-1")).home, "linux")
    assert fact("guest kernel pinned", NOW + 1).origin.startswith("linux-source-9, pinned; built 2023-11-1")
    assert fact("guest kernel pinned", NOW).origin.endswith("in this run")
    made(build(guest_kernels.resolve("newest")).home, "linux")
    newest = fact("guest kernel newest")
    assert newest.version == "9.3-1"
    assert "the newest that apt offers; built 2023" in newest.origin


@pytest.mark.usefixtures("quick")
def test_a_kernel_that_is_taken_for_the_pinned_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "pinned", Wanted("linux-source-9", "9.1-1"))
    monkeypatch.setattr(packages, "update", lambda: None)
    monkeypatch.setattr(packages, "served", lambda _package: ["9.3-1", "9.2-1"])
    guest_kernels.resolve("pinned")
    kernel = fact("guest kernel pinned")
    assert kernel.version == "9.2-1"
    assert (
        "apt does not offer linux-source-9=9.1-1: linux-source-9=9.2-1 is taken, the oldest" in kernel.origin
    )


def test_programs_are_built_here_the_machines_or_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = made(tmp_path / "given", "etcd", script='test "$1" = --version && echo etcd Version: 3.5.1')
    own = made(
        cache.root() / "tools-0123456789ab",
        "kubectl",
        script='test "$2" = --client && echo Client v1.40.2-rc.1',
    )
    machine = made(
        tmp_path / "bin", "mosquitto", script='test "$1" = -h && echo mosquitto version 2.0.11; exit 3'
    )
    mute = made(tmp_path / "mute", "helm")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given.parent))
    monkeypatch.setattr(assets, "find", lambda *_: Found(given, own, machine, mute, (1, 40)))
    assert fact("etcd") == Fact("etcd", "3.5.1", f"of KUBEBUILDER_ASSETS, {given.parent}")
    kubectl = fact("kubectl", NOW)
    assert (kubectl.version, kubectl.origin[:10], kubectl.origin[-11:]) == (
        *("1.40.2-rc.1", "built here"),
        "in this run",
    )
    assert fact("mosquitto") == Fact("mosquitto", "2.0.11", f"the machine's, {machine}")
    assert fact("helm").version == "?"


@pytest.mark.usefixtures("quick")
def test_builds_of_this_run_are_listed_apart() -> None:
    made(cache.root() / "old-0123456789ab", "file", NOW - 1)
    made(cache.root() / "new-0123456789ab", "file", NOW + 1)
    (cache.root() / "new.building-abc").mkdir()
    assert fact("cache, this run", NOW) == Fact("cache, this run", "1", "new-0123456789ab")
    before = fact("cache, from before", NOW)
    assert (before.version, before.origin.split()[0]) == ("1", "old-0123456789ab")
    assert fact("cache, from before").version == "2", "a run that has no start has built nothing"


@pytest.mark.usefixtures("quick")
def test_libraries_that_are_not_as_pinned_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fact("libraries").origin == "as in constraints.txt"
    text = (CHECKOUT / "constraints.txt").read_text()
    assert "pyyaml==" in text.lower()
    lines = ["PyYAML==0.0" if line.lower().startswith("pyyaml==") else line for line in text.splitlines()]
    (tmp_path / "constraints.txt").write_text("\n".join(lines))
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    assert fact("libraries").origin.startswith("not as in constraints.txt: pyyaml 6")


@pytest.mark.usefixtures("quick")
def test_wheels_that_were_built_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.uname().machine
    tags = {
        "here": f"cp311-cp311-linux_{machine}",
        "fetched": f"cp311-cp311-manylinux_2_28_{machine}",
        "pure": "py3-none-any",
    }
    installed = [
        SimpleNamespace(
            name=name, version="1", read_text=lambda _file, tag=tag: f"Generator: x\nTag: {tag}\n"
        )
        for name, tag in tags.items()
    ]
    installed.append(SimpleNamespace(name="bare", version="1", read_text=lambda _file: None))
    monkeypatch.setattr(provenance.metadata, "distributions", lambda: installed)
    assert [fact.name for fact in facts() if fact.origin == "wheel built here"] == ["here"]


@pytest.mark.usefixtures("quick")
def test_the_alternative_of_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iptables").symlink_to("/usr/sbin/iptables-legacy")
    monkeypatch.setattr(provenance, "ALTERNATIVES", tmp_path)
    assert fact("iptables").origin.endswith(", alternative iptables-legacy")


def fails(*_: object, **_more: object) -> None:
    raise RuntimeError("no such luck")


def test_a_fact_that_cannot_be_found_out_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise Rejected("etcd is missing; run `galactic lab build`", field="assets")

    monkeypatch.setattr(assets, "find", missing)
    assert "run `galactic lab build`" in fact("Kubernetes").origin
    for module, name in (
        *((provenance, name) for name in ("checkout", "build", "_version", "_day")),
        *((provenance.platform, name) for name in ("release", "python_version")),
        *((provenance.metadata, "distributions"), (assets, "find"), (packages, "program"), (cache, "root")),
        *((guest_kernels, "known"), (provenance.postgres, "newest"), (provenance.go_toolchain, "chosen")),
    ):
        monkeypatch.setattr(module, name, fails)
    rows = facts(NOW)
    assert len(rows) > 10
    assert {row.version for row in rows} == {"?"}
    assert all("no such luck" in row.origin for row in rows)


def test_a_table_is_aligned() -> None:
    assert table([Fact("a", "1.2", "here"), Fact("long", "1", "there")]) == [
        "a     1.2  here",
        "long  1    there",
    ]
    assert table([]) == []


def test_a_run_with_several_processes_ends_with_it_once() -> None:
    done = pytest_run("-n2", "--versions=1")
    assert done.count("what this run took from the machine") == done.count("guest kernel pinned ") == 1


def test_a_run_that_does_not_ask_for_it_ends_without() -> None:
    assert "guest kernel" not in pytest_run("-n0")


def pytest_run(*words: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *words,
        "tests/unit/test_names.py",
    ]
    return subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=280
    ).stdout


@pytest.mark.parametrize(
    ("form", "read"),
    [
        pytest.param("json", lambda text: [row["name"] for row in json.loads(text)], id="json"),
        pytest.param("table", lambda text: [line.split("  ")[0] for line in text.splitlines()], id="table"),
    ],
)
def test_the_command(form: str, read: Callable[[str], list[str]]) -> None:
    command = [str(Path(sys.executable).parent / "galactic"), "lab", "versions", "-o", form]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout
    assert {"machine's kernel", "guest kernel pinned", "guest kernel newest", "Python"} <= set(read(shown))

"""Builds from Go modules, and the Go that compiles them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from galactic_lab.builds import build_modules, go_toolchain, packages
from galactic_lab.builds.build import BuildFailed
from galactic_lab.builds.build_modules import (
    CONTAINERD_RECIPE,
    COREDNS_RECIPE,
    ETCD_RECIPE,
    KIND_RECIPE,
    KUBERNETES_RECIPE,
    MODULES,
    POLICIES_RECIPE,
    TILT_RECIPE,
    Recipe,
)

RECIPES = [
    *(KUBERNETES_RECIPE, ETCD_RECIPE, CONTAINERD_RECIPE, COREDNS_RECIPE, KIND_RECIPE),
    *(POLICIES_RECIPE, TILT_RECIPE),
]
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.folder)
OWN = """\
module k8s.io/kubernetes

go 1.22.0

require (
	k8s.io/api v0.0.0
	github.com/x/y v1.0.0
)

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/sample-cli-plugin => ./staging/src/k8s.io/sample-cli-plugin
)
"""


@pytest.fixture(autouse=True)
def _own_toolchain() -> Iterator[None]:
    """A test's stand-in for the machine's Go is not kept for the next file's builds."""
    go_toolchain.machine.cache_clear()
    yield
    go_toolchain.machine.cache_clear()


def test_nothing_else_in_go_than_what_names_modules() -> None:
    assert {path.name for path in MODULES.rglob("*") if path.is_file()} == {"go.mod", "go.sum"}
    assert {path.name for path in MODULES.iterdir()} == {recipe.folder for recipe in RECIPES}


@each_recipe
def test_its_programs_are_the_tools_of_its_module(recipe: Recipe) -> None:
    """Etcd's package has a version for a name, and that of the policies the usual one of a single program: they are
    named by their recipes.
    """
    tools = re.findall(r"(?m)^(?:tool|\t)\s*(\S+/\S+)$", recipe.file("go.mod"))
    names = {path.rpartition("/")[2] for path in tools}
    unnamed = {ETCD_RECIPE.folder: {"v3"}, POLICIES_RECIPE.folder: {"cmd"}}
    assert names == unnamed.get(recipe.folder, set(recipe.programs))


@each_recipe
def test_no_place_is_named_but_modules(recipe: Recipe) -> None:
    """A module replaced by a folder, or a proxy, would be a place of the machine that wrote it."""
    text = recipe.file("go.mod")
    assert not re.search(r"://|=> [./]", text)
    assert recipe.file("go.sum").count(f"{recipe.module} v{build_modules.required(text, recipe.module)}") == 2


def test_another_kubernetes_is_required_with_its_own_staging_modules() -> None:
    gomod = KUBERNETES_RECIPE.file("go.mod")
    made = build_modules.derived(gomod, OWN, "1.30.7")
    assert build_modules.required(made, "k8s.io/kubernetes") == "1.30.7"
    assert re.findall(r"(\S+) => (\S+ \S+)", made) == [
        ("k8s.io/api", "k8s.io/api v0.30.7"),
        ("k8s.io/sample-cli-plugin", "k8s.io/sample-cli-plugin v0.30.7"),
    ]
    tools = re.findall(r"\tk8s\.io/kubernetes/cmd/\S+", gomod)
    assert re.findall(r"\tk8s\.io/kubernetes/cmd/\S+", made) == tools
    assert len(tools) == 6


@pytest.mark.parametrize(("own", "line"), [("1.22.0", "1.24.0"), ("1.24.3", "1.24.3"), ("1.27", "1.27")])
def test_its_go_line_is_its_own_but_knows_tools(own: str, line: str) -> None:
    other = OWN.replace("go 1.22.0", f"go {own}")
    assert (
        build_modules.go_line(build_modules.derived(KUBERNETES_RECIPE.file("go.mod"), other, "1.30.7"))
        == line
    )


@pytest.mark.parametrize("own", [OWN.replace("./staging", "./elsewhere"), "module k8s.io/kubernetes\n"])
def test_a_kubernetes_that_is_made_otherwise_is_a_failure(own: str) -> None:
    with pytest.raises(BuildFailed, match=r"1\.50\.0 has another form"):
        build_modules.derived(KUBERNETES_RECIPE.file("go.mod"), own, "1.50.0")


def test_programs_print_the_version_that_they_are() -> None:
    flags = build_modules.linker(KUBERNETES_RECIPE, "1.34.4").split()
    assert "k8s.io/component-base/version.gitVersion=v1.34.4" in flags
    assert "k8s.io/component-base/version.gitMinor=34" in flags
    assert flags[:2] == ["-s", "-w"]


def go(folder: Path, printed: str) -> Callable[[str], str | None]:
    """PATH with a Go that answers that."""
    program = folder / "go"
    program.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    program.chmod(0o755)
    return lambda name: str(program) if name == "go" else None


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        pytest.param(r"go1.26.8\n-buildvcs=false\n", "1.26.8", id="newer"),
        pytest.param(r"go1.26.0\n\n", "1.26.0", id="just-new-enough"),
        pytest.param(r"go1.27rc1\n\n", "1.27", id="candidate"),
        pytest.param(r"go1.25.9\n\n", None, id="older"),
        pytest.param(r"go1.9\n\n", None, id="older-though-its-digit-is-greater"),
        pytest.param(r"what\n\n", None, id="no-version"),
    ],
)
def test_the_machines_go_is_used_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, version: str | None
) -> None:
    monkeypatch.setattr(packages, "program", go(tmp_path, printed))
    chosen = go_toolchain.chosen("1.26.0")
    assert chosen.version == (version or go_toolchain.WHEEL)
    assert chosen.machine == (tmp_path / "go" if version else None)


def test_without_go_that_of_the_wheel_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module must be content with it."""
    monkeypatch.setattr(packages, "program", lambda _name: None)
    for recipe in RECIPES:
        line = build_modules.go_line(recipe.file("go.mod"))
        assert go_toolchain.chosen(line).machine is None
        assert go_toolchain.numbers(go_toolchain.WHEEL) >= go_toolchain.numbers(line)


def test_other_inputs_are_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules, their checksums, the version asked for, Go's version and flags decide; nothing else does."""
    homes = []
    for printed in (r"go1.26.8\n\n", r"go1.26.8\n\n", r"go1.26.9\n\n", r"go1.26.9\n-race\n"):
        go_toolchain.machine.cache_clear()
        monkeypatch.setattr(packages, "program", go(tmp_path, printed))
        homes.append(build_modules.kubernetes().home)
    assert homes[0] == homes[1]
    homes += [build_modules.kubernetes(version).home for version in ("1.34", "1.34.4", "1.35")]
    assert len(set(homes)) == 6

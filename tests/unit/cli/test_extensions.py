"""Sub-commands and kinds of clusters of other distributions, found by entry points."""

from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from galactic.cli import cluster_options, extensions
from galactic.cli.cluster_access import Cluster, cluster_access
from galactic.cli.main import COMMANDS, app

MODULE = """
from galactic.cli.extensions import Command
from galactic.cli.main import typer

HELLO = Command(__name__, "hello", "A greeting.", reaches=False)
AWAY = Command("galactic_of_nowhere", "hello", "Its module is missing.", reaches=False)
NONE = "no command"

def hello() -> None:
    typer.echo("hello")

def mine(files):
    return "mine" if files[0].name == "mine" else None
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution ``extra`` with these lines of entry points. No other distribution has any."""
    monkeypatch.setattr(
        extensions,
        "entry_points",
        lambda group: EntryPoints(
            point for point in entry_points(group=group) if point.dist and point.dist.name == "extra"
        ),
    )
    (tmp_path / "extra_of_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(*lines: str) -> None:
        info = tmp_path / "extra-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    return write


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_sub_command_is_listed_after_the_own_ones_and_run(install: Install) -> None:
    install("[galactic.commands]", "hello = extra_of_test:HELLO")
    listed = run("--help").stdout
    assert "A greeting." in listed
    assert listed.index("A greeting.") > listed.index(COMMANDS["completion"].help)
    assert run("hello").stdout == "hello\n"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param("extra_of_nowhere:HELLO", "No module named 'extra_of_nowhere'", id="no-module"),
        pytest.param("extra_of_test:GONE", "no attribute 'GONE'", id="no-attribute"),
        pytest.param("extra_of_test:NONE", "extra_of_test:NONE is no Command", id="no-command"),
        pytest.param(
            "extra_of_test:AWAY", "No module named 'galactic_of_nowhere'", id="its-module-is-missing"
        ),
    ],
)
def test_a_broken_one_costs_its_own_command_alone(install: Install, value: str, error: str) -> None:
    install("[galactic.commands]", f"away = {value}", "hello = extra_of_test:HELLO")
    listed = run("--help")
    assert listed.exit_code == 0
    assert "\n  away " in listed.stdout
    assert run("hello").stdout == "hello\n"
    assert run("completion", "bash").exit_code == 0
    broken = run("away")
    assert broken.exit_code == cluster_options.USAGE
    assert error in " ".join(broken.stderr.split())


def test_an_own_command_is_not_replaced(install: Install) -> None:
    install("[galactic.commands]", "completion = extra_of_test:HELLO")
    assert "A greeting." not in run("--help").stdout
    assert "_GALACTIC_COMPLETE" in run("completion", "bash").stdout


@pytest.mark.parametrize("name", ["lab", "demo"])
def test_a_command_of_a_distribution_that_is_not_installed_names_it(install: Install, name: str) -> None:
    install()
    assert f"\n  {name} " not in run("--help").stdout
    missing = run(name, "--anything")
    assert missing.exit_code == cluster_options.USAGE
    message = " ".join(missing.stderr.split())
    assert f"`galactic {name}` is part of the distribution galactic-lab, which is not installed" in message
    assert "pip install ./lab" in message


def test_completion_goes_on_without_a_broken_one(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("[galactic.commands]", "away = extra_of_nowhere:HELLO", "hello = extra_of_test:HELLO")
    asked = {"_GALACTIC_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for words in ("galactic away --", "galactic lab --"):
        done = CliRunner().invoke(app, [], prog_name="galactic", env=asked | {"COMP_WORDS": words})
        assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_kind_of_cluster_is_the_first_that_the_kubeconfig_belongs_to(install: Install) -> None:
    install("[galactic.sites]", "mine = extra_of_test:mine")
    kube: Any = SimpleNamespace()
    assert cluster_access(cluster_options.ClusterOptions("/somewhere/mine"), kube) == "mine"
    assert isinstance(cluster_access(cluster_options.ClusterOptions("/somewhere/other"), kube), Cluster)


def test_a_kind_of_cluster_that_cannot_be_loaded_is_named(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("[galactic.sites]", "a = extra_of_nowhere:mine", "mine = extra_of_test:mine")
    kube: Any = SimpleNamespace()
    assert cluster_access(cluster_options.ClusterOptions("/somewhere/mine"), kube) == "mine"
    assert "the distribution extra cannot be loaded" in capsys.readouterr().err

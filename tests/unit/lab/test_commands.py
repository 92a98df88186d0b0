"""The entry points of the lab's distribution lead to sub-commands and to the lab's cluster access."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from galactic.cli import extensions
from galactic.cli.main import app, load
from galactic_lab.commands import site_of
from galactic_lab.state import HOME, checkout

BIN = Path(sys.executable).parent
POINTS = tomllib.loads((checkout() / "lab/pyproject.toml").read_text())["project"]["entry-points"]


@pytest.mark.parametrize("name", POINTS[extensions.COMMANDS])
def test_each_command_is_one(name: str) -> None:
    command = EntryPoint(name, POINTS[extensions.COMMANDS][name], extensions.COMMANDS).load()
    assert isinstance(command, extensions.Command)
    assert load(name, command).name == name


def test_a_kubeconfig_outside_of_labs_is_of_no_lab(tmp_path: Path) -> None:
    site = EntryPoint("lab", POINTS[extensions.SITES]["lab"], extensions.SITES).load()
    assert site is site_of
    assert site([tmp_path / "kubeconfig"]) is None
    assert site([HOME / "a-lab-that-is-not-there" / "kubeconfig"]) is None


def test_what_help_loads_costs_little() -> None:
    heavy = "{'kubernetes', 'rich', 'pydantic', 'supervisor', 'galactic_lab.cluster'}"
    code = f"import sys, galactic_lab.commands; print(sorted({heavy} & {{*sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", POINTS[extensions.COMMANDS])
def test_they_are_installed_beside_the_command(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, "make venv"
    assert "Usage" in done.stdout


def test_completion_knows_what_the_lab_can_do() -> None:
    program = [str(BIN / "kubectl_complete-galactic"), "lab", "rele"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["release", ":0"]

"""The whole command: exit codes, output formats, colours, completion, and a cheap --help."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from galactic.cli import cluster_options, render
from galactic.cli.main import COMMANDS, app
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import NotFound

BIN = Path(sys.executable).parent


def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    # A proxy of this machine's would be asked for the cluster.
    own = {
        key: value
        for key, value in os.environ.items()
        if key != "KUBECONFIG" and not key.lower().endswith("_proxy")
    }
    return subprocess.run(
        [str(BIN / "galactic"), *words],
        capture_output=True,
        text=True,
        env=own | variables,
        check=False,
        timeout=280,
    )


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A kubeconfig of a cluster that does not answer."""
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("commands", "culprit"),
    [
        pytest.param([], "kube-apiserver: no answer within 0.2 s", id="api-server"),
        pytest.param(
            ["pod ns/galactic-node-a: `galactic-node-inspect`"],
            "kubelet: pod ns/galactic-node-a: `galactic-node-inspect` not done within 0.2 s",
            id="command-in-a-pod",
        ),
    ],
)
def test_a_time_out_names_what_was_waited_for(commands: list[str], culprit: str) -> None:
    """The error names the commands that ran at the timeout, and none afterwards."""
    options = cluster_options.ClusterOptions(seconds=0.2)

    async def work() -> None:
        kube = SimpleNamespace(commands=commands)
        options.clients.append(kube)  # type: ignore[arg-type]
        try:
            await asyncio.Event().wait()
        finally:
            kube.commands = []

    with pytest.raises(Unreachable) as raised:
        options.run(work())
    message = cluster_options.sentence(raised.value)
    assert message.startswith(f"{culprit}; give a longer --request-timeout")
    assert ("is the cluster up?" in message) == (not commands)


def test_what_a_command_raises_and_returns_is_its_own() -> None:
    async def late() -> None:
        raise TimeoutError("its own")

    async def fine() -> int:
        return 7

    with pytest.raises(Unreachable, match="no answer in time"):
        cluster_options.ClusterOptions().run(late())
    assert cluster_options.ClusterOptions().run(fine()) == 7


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["vpcs"],
        ["routes", "x"],
        ["trace", "a/b", "c/d"],
        ["graph"],
        ["connectivity", "test", "--timeout", "3600"],
    ],
)
def test_an_api_server_that_does_not_answer(nowhere: Path, words: list[str]) -> None:
    done = CliRunner(env={"KUBECONFIG": ""}).invoke(app, [*words, "--kubeconfig", str(nowhere)])
    assert done.exit_code == cluster_options.UNREACHABLE
    assert "kubectl cluster-info" in done.stderr


def test_a_server_that_accepts_and_sends_nothing_is_not_waited_for(tmp_path: Path, nowhere: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        nowhere.write_text(nowhere.read_text().replace(":9", f":{port}"))
        done = run("vpcs", "--kubeconfig", str(nowhere), "--request-timeout", "1")
    assert done.returncode == cluster_options.UNREACHABLE
    assert "--request-timeout" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["status", "--kubeconfig", "/nope"], "/nope", id="no-such-file"),
        pytest.param(["routes"], "vpc", id="missing-argument"),
        pytest.param(["status", "-o", "xml"], "xml", id="unknown-form"),
        pytest.param(["nonsense"], "nonsense", id="unknown-command"),
        pytest.param(["connectivity", "probe", "--ask", "nonsense"], "--ask", id="probe"),
    ],
)
def test_what_is_not_understood(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == cluster_options.USAGE
    assert message in done.stderr


def test_a_context_that_is_not_there_is_named(nowhere: Path) -> None:
    done = CliRunner(env={"KUBECONFIG": ""}).invoke(
        app, ["vpcs", "--kubeconfig", str(nowhere), "--context", "other"]
    )
    assert done.exit_code == cluster_options.UNREACHABLE
    assert "other" in done.stderr


def test_history_of_a_vpc_by_its_name(nowhere: Path) -> None:
    """The VPC's identifier is read from the API server."""
    words = [
        "history",
        "10.1.1.1",
        "--vpc",
        "blue/blue",
        "--database-url",
        "postgresql://nobody@127.0.0.1:9/x",
    ]
    done = CliRunner(env={"KUBECONFIG": str(nowhere)}).invoke(app, words)
    assert done.exit_code == cluster_options.UNREACHABLE
    assert "--vpc its identifier" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), cluster_options.NOT_FOUND),
        (cluster_options.Absent("x"), cluster_options.NOT_FOUND),
        (Rejected("x"), cluster_options.USAGE),
        (NotYet("x"), cluster_options.DEGRADED),
        (Unreachable("kube-apiserver", "x"), cluster_options.UNREACHABLE),
        (Rejected("no", reason="Forbidden"), cluster_options.UNREACHABLE),
    ],
)
def test_exit_codes(error: GalacticError, code: int) -> None:
    assert cluster_options.code(error) == code
    assert cluster_options.sentence(error)


def test_help_lists_everything_and_imports_neither_cluster_nor_lab() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout and entry.help in done.stdout for name, entry in COMMANDS.items())
    heavy = "{'kubernetes', 'rich', 'pydantic', 'supervisor'}"
    code = f"import sys, galactic.cli.main; print(sorted({heavy} & {{*sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize("words", [["trace"], ["routes"], ["sysdump"], ["connectivity", "test"]])
def test_paragraphs_of_help_are_aligned(words: list[str]) -> None:
    text, _, _ = CliRunner().invoke(app, [*words, "--help"]).stdout.partition("\nOptions:")
    lines = [line for line in text.partition("\nArguments:")[0].splitlines()[1:] if line]
    assert all(line.startswith("  ") and not line.startswith("   ") for line in lines), text
    assert not [line for line in lines if "  " in line.strip()], text


def test_it_is_a_kubectl_plugin() -> None:
    assert (BIN / "kubectl-galactic").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_GALACTIC_COMPLETE" in CliRunner().invoke(app, ["completion", shell]).stdout
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == cluster_options.USAGE


def test_completion_knows_commands_and_their_options() -> None:
    asked = {"_GALACTIC_COMPLETE": "complete_bash"}
    assert run(**asked, COMP_WORDS="galactic ro", COMP_CWORD="1").stdout.split() == ["routes"]
    assert "--differences" in run(**asked, COMP_WORDS="galactic routes --d", COMP_CWORD="2").stdout


@pytest.mark.parametrize(
    ("words", "follows"),
    [
        pytest.param(["ro"], ["routes"], id="command"),
        pytest.param(["routes", "--d"], ["--differences"], id="option"),
        pytest.param(["connectivity", "te"], ["test"], id="command-of-a-command"),
        pytest.param(["sysdump", "it's"], [], id="file-with-a-quote"),
    ],
)
def test_completion_under_kubectl(words: list[str], follows: list[str]) -> None:
    """In cobra's form, which kubectl reads: candidates, then ``:0``, after which a shell completes file names."""
    program = [str(BIN / "kubectl_complete-galactic"), *words]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*follows, ":0"]


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    assert render.paint("x", render.RED) == "x", "a test's output is no terminal"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert render.paint("x", render.RED) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert render.paint("x", render.RED) == "x"


def test_forms(capsys: pytest.CaptureFixture[str]) -> None:
    value = [{"name": "blue/blue", "networks": ["10.1.1.0/24"]}]
    assert render.document(value, render.Output.JSON)
    assert json.loads(capsys.readouterr().out) == value
    assert render.document(value, render.Output.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == value
    assert not render.document(value, render.Output.WIDE)
    assert render.table(("A", "B"), [("longer", "x"), ("y", "z")]) == ["A       B", "longer  x", "y       z"]

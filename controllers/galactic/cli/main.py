"""The command's root: sub-commands are gathered here and nowhere else."""

import subprocess
from typing import Annotated

import typer

from galactic import __version__
from galactic.cli import lab
from galactic.cli.demo import demo
from galactic.cli.history import ask
from galactic.errors import GalacticError

app = typer.Typer(
    name="galactic",
    help="Virtual private clouds for Kubernetes pods.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(lab.app, name="lab")
app.command()(demo)
app.command("history")(ask)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"galactic {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Virtual private clouds for Kubernetes pods."""


def main() -> None:
    """Runs the command. What is foreseen ends it with one sentence and exit code 1, not with a trace."""
    try:
        app()
    except (GalacticError, subprocess.CalledProcessError) as error:
        typer.echo(f"galactic: {error}", err=True)
        raise SystemExit(1) from error

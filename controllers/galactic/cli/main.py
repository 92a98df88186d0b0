"""The command's root: sub-commands are named here, and imported when they are run and not before.

Nearly all of them need the Kubernetes client, which takes a second to import; ``--help`` and completion need none.
"""

import importlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from galactic import __version__
from galactic.errors import GalacticError


@dataclass(frozen=True, slots=True)
class Entry:
    """One sub-command: where it is, and what the list says of it. ``reaches`` a cluster: see ``access.clustered``."""

    module: str
    name: str
    help: str
    reaches: bool = True


COMMANDS: Final = {
    "status": Entry("status", "status", "What is wrong, in one screen, and what to do."),
    "vpcs": Entry("vpcs", "vpcs", "The VPCs, what is in them, and where."),
    "routes": Entry("routes", "routes", "A VPC's routes: desired, told, in the kernels."),
    "trace": Entry("tracing", "trace", "The way from pod to pod: where it stops, and why."),
    "history": Entry("history", "ask", "Who held an address of a VPC, and when.", reaches=False),
    "connectivity": Entry("connectivity", "app", "Try it with pods made for that.", reaches=False),
    "sysdump": Entry("sysdump", "sysdump", "What helps to find a fault, without secrets."),
    "graph": Entry("graph", "graph", "A picture of the VPCs over the nodes."),
    "lab": Entry("lab", "app", "A cluster on this machine.", reaches=False),
    "demo": Entry("demo", "demo", "Galactic's main job, shown in a lab.", reaches=False),
    "completion": Entry(
        "completion", "completion", "What a shell needs to complete commands.", reaches=False
    ),
}


def load(name: str) -> Any:
    """The real sub-command."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"galactic.cli.{entry.module}"), entry.name)
    if isinstance(found, typer.Typer):
        found.info.name = name
        return typer.main.get_command(found)
    if entry.reaches:
        from galactic.cli.access import clustered  # noqa: PLC0415

        found = clustered(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(found)
    return typer.main.get_command(alone)


class Lazy(TyperGroup):
    """Its sub-commands are stand-ins with a name and a line of help, until one is run or completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    name="galactic",
    cls=Lazy,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    """Virtual private clouds for Kubernetes pods. Also to be called as: kubectl galactic."""


def _stand_in() -> None:
    raise AssertionError("Lazy.resolve_command puts the real one in its place")


for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.help)(_stand_in)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. What is foreseen ends it with one sentence and exit code 1, not with a trace."""
    if "_GALACTIC_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined] # noqa: PLC0415

        completion_init()
    try:
        app(arguments, prog_name="galactic")
    except (GalacticError, subprocess.CalledProcessError) as error:
        typer.echo(f"galactic: {error}", err=True)
        raise SystemExit(1) from error

"""The root command: names the sub-commands, and imports a sub-command only when it is run.

Most of them import the Kubernetes client, which takes a second; ``--help`` and completion do not.
"""

import importlib
import os
import subprocess
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from galactic import __version__
from galactic.cli import extensions
from galactic.cli.extensions import Command
from galactic.errors import GalacticError

COMMANDS: Final = {
    "status": Command(
        "galactic.cli.status", "status", "Components, nodes, and problems with their remedies."
    ),
    "vpcs": Command("galactic.cli.vpcs", "vpcs", "VPCs, their attachments and nodes."),
    "routes": Command(
        "galactic.cli.routes", "routes", "A VPC's routes: desired, advertised, in the kernels."
    ),
    "trace": Command(
        "galactic.cli.trace", "trace", "The data path from pod to pod: where it stops, and why."
    ),
    "top": Command("galactic.cli.top", "top", "Traffic of attachments or VPCs at present."),
    "flows": Command(
        "galactic.cli.flows", "flows", "A pod's flows in its VPC, with the verdict of its node."
    ),
    "usage": Command(
        "galactic.cli.usage", "usage", "Traffic and attachment-hours of VPCs in a month.", reaches=False
    ),
    "history": Command(
        "galactic.cli.history", "history", "Holders of an address in a VPC over time.", reaches=False
    ),
    "connectivity": Command(
        "galactic.cli.connectivity", "app", "Test connectivity with temporary pods.", reaches=False
    ),
    "sysdump": Command("galactic.cli.sysdump", "sysdump", "An archive for fault analysis, without secrets."),
    "graph": Command("galactic.cli.graph", "graph", "A picture of the VPCs over the nodes."),
    "completion": Command(
        "galactic.cli.completion", "completion", "The completion script of a shell.", reaches=False
    ),
}
DISTRIBUTIONS: Final = {"lab": "galactic-lab", "demo": "galactic-lab"}
"""Sub-commands of distributions that may be missing."""


def load(name: str, command: Command) -> Any:
    """The real sub-command."""
    loaded = getattr(importlib.import_module(command.module), command.name)
    if isinstance(loaded, typer.Typer):
        loaded.info.name = name
        return typer.main.get_command(loaded)
    if command.reaches:
        from galactic.cli.cluster_options import clustered  # noqa: PLC0415

        loaded = clustered(loaded)
    return _single(name, loaded)


def _single(name: str, function: Any, line: str | None = None) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, help=line)(function)
    return typer.main.get_command(alone)


class Lazy(TyperGroup):
    """A group of stand-ins with a name and a line of help; a sub-command is loaded when it is run or completed.

    Sub-commands of other distributions follow the built-in ones and replace none.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in extensions.commands() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if own := super().get_command(ctx, cmd_name):
            return own
        added = extensions.commands(cmd_name).get(cmd_name)
        return _single(cmd_name, _stand_in, added.help) if added else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        distribution = DISTRIBUTIONS.get(args[0]) if args and self.get_command(ctx, args[0]) is None else None
        if distribution and not ctx.resilient_parsing:
            ctx.fail(
                f"`galactic {args[0]}` is part of the distribution {distribution}, which is not installed; "
                "in a checkout of Galactic: pip install ./lab"
            )
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        if own := COMMANDS.get(name):
            return name, load(name, own), rest
        added = _added(name)
        if not isinstance(added, extensions.Broken):
            return name, added, rest
        return (name, command, rest) if ctx.resilient_parsing else ctx.fail(str(added))


def _added(name: str) -> Any:
    """The real sub-command of another distribution, or ``Broken``."""
    command = extensions.commands(name)[name]
    if isinstance(command, extensions.Broken):
        return command
    try:
        return load(name, command)
    except Exception as error:  # noqa: BLE001 - other distributions may raise anything
        return extensions.Broken(command.module.partition(".")[0], error)


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
    """Virtual private clouds for Kubernetes pods. Also available as: kubectl galactic."""


def _stand_in() -> None:
    raise AssertionError("Lazy.resolve_command replaces the stand-in")


for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.help)(_stand_in)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Expected errors end it with one sentence and exit code 1, without a traceback."""
    if "_GALACTIC_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined] # noqa: PLC0415

        completion_init()
    try:
        app(arguments, prog_name="galactic")
    except (GalacticError, subprocess.CalledProcessError) as error:
        typer.echo(f"galactic: {error}", err=True)
        raise SystemExit(1) from error

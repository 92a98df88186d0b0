"""Sub-commands and kinds of clusters that other distributions add by entry points.

- ``galactic.commands``: a sub-command. The value is a ``Command``, in a module that ``--help`` can load quickly.
- ``galactic.sites``: a kind of cluster. The value is called with the kubeconfig files in use, and returns a
  ``galactic.cli.cluster_access.ClusterAccess`` or None for the next one.

An entry point that cannot be loaded costs its own command and nothing else.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

COMMANDS: Final = "galactic.commands"
SITES: Final = "galactic.sites"


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command: its module, its name there, its line of help.

    ``reaches``: whether it connects to a cluster and gets the options of ``cluster_options.clustered``.
    """

    module: str
    name: str
    help: str
    reaches: bool = True


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry point that cannot be loaded."""

    distribution: str
    error: Exception

    @property
    def help(self) -> str:
        """Its line of ``--help``."""
        return f"Broken: the distribution {self.distribution} cannot be loaded."

    def __str__(self) -> str:
        kind = type(self.error).__name__
        return (
            f"the distribution {self.distribution} cannot be loaded ({kind}: {self.error}); install it again"
        )


def commands(name: str | None = None) -> dict[str, Command | Broken]:
    """The added sub-commands by name, or the one of that name."""
    points = entry_points(group=COMMANDS)
    commands = dict[str, Command | Broken]()
    for point in points if name is None else points.select(name=name):
        command = _loaded(point)
        if not isinstance(command, Command | Broken):
            command = Broken(_distribution(point), TypeError(f"{point.value} is no Command"))
        commands[point.name] = command
    return commands


def sites() -> Iterator[Any]:
    """The added kinds of clusters. One that cannot be loaded is named on standard error."""
    for point in entry_points(group=SITES):
        site = _loaded(point)
        if isinstance(site, Broken):
            sys.stderr.write(f"galactic: {site}\n")
        else:
            yield site


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # noqa: BLE001 - other distributions may raise anything
        return Broken(_distribution(point), error)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module.partition(".")[0]

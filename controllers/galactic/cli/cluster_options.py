"""Options by which commands reach a cluster, and their exit codes.

A command is a function of ``ClusterOptions`` and its own options; ``clustered`` adds kubectl's ``--kubeconfig``,
``--context`` and ``--request-timeout`` to them, and turns our errors into one sentence and one of the exit codes.
"""

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from galactic.errors import GalacticError, NotYet, Rejected, Unreachable

if TYPE_CHECKING:
    from galactic.kube.client import Kube

T = TypeVar("T")
FINE, NOT_FOUND, USAGE, DEGRADED, UNREACHABLE = range(5)
"""Exit codes: no problems; not found; usage error; problems; no answer."""
REQUEST_SECONDS: Final = 60.0
LONGER: Final = "give a longer --request-timeout"
EXITS: Final = "Exit code: 0 no problems, 1 not found, 2 usage error, 3 problems, 4 no answer."

Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Path of the kubeconfig file.", rich_help_panel="Cluster")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig.", rich_help_panel="Cluster")
]
Patience = Annotated[
    float,
    typer.Option(
        "--request-timeout",
        min=1.0,
        help="Seconds to wait for an answer.",
        rich_help_panel="Cluster",
    ),
]


class Absent(GalacticError):
    """The requested object does not exist."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The options --kubeconfig, --context and --request-timeout."""

    kubeconfig: str | None = None
    context: str | None = None
    seconds: float = REQUEST_SECONDS
    clients: "list[Kube]" = field(default_factory=list, compare=False)
    """Clients made from these options."""

    @property
    def files(self) -> list[Path]:
        """The kubeconfig files in use: from the option, KUBECONFIG or ~/.kube/config."""
        given = self.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        return [Path(part).expanduser() for part in given.split(os.pathsep) if part]

    @asynccontextmanager
    async def kube(self) -> "AsyncIterator[Kube]":
        """A client of the API server. Raises Rejected for a missing file, Unreachable."""
        from galactic.kube.client import connect  # noqa: PLC0415  (costs a second, which --help need not pay)

        self._choose()
        async with await connect(self.context) as kube:
            self.clients.append(kube)
            yield kube

    def _choose(self) -> None:
        """Makes --kubeconfig the file of all clients, by KUBECONFIG."""
        if self.kubeconfig is not None:
            path = Path(self.kubeconfig).expanduser()
            if not path.is_file():
                raise Rejected(f"no file {self.kubeconfig!r}", field="--kubeconfig")
            os.environ["KUBECONFIG"] = str(path)

    def run(self, work: Coroutine[Any, Any, T], *, seconds: float | None = None) -> T:
        """The result of ``work``. Raises Unreachable after ``seconds`` (--request-timeout).

        The error names the commands in pods that had not ended, or the API server if there are none.
        """
        limit = self.seconds if seconds is None else seconds

        async def limited() -> T:
            task = asyncio.ensure_future(work)
            done, _ = await asyncio.wait({task}, timeout=limit)
            if done:
                try:
                    return task.result()
                except TimeoutError as error:
                    raise Unreachable("kube-apiserver", f"no answer in time; {LONGER}") from error
            commands = sorted({command for kube in self.clients for command in kube.commands})
            task.cancel()
            await asyncio.wait({task})
            if commands:
                raise Unreachable("kubelet", f"{'; '.join(commands)} not done within {limit:g} s; {LONGER}")
            raise Unreachable("kube-apiserver", f"no answer within {limit:g} s; {LONGER}")

        return asyncio.run(limited())


def code(error: GalacticError) -> int:
    """The exit code for an error."""
    from galactic.kube.api import NotFound  # noqa: PLC0415

    match error:
        case Absent() | NotFound():
            return NOT_FOUND
        case Rejected(reason="Forbidden" | "Unauthorized"):
            return UNREACHABLE
        case Rejected():
            return USAGE
        case NotYet():
            return DEGRADED
        case _:
            return UNREACHABLE


def sentence(error: GalacticError) -> str:
    """The error's text, with a remedy where it has none."""
    text = str(error)
    if isinstance(error, Unreachable) and error.dependency == "kube-apiserver":
        if "401" in text or "Unauthorized" in text:
            return f"{text}; the credentials are not accepted: get new ones (kubectl auth whoami)"
        return f"{text}; is the cluster up? try: kubectl cluster-info, or give --kubeconfig and --context"
    if isinstance(error, Rejected) and error.reason == "Forbidden":
        return f"{text}; ask for a role that may (the ClusterRole view covers Galactic's kinds)"
    return text


def clustered(command: Callable[..., int | None]) -> Callable[..., None]:
    """The command line of ``command(options, …)``, which returns the exit code; None is 0."""
    signature = inspect.signature(command, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name != "options"
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (
            ("kubeconfig", None, Kubeconfig),
            ("context", None, Context),
            ("request_timeout", REQUEST_SECONDS, Patience),
        )
    ]

    @functools.wraps(command)
    def wrapper(*, kubeconfig: str | None, context: str | None, request_timeout: float, **own: Any) -> None:
        try:
            result = command(ClusterOptions(kubeconfig, context, request_timeout), **own)
        except GalacticError as error:
            typer.echo(f"galactic: {sentence(error)}", err=True)
            raise typer.Exit(code(error)) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        raise typer.Exit(result or FINE)

    wrapper.__doc__ = f"{inspect.getdoc(command)}\n\n{EXITS}"
    wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    del wrapper.__wrapped__  # or typer would read its signature instead
    return wrapper

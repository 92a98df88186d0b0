"""``galactic completion SHELL``: what a shell needs to complete this command.

``kubectl galactic`` is completed by kubectl's own completion (1.26 and later), which asks the program
``kubectl_complete-galactic`` on ``PATH``: it is installed beside ``kubectl-galactic``.
"""

import contextlib
import io
import os
import shlex
import sys
from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print what a shell needs to complete this command: source <(galactic completion bash).

    For fish: galactic completion fish | source. To keep it, put that line into ~/.bashrc, ~/.zshrc or config.fish.
    `kubectl galactic` is completed by kubectl completion SHELL, with kubectl_complete-galactic on PATH.
    """
    # Not in its __all__, and the only way without guessing which shell this runs in.
    from typer.completion import get_completion_script  # type: ignore[attr-defined] # noqa: PLC0415

    print(get_completion_script(prog_name="galactic", complete_var="_GALACTIC_COMPLETE", shell=shell.value))


def kubectl() -> None:
    """``kubectl_complete-galactic WORDS… LAST``: what may follow, a line each, in the form of cobra's ``__complete``.

    The last line is a directive: 0 lets the shell go on with names of files where there is nothing else.
    """
    from galactic.cli.main import main  # noqa: PLC0415 - it imports this module only when that is run

    words = sys.argv[1:] or [""]
    os.environ |= {
        "_GALACTIC_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(["galactic", *words[:-1]]) + f" {words[-1]}",
        "COMP_CWORD": str(len(words)),
    }
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([])
    print("\n".join([*filter(None, output.getvalue().splitlines()), ":0"]))

"""``galactic completion SHELL``: the completion script of a shell.

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
    """Supported shells."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the completion script of a shell: source <(galactic completion bash).

    For fish: galactic completion fish | source. To keep it, put that line into ~/.bashrc, ~/.zshrc or config.fish.
    `kubectl galactic` is completed by kubectl completion SHELL, with kubectl_complete-galactic on PATH.
    """
    # Not in its __all__; the other functions guess the shell.
    from typer.completion import get_completion_script  # type: ignore[attr-defined] # noqa: PLC0415

    print(get_completion_script(prog_name="galactic", complete_var="_GALACTIC_COMPLETE", shell=shell.value))


def kubectl() -> None:
    """``kubectl_complete-galactic WORDS… LAST``: completions, one a line, in the form of cobra's ``__complete``.

    The last line is a directive: 0 lets the shell complete file names if there is nothing else.
    """
    from galactic.cli.main import main  # noqa: PLC0415 - main imports this module

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

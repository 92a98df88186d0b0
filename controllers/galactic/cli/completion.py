"""``galactic completion SHELL``: what a shell needs to complete this command."""

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
    """
    # Not in its __all__, and the only way without guessing which shell this runs in.
    from typer.completion import get_completion_script  # type: ignore[attr-defined] # noqa: PLC0415

    print(get_completion_script(prog_name="galactic", complete_var="_GALACTIC_COMPLETE", shell=shell.value))

"""The kernel of a lab's nodes, as the lab uses it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from galactic_lab.processes import Program


class Kernel(Protocol):
    """The kernel of the lab's nodes. A path below ``State.root`` is the same file on both sides."""

    def programs(self) -> list[Program]:
        """The supervised programs of the kernel."""
        ...

    def boot(self) -> None:
        """Makes the lab's namespace and its link to the kernel; ``programs`` may start after that."""
        ...

    def ready(self) -> bool:
        """Whether the kernel runs commands."""
        ...

    def command(
        self,
        argv: Sequence[str],
        *,
        enter: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> list[str]:
        """An argv for the machine that runs ``argv`` in this kernel, after entering the namespace files ``enter``.

        Streams, exit status and signals are those of the command, and it does not outlive its caller.
        """
        ...


def entering(enter: Sequence[str], argv: Sequence[str]) -> list[str]:
    """``argv`` after entering the namespace files ``enter``: /proc/PID/ns/KIND, and /run/netns/NAME of networks."""
    kinds = {"mnt": "mount", "pid": "pid"}
    flags = [f"--{kinds.get(path.rpartition('/')[2], 'net')}={path}" for path in enter]
    return ["nsenter", *flags, "--", *argv] if flags else list(argv)

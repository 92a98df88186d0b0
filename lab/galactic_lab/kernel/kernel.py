"""What the lab needs of the kernel its nodes run on."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from galactic_lab.processes import Program


class Kernel(Protocol):
    """Where the lab's nodes live. Paths below ``State.root`` mean the same file on both sides."""

    def programs(self) -> list[Program]:
        """What has to be supervised for it to run."""
        ...

    def boot(self) -> None:
        """The lab's namespace exists and is linked to the kernel; ``programs`` may be started."""
        ...

    def ready(self) -> bool:
        """Whether it runs commands."""
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

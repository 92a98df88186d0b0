"""What the lab needs of the kernel its nodes run on, and whether the running one would do."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from galactic.lab.processes import Program

PROBE: Final = """
ip link set lo up
ip link add galactic-vrf type vrf table 10
ip link set galactic-vrf up
ip link add galactic0 type dummy
ip link add galactic1 type veth peer name galactic2
echo 1 > /proc/sys/net/vrf/strict_mode
ip -6 route add 2001:db8::1/128 encap seg6local action End.DT46 vrftable 10 dev galactic-vrf
ip link set galactic0 up
ip -6 route add 2001:db8::2/128 encap seg6 mode encap segs 2001:db8::3 dev galactic0
iptables-legacy -t raw -L -n
ip6tables-legacy -t raw -L -n
"""
"""What a node asks of its kernel, tried in a network namespace that ends with the shell."""


class Kernel(Protocol):
    """Where the lab's nodes live. Paths below ``State.root`` mean the same file on both sides."""

    name: str

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


def lacking() -> str:
    """What the running kernel says when asked to do a node's work; empty if it can."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-e"], input=PROBE, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unknown"])[-1]

"""The kernel the lab's nodes run on: the machine's own where it can do SRv6 VPNs, else a guest (``galactic.lab.uml``)."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from galactic.errors import Unreachable
from galactic.lab import fabric
from galactic.lab.processes import Program
from galactic.lab.state import State

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

    def stop(self) -> None:
        """Nothing of it runs any more and the lab's namespace is gone."""
        ...


def lacking() -> str:
    """What the running kernel says when asked to do a node's work; empty if it can."""
    done = subprocess.run(["unshare", "--net", "sh", "-e"], input=PROBE, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unknown"])[-1]


def ensure_namespace(name: str) -> None:
    """A named network namespace exists."""
    if not Path("/run/netns", name).exists():
        subprocess.run(["ip", "netns", "add", name], check=True)


class Host:
    """The running kernel: nodes are namespaces on it."""

    name = "host"

    def __init__(self, state: State) -> None:
        self._state = state

    def programs(self) -> list[Program]:
        return []

    def boot(self) -> None:
        state = self._state
        ensure_namespace(state.namespace)
        if Path("/run/netns", state.fabric).exists():
            return
        # Made in the lab's namespace, so that the machine's own never sees either end.
        subprocess.run(["ip", "netns", "add", state.fabric], check=True)
        link = ["ip", "-n", state.namespace, "link", "add", "uplink", "type", "veth"]
        subprocess.run([*link, "peer", "name", "control", "netns", state.fabric], check=True)
        for step in fabric.router(state, "control", inside=True) + fabric.control(state, "uplink"):
            step.run()

    def ready(self) -> bool:
        return Path("/run/netns", self._state.fabric).exists()

    def command(
        self,
        argv: Sequence[str],
        *,
        enter: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> list[str]:
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        inner = ["env", *variables, *argv] if variables else list(argv)
        # /proc/PID/ns/FILE and /run/netns/NAME; a network namespace is all the latter can be.
        flags = [f"--mount={path}" if path.endswith("/mnt") else f"--net={path}" for path in enter]
        return ["nsenter", *flags, "--", *inner] if flags else inner

    def stop(self) -> None:
        pass


def choose(state: State) -> Kernel:
    """The kernel of this lab. ``state.kernel`` says which one, or leaves it to what the machine can do."""
    from galactic.lab.uml import Uml

    if state.kernel == "uml" or (state.kernel == "" and lacking()):
        return Uml(state)
    if state.kernel in ("", "host"):
        return Host(state)
    raise Unreachable("kernel", f"unknown kernel {state.kernel!r}: host or uml")

"""The machine's running kernel as the nodes' kernel: a node is a set of namespaces on it."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from galactic.lab import fabric
from galactic.lab.kernel import entering
from galactic.lab.processes import Program
from galactic.lab.state import State


class Host:
    """The running kernel: nodes are namespaces on it."""

    name = "host"

    def __init__(self, state: State) -> None:
        self._state = state

    def programs(self) -> list[Program]:
        return []

    def boot(self) -> None:
        state = self._state
        fabric.ensure_namespace(state.namespace)
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
        terminal: bool = False,  # noqa: ARG002  (the caller's terminal is the command's)
    ) -> list[str]:
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        inner = ["env", *variables, *argv] if variables else list(argv)
        return entering(enter, inner)

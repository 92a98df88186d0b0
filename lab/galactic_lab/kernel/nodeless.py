"""A lab without nodes: a network namespace for the control plane, and no kernel besides the machine's."""

import subprocess
from collections.abc import Mapping, Sequence

from galactic.errors import Rejected
from galactic_lab.kernel import fabric
from galactic_lab.processes import Program
from galactic_lab.state import State


class Nodeless:
    """The control plane's namespace, with a link that leads nowhere."""

    def __init__(self, state: State) -> None:
        self._state = state

    def programs(self) -> list[Program]:
        return []

    def boot(self) -> None:
        state = self._state
        fabric.ensure_namespace(state.namespace)
        link = ["ip", "-n", state.namespace, "link"]
        known = subprocess.run([*link, "show", "uplink"], capture_output=True, check=False)
        if known.returncode == 0:
            return
        subprocess.run([*link, "add", "uplink", "type", "veth", "peer", "name", "control"], check=True)
        subprocess.run([*link, "set", "control", "up"], check=True)
        for step in fabric.control(state, "uplink"):
            step.run()

    def ready(self) -> bool:
        return True

    def command(
        self,
        argv: Sequence[str],  # noqa: ARG002
        *,
        enter: Sequence[str] = (),  # noqa: ARG002
        environment: Mapping[str, str] | None = None,  # noqa: ARG002
        terminal: bool = False,  # noqa: ARG002
    ) -> list[str]:
        raise Rejected(f"lab {self._state.name!r} has no nodes", field="lab")

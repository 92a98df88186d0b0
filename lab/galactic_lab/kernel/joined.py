"""A lab whose nodes are on another lab's fabric, in the same kernel: another cluster with the same underlay and broker.

Its control plane has a namespace of its own, linked to that of the other lab, which forwards packets for the nodes. Its
nodes have the same view of the host's files as those of the other lab.
"""

import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Network

from galactic_lab.kernel import fabric
from galactic_lab.kernel.kernel import Kernel
from galactic_lab.processes import Program
from galactic_lab.state import CONTROL, VOLATILE, State


class Joined:
    """The kernel of the joined lab."""

    def __init__(self, state: State, kernel: Kernel) -> None:
        self._state, self._kernel = state, kernel

    @property
    def _network(self) -> IPv6Network:
        return IPv6Network((self._state.control, 64), strict=False)

    def programs(self) -> list[Program]:
        return []

    def boot(self) -> None:
        state, host, device = self._state, self._state.host, f"site-{self._state.site}"
        fabric.ensure_namespace(state.namespace)
        known = ["ip", "-n", host.namespace, "link", "show", device]
        if subprocess.run(known, capture_output=True, check=False).returncode != 0:
            link = ["ip", "-n", state.namespace, "link", "add", "uplink", "type", "veth"]
            subprocess.run([*link, "peer", "name", device, "netns", host.namespace], check=True)
            for step in (*fabric.control(state, "uplink"), *fabric.passing(host, device, state.gateway)):
                step.run()
        way = ["ip", "-n", state.fabric, "-6", "route", "replace", str(self._network)]
        self._do([*way, "via", str(CONTROL), "dev", "control"])
        where = str(state.root)
        mount = f"mkdir -p {where}; mountpoint -q {where} || mount -t hostfs -o {where} none {where}"
        self._do(["sh", "-ec", mount])

    def leave(self) -> None:
        """Removes the lab from the other lab's kernel, if that still runs."""
        state = self._state
        names = [member.namespace for member in state.members]
        script = [
            *(f"ip netns pids {name} | xargs -r kill -9; ip netns delete {name}" for name in names),
            *(f"rm -rf {VOLATILE / name}" for name in names),
            f"ip -n {state.fabric} -6 route delete {self._network}",
            f"umount {state.root} && rmdir {state.root}",
        ]
        self._do(["sh", "-c", "\n".join(f"({line}) 2>/dev/null" for line in script)], check=False)

    def ready(self) -> bool:
        return self._kernel.ready()

    def command(
        self,
        argv: Sequence[str],
        *,
        enter: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> list[str]:
        return self._kernel.command(argv, enter=enter, environment=environment, terminal=terminal)

    def _do(self, argv: list[str], *, check: bool = True) -> None:
        command = self.command(argv)
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=check)

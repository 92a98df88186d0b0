"""The nodes, inside the lab's kernel: one preloaded process that forks, per node, a supervisor with its programs.

``python -m galactic.lab.nodes LAB``. Imports are paid for once. A node is a real one, with containerd and kubelet in a
machine of its own (``runtime.node``), or has a stand-in for both: then it is a network and a mount namespace with a
private /run/galactic (kept over restarts of this program) and the /sys of its network. Ending this program ends
everything it started; of stand-ins it leaves the data plane (namespaces, devices, routes) as it is.
"""

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from galactic.lab import controllers, fabric, kubelet, namespaces
from galactic.lab.runtime import machine
from galactic.lab.runtime.machine import VOLATILE
from galactic.lab.runtime.node import RealNode
from galactic.lab.state import Node, State, environment
from galactic.lab.supervision import CONTROLLER, TICK_SECONDS, Supervisor, become, fork, meaning, redirect

SHARED: Final = "/run/netns"

log = logging.getLogger("galactic.lab.nodes")


def isolate(member: Node) -> None:
    """Moves the caller into the node's network namespace and a new mount namespace; /run/netns stays common."""
    private = VOLATILE / member.namespace
    private.mkdir(parents=True, exist_ok=True)
    Path("/run/galactic").mkdir(exist_ok=True)
    namespaces.enter(f"/run/netns/{member.namespace}", namespaces.CLONE_NEWNET)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    for path, shared in namespaces.mount_points():
        if shared and path != SHARED and not path.startswith(SHARED + "/"):
            namespaces.mount("none", path, flags=namespaces.MS_PRIVATE)
    namespaces.mount(str(private), "/run/galactic", flags=namespaces.MS_BIND)
    namespaces.mount("sysfs", "/sys", "sysfs")


class StandIn(Supervisor):
    """A node whose kubelet is ours."""

    def programs(self) -> dict[str, Callable[[], None]]:
        return {"kubelet": self._kubelet}

    def isolate(self) -> None:
        isolate(self._member)

    def _kubelet(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.kubelet.log")
        become(environment() | {"KUBECONFIG": str(state.identity(f"kubelet-{member.name}"))})
        kubelet.run(
            kubelet.Settings(
                node=member.name,
                address=str(member.address),
                plugins=(state.tools / "cni", Path("/opt/cni/bin"), Path("/usr/lib/cni")),
                folder=state.node_dir(member.name) / "sandboxes",
                logs=state.logs,
                annotations={"galactic.datumapis.com/srv6-prefix": str(member.prefix)},
            )
        )


def preload() -> None:
    """Imports what every node needs, before anything is forked."""
    if not controllers.installed(CONTROLLER):
        log.warning("%s does not exist: nodes run without a controller", CONTROLLER)
        return
    try:
        importlib.import_module(CONTROLLER)
    except Exception:
        log.exception("%s cannot be imported; it is tried again at every start", CONTROLLER)


def _prepare(state: State) -> None:
    """The fabric is there, and what nodes need is imported."""
    started = time.monotonic()
    if state.real:
        machine.prepare_kernel()
    for member in state.members:
        fabric.ensure_node(state, member)
    if not state.chart:
        preload()
    log.info("ready to start %d nodes after %.1f s", state.nodes, time.monotonic() - started)


def main() -> None:
    """Until SIGTERM: the fabric is there, and every node's supervisor runs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    state = State.load(sys.argv[1])
    if state is None:
        sys.exit(f"there is no lab {sys.argv[1]!r}")
    _prepare(state)
    kind: type[Supervisor] = RealNode if state.real else StandIn
    ending = False

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, terminate)
    running: dict[int, Node] = {}
    waiting = list(state.members)
    while not ending:
        while waiting and state.gate.exists():
            member = waiting.pop()
            running[fork(kind(state, member).run)] = member
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid in running:
            log.warning("supervisor of %s ended with %s", running[pid].name, meaning(status))
            waiting.append(running.pop(pid))
        time.sleep(TICK_SECONDS)
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    for pid in running:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

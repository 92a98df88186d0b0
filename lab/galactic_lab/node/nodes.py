"""The nodes, inside the lab's kernel: one preloaded process forks a supervisor for each node.

``python -m galactic_lab.node.nodes LAB``. Imports happen once. Each node has a machine of its own, with
containerd and kubelet (``node.node``). Ending this program ends everything it started.
"""

import importlib
import logging
import os
import signal
import sys
import time
from types import FrameType

from galactic_lab.controlplane import controllers
from galactic_lab.kernel import fabric
from galactic_lab.node import machine
from galactic_lab.node.node import CONTROLLER, LabNode
from galactic_lab.node.supervision import TICK_SECONDS, fork, meaning
from galactic_lab.state import Node, State

log = logging.getLogger("galactic_lab.node.nodes")


def preload() -> None:
    """Imports the node controller once, before the forks."""
    if not controllers.installed(CONTROLLER):
        log.warning("%s does not exist: nodes run without a controller", CONTROLLER)
        return
    try:
        importlib.import_module(CONTROLLER)
    except Exception:
        log.exception("%s cannot be imported; it is tried again at every start", CONTROLLER)


def _prepare(state: State) -> None:
    """Makes the fabric, and imports the node controller."""
    started = time.monotonic()
    machine.prepare_kernel()
    for member in state.members:
        fabric.ensure_node(state, member)
    if not state.chart:
        preload()
    log.info("ready to start %d nodes after %.1f s", state.nodes, time.monotonic() - started)


def main() -> None:
    """Keeps the fabric and every node's supervisor running, until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    state = State.load(sys.argv[1])
    if state is None:
        sys.exit(f"there is no lab {sys.argv[1]!r}")
    _prepare(state)
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
            running[fork(LabNode(state, member).run)] = member
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

"""What keeps a node's programs running: a process that forks each of them, and starts again what dies.

The pause before a start doubles from one second, as kubelet does it with containers. The controller stays away while
the node's hold file exists.
"""

import importlib
import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from galactic_lab.controlplane import broker, controllers
from galactic_lab.kernel import namespaces
from galactic_lab.state import Node, State

BACKOFF_SECONDS: Final = (1.0, 60.0)
STEADY_SECONDS: Final = 30.0
TICK_SECONDS: Final = 0.5
"""Four processes look that often, and a guest is slow at every system call: at 0.2 that was a tenth of its time."""
STOP_SECONDS: Final = 8.0
CONTROLLER: Final = "galactic.node.__main__"

log = logging.getLogger("galactic_lab.node.nodes")


@dataclass(slots=True)
class Child:
    """One program that is kept running, except while ``held``."""

    role: str
    start: Callable[[], None]
    held: Callable[[], bool]
    away: Callable[[], None] = lambda: None
    """Called as long as it is held and does not run: none is started any more while it is held."""
    pid: int = 0
    since: float = 0.0
    after: float = 0.0
    pause: float = BACKOFF_SECONDS[0]
    asked: bool = False

    def tick(self, pidfile: Path) -> None:
        """Starts it if it should run and does not; ends it if it is held."""
        now = time.monotonic()
        held = self.held()
        if self.pid and held:
            if not self.asked:
                os.kill(self.pid, signal.SIGTERM)
            self.asked = True
        elif held:
            self.away()
        elif not self.pid and now >= self.after:
            self.pid, self.since = fork(self.start), now
            partial = pidfile.with_suffix(".partial")  # whoever reads it meanwhile reads all or nothing
            partial.write_text(f"{self.pid}\n")
            partial.rename(pidfile)
            log.info("%s started, pid %d", self.role, self.pid)

    def ended(self, status: int, pidfile: Path) -> None:
        """It ended with ``status``; the next start waits, longer each time it does not stay up."""
        now = time.monotonic()
        if self.asked:
            log.info("%s ended, as asked, with %s", self.role, meaning(status))
            self.pid, self.asked, self.pause = 0, False, BACKOFF_SECONDS[0]
            pidfile.unlink(missing_ok=True)
            return
        if now - self.since > STEADY_SECONDS:
            self.pause = BACKOFF_SECONDS[0]
        self.after = now + self.pause
        log.warning("%s ended with %s; again in %.0f s", self.role, meaning(status), self.pause)
        self.pause = min(self.pause * 2, BACKOFF_SECONDS[1])
        self.pid = 0
        pidfile.unlink(missing_ok=True)


def meaning(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"status {code}"


def fork(start: Callable[[], None]) -> int:
    """Runs ``start`` in a child that never returns into the caller's code; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        namespaces.die_with_parent()
        start()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        logging.getLogger(__name__).exception("a node's process failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def redirect(path: Path) -> None:
    """The caller's output goes to the end of ``path``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def become(variables: dict[str, str]) -> None:
    """The caller's environment is exactly ``variables``."""
    os.environ.clear()
    os.environ.update(variables)


class Supervisor(ABC):
    """One node: the programs of its kind, and Galactic's controller."""

    def __init__(self, state: State, member: Node) -> None:
        self._state, self._member = state, member
        hold = state.hold(member.name)
        self._children = [Child(role, start, lambda: False) for role, start in self.programs().items()]
        if not state.chart and controllers.installed(CONTROLLER):
            self._children.append(Child("controller", self._controller, hold.exists, self._away))
        self._ending = False

    @abstractmethod
    def programs(self) -> dict[str, Callable[[], None]]:
        """What runs beside the controller: role → the child's work."""

    @abstractmethod
    def isolate(self) -> None:
        """Moves the caller into the node."""

    def ended(self, pid: int) -> bool:  # noqa: ARG002 - for kinds with further processes
        """Whether the process that ended was the node's own, and none of its programs."""
        return False

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, self._terminate)
        state, name = self._state, self._member.name
        state.node_dir(name).mkdir(parents=True, exist_ok=True)
        self.isolate()
        state.pid(name, "supervisor").write_text(f"{os.getpid()}\n")
        while not self._ending:
            for child in self._children:
                child.tick(state.pid(name, child.role))
            self._reap()
            time.sleep(TICK_SECONDS)
        state.pid(name, "supervisor").unlink(missing_ok=True)
        self._stop()

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _away(self) -> None:
        self._state.away(self._member.name).touch()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.ended(pid):
                continue
            for child in self._children:
                if child.pid == pid:
                    child.ended(status, self._state.pid(self._member.name, child.role))

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        while any(child.pid for child in self._children) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)

    def _controller(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.controller.log")
        variables = controllers.settings(state, f"galactic-node-{member.name}")
        variables |= broker.variables(state, broker.node(state, member.name))
        own = {"GALACTIC_NODE_NAME": member.name, "GALACTIC_UNDERLAY_INTERFACE": "eth0"}
        become(variables | own | {"GALACTIC_CNI_CONF_DIR": "/etc/cni/net.d", "TMPDIR": "/tmp"})  # noqa: S108
        sys.argv = ["galactic-node"]
        importlib.import_module(CONTROLLER).main()

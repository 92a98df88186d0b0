"""Keeps a node's programs running: forks each of them, and starts again what ends.

The pause before a start doubles from one second, as kubelet does with containers. A held program stays stopped.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from galactic.backoff import Backoff
from galactic_lab.kernel import namespaces

BACKOFF_SECONDS: Final = (1.0, 60.0)
STEADY_SECONDS: Final = 30.0
TICK_SECONDS: Final = 0.5
"""Between two ticks. System calls are slow in a guest: at 0.2 s three nodes' supervisors took a tenth of its time."""
STOP_SECONDS: Final = 8.0

log = logging.getLogger("galactic_lab.node.nodes")


@dataclass(slots=True)
class Child:
    """One program that is kept running, except while ``held``.

    ``stopped`` is called at each tick while it is held and does not run: it is then not started before the release.
    """

    role: str
    start: Callable[[], None]
    held: Callable[[], bool] = lambda: False
    stopped: Callable[[], None] = lambda: None
    pid: int = 0
    started_at: float = 0.0
    start_after: float = 0.0
    stopping: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(*BACKOFF_SECONDS, spread=0.0))

    def tick(self, pidfile: Path) -> None:
        """Starts the program if it should run and does not; ends it if it is held."""
        now = time.monotonic()
        held = self.held()
        if self.pid and held:
            if not self.stopping:
                os.kill(self.pid, signal.SIGTERM)
            self.stopping = True
        elif held:
            self.stopped()
        elif not self.pid and now >= self.start_after:
            self.pid, self.started_at = fork(self.start), now
            partial = pidfile.with_suffix(".partial")  # readers see all of it or nothing
            partial.write_text(f"{self.pid}\n")
            partial.rename(pidfile)
            log.info("%s started, pid=%d", self.role, self.pid)

    def ended(self, status: int, pidfile: Path) -> None:
        """The program ended with ``status``. The next start waits, longer each time it does not stay up."""
        now = time.monotonic()
        self.pid = 0
        pidfile.unlink(missing_ok=True)
        if self.stopping:
            log.info("%s stopped for a hold, %s", self.role, meaning(status))
            self.stopping = False
            self.backoff.succeeded()
            return
        if now - self.started_at > STEADY_SECONDS:
            self.backoff.succeeded()
        pause = self.backoff.pause()
        self.start_after = now + pause
        log.warning("%s ended with %s, restart in %.0f s", self.role, meaning(status), pause)


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


class Supervisor:
    """Keeps the children of one node running until SIGTERM, or until the node's first process ends.

    With its first process the kernel ends everything in the node. ``pidfile`` is the file of each role's process id.
    """

    def __init__(self, children: Sequence[Child], pidfile: Callable[[str], Path]) -> None:
        self._children, self._pidfile = children, pidfile
        self._init = 0
        self._ending = False

    def run(self, boot: Callable[[], int]) -> None:
        """``boot`` moves the caller into the node, and returns the process id of the node's first process."""
        signal.signal(signal.SIGTERM, self._terminate)
        self._init = boot()
        own = self._pidfile("supervisor")
        own.write_text(f"{os.getpid()}\n")
        while not self._ending:
            for child in self._children:
                child.tick(self._pidfile(child.role))
            self._reap()
            time.sleep(TICK_SECONDS)
        own.unlink(missing_ok=True)
        self._stop()

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._init:
                self._init, self._ending = 0, True
                continue
            for child in self._children:
                if child.pid == pid:
                    child.ended(status, self._pidfile(child.role))

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
        if self._init:
            os.kill(self._init, signal.SIGKILL)

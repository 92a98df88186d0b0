"""Supervised processes, and the supervisord that keeps them running.

Each lab has a supervisord of its own; its programs log to the lab's folder. Stopping a program ends its process group.
"""

import http.client
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from galactic.errors import Rejected, Unreachable
from galactic_lab.state import State

START_SECONDS: Final = 120.0
ANSWER_SECONDS: Final = 180.0
"""supervisord answers a stop when the program has ended."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process. ``inside`` puts it in the lab's network namespace."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    inside: bool = True
    priority: int = 500
    stop_seconds: int = 10
    stop_signal: str = "TERM"

    def section(self, state: State) -> str:
        """The program's section of supervisord's configuration."""
        argv = (
            ["nsenter", f"--net=/run/netns/{state.namespace}", *self.argv] if self.inside else list(self.argv)
        )
        log = state.logs / f"{self.name}.log"
        lines = [
            f"[program:{self.name}]",
            "command=" + " ".join(_quoted(word) for word in argv),
            "environment=" + ",".join(f"{key}={_quoted(value)}" for key, value in self.environment.items()),
            f"priority={self.priority}",
            f"directory={state.root}",
            "autostart=false",
            "autorestart=true",
            "startsecs=1",
            "startretries=1000000",
            f"stopsignal={self.stop_signal}",
            f"stopwaitsecs={self.stop_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={log}",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=1",
        ]
        return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


class _Connection(xmlrpc.client.Transport):
    """XML-RPC over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> Any:  # noqa: ARG002  (there is only one)
        connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ANSWER_SECONDS)
        connection.sock.connect(str(self._path))
        return connection


class Supervisor:
    """One lab's supervisord."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._socket = state.root / "supervisor.sock"
        self._config = state.root / "supervisord.conf"
        self._pidfile = state.root / "supervisord.pid"

    @property
    def _rpc(self) -> Any:
        proxy: Any = xmlrpc.client.ServerProxy(
            "http://lab", transport=_Connection(self._socket), allow_none=True
        )
        return proxy.supervisor

    def running(self) -> bool:
        """Whether supervisord answers."""
        try:
            return bool(self._rpc.getState()["statecode"] == 1)
        except (OSError, xmlrpc.client.Error):
            return False

    def ensure(self, programs: Iterable[Program], environment: Mapping[str, str]) -> None:
        """Runs supervisord with exactly these programs configured. It starts none of them, and ends surplus ones."""
        sections = "\n".join(program.section(self._state) for program in programs)
        self._state.logs.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f"[supervisord]\npidfile={self._pidfile}\nlogfile={self._state.logs / 'supervisord.log'}\n"
            f"childlogdir={self._state.logs}\nnodaemon=false\nminfds=4096\n"
            f"[unix_http_server]\nfile={self._socket}\nchmod=0600\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n" + sections
        )
        if not self.running():
            self._start(environment)
            return
        added, changed, removed = self._rpc.reloadConfig()[0]
        for name in (*changed, *removed):
            self._rpc.stopProcessGroup(name)
            self._rpc.removeProcessGroup(name)
        for name in (*added, *changed):
            self._rpc.addProcessGroup(name)

    def _start(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)]
        done = subprocess.run(
            command,
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + START_SECONDS
        while done.returncode == 0 and not self.running() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self.running():
            raise Unreachable("supervisord", f"it does not start: {done.stderr or done.stdout}".strip())

    def start(self, *names: str) -> None:
        """Starts those of the programs that do not run."""
        for name in names:
            self._tolerant("startProcess", name, False)

    def stop(self, *names: str) -> None:
        """Stops the programs, and returns when they have ended."""
        for name in names:
            self._tolerant("stopProcess", name, True)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def kill(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to one program. If that ends it, supervisord starts it again."""
        self._tolerant("signalProcess", name, number.name.removeprefix("SIG"))

    def _tolerant(self, method: str, name: str, *arguments: Any) -> None:
        try:
            getattr(self._rpc, method)(name, *arguments)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" in fault.faultString or "NOT_RUNNING" in fault.faultString:
                return
            if "BAD_NAME" in fault.faultString:
                known = ", ".join(entry["name"] for entry in self.status())
                raise Rejected(
                    f"there is no component {name!r}; there are {known}", field="component"
                ) from fault
            raise Unreachable("supervisord", f"{name}: {fault.faultString}") from fault
        except OSError as error:
            raise Unreachable("supervisord", f"{error}; is the lab up?") from error

    def status(self) -> list[dict[str, Any]]:
        """name, statename, pid, description of every program; empty where supervisord is away."""
        try:
            entries: list[dict[str, Any]] = self._rpc.getAllProcessInfo()
        except (OSError, xmlrpc.client.Error):
            return []
        return entries

    def pid(self) -> int | None:
        """Supervisord's process id, if it wrote one."""
        try:
            return int(self._pidfile.read_text())
        except (OSError, ValueError):
            return None

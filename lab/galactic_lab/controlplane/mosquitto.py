"""A Mosquitto on free loopback ports, for tests and benches. The lab's own is ``broker``."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from galactic.errors import GalacticError
from galactic_lab.controlplane import ports

PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/bin"
START_SECONDS: Final = 120.0


class Mosquitto:
    """One broker; its files lie in ``folder``. Ports are given out by name and stay over restarts.

    Raises GalacticError where the program is missing, ends, or does not listen after its start.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto", path=PATH)
        if program is None:
            raise GalacticError("Mosquitto is needed: apt-get install mosquitto mosquitto-clients")
        self._program, self.folder, self._config = program, folder, ""
        self.log = folder / "mosquitto.log"
        self.ports: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def port_of(self, name: str) -> int:
        """The port of that name. This process keeps it bound: no other process is given it."""
        if name not in self.ports:
            holder = ports.kept()
            self.ports[name] = ports.number(holder)
            weakref.finalize(self, holder.close)
        return self.ports[name]

    @property
    def port(self) -> int:
        """The port without authentication, in the configuration that ``start`` writes."""
        return self.port_of("plain")

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self, *, config: str | None = None, persistence: bool = False, extra: str = "") -> None:
        """Returns when it listens on every port that was given out.

        Without ``config``, on one port without authentication, with the lines of ``extra``, and Mosquitto's defaults.
        """
        if config is None:
            lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", extra]
            if persistence:
                lines += ["persistence true", f"persistence_location {self.folder}/"]
                lines += ["autosave_on_changes true", "autosave_interval 1"]
            config = "\n".join(lines) + "\n"
        path = self.folder / "mosquitto.conf"
        path.write_text(f"user {pwd.getpwuid(os.getuid()).pw_name}\n{config}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([self._program, "-c", path], stderr=log)
        deadline = time.monotonic() + START_SECONDS
        for port in self.ports.values():
            while not self._listens(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise GalacticError(f"Mosquitto does not listen on port {port}: {self.log.read_text()}")
                time.sleep(0.02)

    def reload(self) -> None:
        """Sends SIGHUP: it reads passwords and access list again."""
        if self.process:
            os.kill(self.process.pid, signal.SIGHUP)

    def kill(self) -> None:
        """Sends SIGKILL; its files stay."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    @staticmethod
    def _listens(port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def mosquitto(extra: str = "") -> Iterator[str]:
    """The URL of a broker with these lines in its configuration; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        try:
            broker.start(extra=extra)
            yield broker.url
        finally:
            broker.kill()

"""A PostgreSQL server in a folder, for labs, tests and benches, apart from the machine's own.

``initdb`` and ``postgres`` refuse to run as root: for root they run as the user ``nobody``. The server listens on a
loopback port and accepts connections from this machine only.
"""

import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from galactic.errors import Rejected, Unreachable
from galactic_lab.builds import packages
from galactic_lab.controlplane import ports

PACKAGE: Final = "postgresql"
STARTS_WITHIN_SECONDS: Final = 120.0
ENDS_WITHIN_SECONDS: Final = 60.0


def programs() -> Path:
    """The folder of the newest server's programs; installed when missing. Raises Rejected, Unreachable."""
    if (found := newest()) is None:
        packages.install([PACKAGE])
        found = newest()
    if found is None:
        raise Rejected(f"the package {PACKAGE} brings no initdb", field="packages")
    return found


def newest() -> Path | None:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(part) for part in re.findall(r"\d+", path.parts[4])],
    )
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def owner() -> str | None:
    """The user that runs it in place of root; None: the caller."""
    return "nobody" if os.geteuid() == 0 else None


def make(folder: Path, *, port: int, listen: str = "127.0.0.1") -> None:
    """An empty cluster below ``folder``, which is new. Its superuser is ``galactic``, without a password."""
    program = programs() / "initdb"
    folder.mkdir(parents=True)
    if user := owner():
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    argv: list[str | Path] = [program, "-D", folder / "data", "-U", "galactic", "-A", "trust"]
    done = subprocess.run(
        [*argv, "-E", "UTF8", "--locale=C", "-N"],
        user=owner(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(folder)
        raise Unreachable("postgres", done.stderr[-2000:])
    with (folder / "data/postgresql.conf").open("a") as settings:
        settings.write(
            f"listen_addresses = '{listen}'\nport = {port}\nunix_socket_directories = ''\n"
            "shared_buffers = 32MB\nautovacuum = on\n"
            "dynamic_shared_memory_type = mmap\n"  # keeps all files below the folder, also of a killed server
        )


def command(folder: Path) -> list[str]:
    """The server of the cluster below ``folder``, as ``owner``."""
    argv = [str(programs() / "postgres"), "-D", str(folder / "data")]
    if user := owner():
        group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *argv]
    return argv


class Postgres:
    """One server below ``folder``, which must not exist yet, as a child of this process.

    This process keeps its port bound, before its start and while it is dead: no other process is given the port.
    """

    def __init__(self, folder: Path) -> None:
        self._programs, self._folder = programs(), folder
        holder = ports.kept()
        self.port = ports.number(holder)
        weakref.finalize(self, holder.close)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "galactic") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    @property
    def folder(self) -> Path:
        """The folder of the server; its files are in ``data``."""
        return self._folder

    def make(self) -> None:
        """The empty cluster."""
        make(self._folder, port=self.port)

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        with (self._folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                command(self._folder),
                cwd="/",
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        asking: list[str | Path] = [
            self._programs / "pg_isready",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while subprocess.run(asking, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Unreachable("postgres", (self._folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """Kills all its processes with SIGKILL and waits for their end: the next server refuses to start beside a
        dying one.
        """
        if self._process is not None:
            children: list[int] = []
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGSTOP)  # it starts no more of them
                children = self._signal(signal.SIGKILL)
                self._process.wait()
            self._process = None
            deadline = time.monotonic() + ENDS_WITHIN_SECONDS
            while any(_runs(pid) for pid in children) and time.monotonic() < deadline:
                time.sleep(0.005)

    def pause(self) -> None:
        """Sends SIGSTOP: connections stay, and no request is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Ends it and removes its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> list[int]:
        """Signals the postmaster and its children, each the leader of a session. Returns the children."""
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        children = [int(pid) for pid in listed.split()]
        for pid in (self._process.pid, *children):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return children


@contextmanager
def temporary() -> Iterator[Postgres]:
    """A server that answers; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="galactic-postgres-"))
    folder.chmod(0o755)  # for the user that runs it
    server = Postgres(folder / "server")
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.remove()
        shutil.rmtree(folder)


def _runs(pid: int) -> bool:
    """Whether the process still has resources; a zombie has none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")

"""Builds that are made once: cached by a hash of their inputs, locked, atomic, with visible progress."""

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from galactic.errors import GalacticError
from galactic_lab.builds import cache, fetching


class BuildFailed(GalacticError):
    """A build failed; the message has the last lines of its log, and the log's path."""


@dataclass(slots=True)
class Job:
    """A running build: work folder, result folder, log, and progress in seconds of ``Build.seconds``."""

    work: Path
    out: Path
    log: IO[bytes]
    advance: Callable[[float, str], None]
    done: float = 0.0

    def run(
        self,
        argv: Sequence[str],
        *,
        seconds: float,
        lines: int = 1,
        title: str = "",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> str:
        """Runs one command, expected to take ``seconds`` and to print ``lines``; its output. Raises BuildFailed."""
        self.log.write(f"\n$ {' '.join(argv)}\n".encode())
        self.advance(self.done, title)
        process = subprocess.Popen(
            list(argv),
            cwd=cwd or self.work,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if process.stdin:
                process.stdin.write((stdin or "").encode())
                process.stdin.close()
            assert process.stdout
            printed = []
            for count, line in enumerate(process.stdout, start=1):
                printed.append(line)
                self.log.write(line)
                self.log.flush()
                self.advance(self.done + seconds * min(count / lines, 0.99), title)
            status = process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        if status != 0:
            raise BuildFailed(f"{argv[0]} ended with status {status}")
        self.done += seconds
        self.advance(self.done, title)
        return b"".join(printed).decode(errors="replace")

    def fetch(
        self,
        argv: Sequence[str],
        *,
        seconds: float,
        lines: int,
        title: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Like ``run``, for a command that asks a mirror: with further tries (``fetching``). Raises BuildFailed."""
        ask = partial(
            self.run, argv, seconds=seconds, lines=lines, title=title, cwd=cwd, environment=environment
        )
        for pause in fetching.pauses():
            try:
                return ask()
            except BuildFailed:
                time.sleep(pause)
        return ask()


@dataclass(frozen=True, slots=True)
class Build:
    """A cached build: ``make`` writes ``files``, which are valid as long as ``inputs`` is the same text."""

    name: str
    files: tuple[str, ...]
    inputs: str
    seconds: float
    make: Callable[[Job], None] = field(compare=False)

    @property
    def home(self) -> Path:
        """The folder of its files; it may not exist yet."""
        release = platform.freedesktop_os_release()
        text = f"{self.inputs}\n{release.get('ID')} {release.get('VERSION_ID')} {platform.machine()}"
        return cache.root() / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def find(self, file: str) -> Path | None:
        """The path of a built file; None before the build."""
        path = self.home / file
        return path if path.exists() else None

    def built(self) -> bool:
        return all(self.find(file) for file in self.files)

    def ensure(self, advance: Callable[[float, str], None]) -> Path:
        """``home``, built first if it is missing. Waits while another process builds it."""
        if self.built():
            return self.home
        cache.root().mkdir(parents=True, exist_ok=True)
        with self._locked(advance):
            if not self.built():
                self._build(advance)
        return self.home

    @contextmanager
    def _locked(self, advance: Callable[[float, str], None]) -> Iterator[None]:
        with (cache.root() / f"{self.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                advance(0.0, "another process is building it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, advance: Callable[[float, str], None]) -> None:
        for stale in cache.root().glob(
            f"{self.name}.building-*"
        ):  # left by a killed build: this process holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{self.name}.building-", dir=cache.root()))
        path = cache.root() / f"{self.name}.log"
        try:
            out = work / "out"
            out.mkdir()
            with path.open("wb") as log:
                self.make(Job(work, out, log, advance))
            for file in self.files:
                (out / file).stat()
            if self.home.exists():
                shutil.rmtree(self.home)
            out.rename(self.home)
        except (BuildFailed, OSError, subprocess.SubprocessError) as error:
            tail = "\n".join(path.read_text(errors="replace").splitlines()[-20:])
            raise BuildFailed(
                f"building {self.name} failed: {error}\n\n{tail}\n\n"
                f"The whole log is {path}; the next run starts afresh."
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

"""A container runtime for an image's root file system, with the features that Galactic's containers use.

A process tree of its own in which the command is process 1, the root file system read-only, /proc, a bare /dev, no
capabilities but those that are given, no new privileges, the environment of the image; network and host name are the
machine's unless ``net`` is false.
"""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

USER = 65532
DEVICES = ("null", "zero", "full", "random", "urandom")
NODE = ("net_admin", "sys_admin", "net_raw")
SECONDS = 600
"""For a command that ends by itself."""
GRACE_SECONDS = 240


@dataclass
class Running:
    """A container that was started."""

    process: "subprocess.Popen[bytes]"
    log: "tempfile._TemporaryFileWrapper[bytes]"

    @property
    def output(self) -> str:
        """The output until now."""
        return Path(self.log.name).read_text()

    @property
    def first(self) -> int | None:
        """The number that its process 1 has on the machine; None if there is none any more."""
        number = self.process.pid
        if self.process.poll() is not None:
            return None
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        return int(children[0]) if children else None

    def alive(self) -> None:
        """Raises AssertionError with its output if it ended."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.output[-3000:]}"

    def send(self, number: int) -> None:
        """Sent to process 1, if there is one."""
        if first := self.first:
            os.kill(first, number)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signals process 1; its exit code, and its output."""
        try:
            self.send(number)
            self.process.wait(timeout=GRACE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        return self.process.returncode, self.output


@dataclass
class Container:
    """``mounts``: what of the machine is where inside, writable. ``memory``: what is a file system in memory."""

    root: Path
    environment: Mapping[str, str]
    user: int = USER
    capabilities: Sequence[str] = ()
    mounts: Mapping[str, Path] = field(default_factory=dict)
    memory: Sequence[str] = ()
    writable: bool = False
    net: bool = True
    enter: Sequence[str] = ()
    """The beginning of the command line, to enter another container's network."""

    def start(self, *command: str, **variables: str) -> "Running":
        """Runs until it is ended, or ends."""
        # a pipe without a reader would fill up
        log = tempfile.NamedTemporaryFile(prefix="container-", suffix=".log")  # noqa: SIM115
        words = self._words(command, variables)
        return Running(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT), log)

    def run(self, *command: str, given: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
        words = self._words(command, variables)
        return subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def _words(self, command: Sequence[str], variables: Mapping[str, str]) -> list[str]:
        spaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if self.net else ["--net"])]
        return [*self.enter, "unshare", *spaces, "sh", "-c", self._script(command, variables)]

    def _script(self, command: Sequence[str], variables: Mapping[str, str]) -> str:
        root = shlex.quote(str(self.root))
        lines = ["set -e", f"mount --bind {root} {root}", f"cd {root}"]
        lines += ["mount -t proc proc proc", "mount -t tmpfs tmpfs dev"]
        lines += [f"touch dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES]
        for inside in self.memory:
            (self.root / inside[1:]).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount -t tmpfs -o mode=1777 tmpfs .{inside}")
        for inside, outside in self.mounts.items():
            point = self.root / inside[1:]
            assert point.resolve().is_relative_to(self.root.resolve()), (
                f"{inside} is behind a link of the image's"
            )
            if outside.is_dir():
                point.mkdir(parents=True, exist_ok=True)
            else:
                point.parent.mkdir(parents=True, exist_ok=True)
                point.touch()
            lines.append(f"mount --rbind {shlex.quote(str(outside))} .{inside}")
        if not self.net:
            lines.append("ip link set lo up")
        if not self.writable:
            lines.append(f"mount -o remount,bind,ro {root}")
        kept = ",".join(["-all", *(f"+{name}" for name in self.capabilities)])
        confined = ["/usr/bin/setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        confined += ["--no-new-privs", f"--bounding-set={kept}", "--inh-caps=-all", "--ambient-caps=-all"]
        environment = [f"{name}={value}" for name, value in {**self.environment, **variables}.items()]
        words = ["chroot", ".", *confined, "/usr/bin/env", "-i", *environment, *command]
        return "\n".join([*lines, f"exec {shlex.join(words)}"])

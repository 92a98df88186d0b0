"""Nodes that have nothing but the plugin: a directory to chroot into."""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path("opt/cni/bin")
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
CONFIG = {"cniVersion": "1.0.0", "name": "blue", "type": "galactic"}
PATIENCE_SECONDS = 120
CALL = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/ns/1", "CNI_IFNAME": "galactic0"}


@dataclass
class Done:
    code: int
    out: bytes
    error: bytes

    @property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value


@dataclass
class Chroot:
    """A root directory with nothing in it but what is installed there."""

    root: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def bin(self) -> Path:
        return self.root / BIN

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        started = subprocess.Popen(
            [CHROOT, self.root, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
        )
        self.processes.append(started)
        return started

    def run(self, *command: str, stdin: bytes = b"", **variables: str) -> Done:
        process = self.start(*command, **variables)
        out, error = process.communicate(stdin, timeout=PATIENCE_SECONDS)
        self.processes.remove(process)
        return Done(process.returncode, out, error)

    def hook(
        self, command: str, config: object = CONFIG, hook: str = f"/{BIN}/galactic", **more: str
    ) -> Done:
        given = config if isinstance(config, bytes) else json.dumps(config).encode()
        return self.run(hook, stdin=given, **({"CNI_COMMAND": command} | CALL | more))


@dataclass
class Node:
    """A node's root, and the image that installs from inside a chroot of its own, where the node's directory is below
    /host. Neither has a libc, a shell or a Python.
    """

    host: Chroot
    image: Chroot

    def install(self, *options: str) -> Done:
        return self.image.run(f"/{BIN}/.galactic/install", f"/host/{BIN}", *options)

    def remove(self) -> Done:
        return self.image.run(f"/{BIN}/.galactic/install", "--remove", f"/host/{BIN}")

    def become(self, made: Path) -> None:
        """The image has another version."""
        subprocess.run(["rm", "-rf", self.image.bin], check=True)
        subprocess.run(["cp", "-a", made, self.image.bin], check=True)

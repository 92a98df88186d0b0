"""Debian packages that the lab needs: installed when missing, without starting or enabling their services."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from galactic.errors import Rejected, Unreachable
from galactic_lab.builds import cache
from galactic_lab.state import HOME

RUN: Final = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ethtool": "ethtool",
    "iptables": "iptables",
    "nft": "nftables",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    "mosquitto": "mosquitto",
    "mosquitto_sub": "mosquitto-clients",
    "openssl": "openssl",
    "sysctl": "procps",
    "runc": "runc",
}
"""Programs that every lab runs, each with its package."""
POLICY: Final = Path("/usr/sbin/policy-rc.d")
MARK: Final = "# made by galactic lab while it installs packages; safe to delete\n"
DAEMONS: Final = {
    "mosquitto": "mosquitto.service",
    "postgresql": "postgresql.service",
    "prometheus": "prometheus.service",
}
PATIENT: Final = ("-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300")
"""Apt's options: it waits for a slow mirror, and for another process that installs."""
TRIES: Final = 3
PAUSE_SECONDS: Final = 10.0
"""Other readers of apt's lists hold a lock that apt does not wait for."""


def program(name: str) -> str | None:
    """The program's path, found in PATH and in the sbin folders.

    A lab's own folder is left out, though users put it first in PATH: it has links that the lab makes when it comes up
    and removes when it goes down.
    """
    folders = os.environ.get("PATH", "").split(os.pathsep)
    machine = [folder for folder in folders if folder and not Path(folder).is_relative_to(HOME)]
    return shutil.which(name, path=os.pathsep.join([*machine, "/usr/local/sbin", "/usr/sbin", "/sbin"]))


def missing(packages: Iterable[str]) -> list[str]:
    """Those of ``packages`` that are not installed."""
    wanted = sorted(set(packages))
    if not wanted:
        return []
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def absent() -> list[str]:
    """The packages of ``RUN`` whose program this machine lacks."""
    return sorted({package for name, package in RUN.items() if not program(name)})


def install(packages: Iterable[str]) -> None:
    """Installs the missing ones of the packages. Raises Rejected without root or apt, Unreachable when apt fails."""
    wanted = missing(packages)
    if not wanted:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Rejected(
            f"these Debian packages are missing, install them: {' '.join(wanted)}", field="packages"
        )
    with _alone():
        wanted = missing(wanted)  # the process that held the lock may have installed them
        if not wanted:
            return
        with _no_services(wanted):
            command = ["install", "--yes", "--no-install-recommends", *wanted]
            done = _apt(command)
            for number in range(TRIES - 1):
                if done.returncode == 0:
                    break
                time.sleep(PAUSE_SECONDS if number else 0)
                _apt(["update", "-q"])  # lists may be old or missing
                done = _apt(command)
    if done.returncode != 0:
        raise Unreachable(
            "apt", f"cannot install {' '.join(wanted)}:\n{(done.stderr or done.stdout)[-2000:]}"
        )


def _apt(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        ["apt-get", *PATIENT, *words], env=environment, capture_output=True, text=True, check=False
    )


@contextmanager
def _alone(*, wait: bool = True) -> Iterator[bool]:
    """One process at a time: the end of one installation would remove policy-rc.d under another.

    Yields whether this process has the lock; with ``wait`` it always has.
    """
    cache.root().mkdir(parents=True, exist_ok=True)
    with (cache.root() / "packages.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _no_services(packages: list[str]) -> Iterator[None]:
    """Debian's policy-rc.d keeps daemons from starting. An existing file stays as it is."""
    _sweep()
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text(f"#!/bin/sh\n{MARK}exit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)
        if Path("/run/systemd/system").exists():
            for package in packages:
                if unit := DAEMONS.get(package):
                    subprocess.run(
                        ["systemctl", "disable", "--quiet", unit], capture_output=True, check=False
                    )


def tidy() -> None:
    """Removes a policy-rc.d that a killed run left."""
    if POLICY.exists():
        with _alone(wait=False) as alone:
            if alone:
                _sweep()


def _sweep() -> None:
    if POLICY.exists() and MARK in POLICY.read_text(errors="replace"):
        POLICY.unlink()


def refresh() -> None:
    """Fetches apt's package lists if there are none; old ones suffice."""
    error = ""
    for number in range(TRIES):
        if any(Path("/var/lib/apt/lists").glob("*_Packages*")):
            return
        time.sleep(PAUSE_SECONDS if number else 0)
        with _alone():
            done = _apt(["update", "-q"])
        if done.returncode == 0:
            return
        error = done.stderr
    raise Unreachable("apt", error[-2000:])


def update() -> None:
    """Renews apt's package lists. On failure, and without root, the old ones stay."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        with _alone():
            _apt(["update", "-q"])


def version(package: str) -> str | None:
    """The installed version, if any."""
    if not shutil.which("dpkg-query"):
        return None
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    status, _, number = done.stdout.partition(" ")
    return number if status == "installed" else None


def served(package: str, options: Sequence[str] = ()) -> list[str]:
    """The versions that apt's sources offer, newest first; empty if there is none."""
    if not shutil.which("apt-cache"):
        return []
    command = ["apt-cache", *options, "madison", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = ([word.strip() for word in line.split("|")] for line in done.stdout.splitlines())
    return list(dict.fromkeys(row[1] for row in rows if len(row) == 3 and row[0] == package))


def depends(package: str, options: Sequence[str] = ()) -> list[str]:
    """Names of the packages that ``package`` depends on; empty if apt does not know it."""
    if not shutil.which("apt-cache"):
        return []
    done = subprocess.run(
        ["apt-cache", *options, "depends", "--no-recommends", "--no-suggests", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if "Depends:" in line]

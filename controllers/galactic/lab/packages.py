"""Debian packages the lab needs, installed when missing, without starting or enabling any service they bring."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from galactic.errors import Rejected, Unreachable
from galactic.lab.state import HOME

RUN: Final = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ethtool": "ethtool",
    "iptables": "iptables",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    "mosquitto": "mosquitto",
    "mosquitto_sub": "mosquitto-clients",
    "openssl": "openssl",
    "sysctl": "procps",
}
"""Programs every lab runs, and the package each is in."""
POLICY: Final = Path("/usr/sbin/policy-rc.d")
MARK: Final = "# made by galactic lab while it installs packages; safe to delete\n"
DAEMONS: Final = {
    "mosquitto": "mosquitto.service",
    "etcd-server": "etcd.service",
    "postgresql": "postgresql.service",
    "prometheus": "prometheus.service",
}


def program(name: str) -> str | None:
    """Its path, also where an administrator's PATH would find it.

    Not in a lab's own folder, which users put first: what is there is a link of that lab's, made anew each time it
    comes up and gone when it is down.
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
    """The packages are installed. Raises Rejected without root or apt, Unreachable when apt fails."""
    wanted = missing(packages)
    if not wanted:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Rejected(
            f"these Debian packages are missing, install them: {' '.join(wanted)}", field="packages"
        )
    with _no_services(wanted):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        command = [
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
            *wanted,
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # lists may be old or absent
            subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unreachable(
            "apt", f"cannot install {' '.join(wanted)}:\n{(done.stderr or done.stdout)[-2000:]}"
        )


@contextmanager
def _no_services(packages: list[str]) -> Iterator[None]:
    """Debian's own switch (policy-rc.d) keeps daemons from starting; one that is there already stays untouched."""
    tidy()
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
    """Removes the switch if a run that was killed left it behind."""
    if POLICY.exists() and MARK in POLICY.read_text(errors="replace"):
        POLICY.unlink()


def refresh() -> None:
    """Apt has lists to look things up in; old ones are good enough."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        done = subprocess.run(["apt-get", "update", "-q"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unreachable("apt", done.stderr[-2000:])


def depends(package: str) -> list[str]:
    """Names of the packages that ``package`` depends on; empty if apt does not know it."""
    done = subprocess.run(
        ["apt-cache", "depends", "--no-recommends", "--no-suggests", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if "Depends:" in line]

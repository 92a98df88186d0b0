"""Removes a lab, also after a crash: processes are found by marks of the lab, never by a program's name."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from galactic_lab.controlplane import broker
from galactic_lab.kernel import namespaces
from galactic_lab.kernel.joined import Joined
from galactic_lab.kernel.kernels import choose
from galactic_lab.kernel.leftovers import NETNS, end, inside
from galactic_lab.processes import Supervisor
from galactic_lab.state import HOME, State, alone

MARK: Final = "GALACTIC_LAB_PROCESS"
"""The variable in the environment of each process of a lab; its value is the lab's name. Not ``GALACTIC_LAB``, which
users set in their shells.
"""


def marked(name: str) -> set[int]:
    """Processes with the mark of lab ``name``."""
    wanted, found = f"{MARK}={name}".encode(), set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found - {os.getpid()}


def lab_namespaces(state: State) -> list[str]:
    """The network namespaces of the machine's own kernel that belong to the lab."""
    return [name for name in [state.namespace] if (NETNS / name).exists()]


def remove(state: State) -> None:
    """Removes each process, namespace, mount and file of the lab."""
    names = lab_namespaces(state)
    pid = Supervisor(state).pid()
    if pid in marked(state.name):  # first, or it restarts what is ended; it has nothing to save
        os.kill(pid, signal.SIGKILL)
    end(lambda: set().union(marked(state.name), *(inside(name) for name in names)))
    if state.join:
        Joined(state, choose(state.host)).leave()
        broker.forget(state)
    for name in lab_namespaces(state):
        subprocess.run(["ip", "netns", "delete", name], check=True)
    for folder in (state.root, state.memory):
        shutil.rmtree(folder, ignore_errors=True)
    with alone():
        with suppress(OSError):  # other labs are in it
            HOME.rmdir()
        if NETNS.is_dir() and not any(NETNS.iterdir()):
            for path, _ in namespaces.mount_points():
                if path == str(NETNS):
                    namespaces.unmount(NETNS)
            with suppress(OSError):
                NETNS.rmdir()

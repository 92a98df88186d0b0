"""A node as a machine of its own inside the lab's kernel: namespaces, a cgroup, and private folders.

The process that calls ``isolate`` stays outside of the node's process namespace, and has its children's process ids of
the lab's kernel; the processes that it forks afterwards are inside. The first of these is ``init``.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from galactic_lab.kernel import namespaces
from galactic_lab.state import VOLATILE, Node

CGROUPS: Final = Path("/sys/fs/cgroup")
PRIVATE: Final = ("/run/galactic", "/run/containerd", "/run/cni", "/var/lib", "/var/log")
"""Private folders of each node. Those outside of /run are kept while the node's machine is down."""
LAYERED: Final = ("/etc", "/opt")
"""Folders of the machine with an overlay for each node."""
MODULES: Final = Path("/lib/modules")
"""A machine with a kernel of its own has this folder; a container that the lab runs in may not."""
PATIENCE_SECONDS: Final = 60.0
CPU_FACTS: Final = "cpu MHz\t\t: 2000.000\ncore id\t\t: 0\nphysical id\t: 0\n"
"""cadvisor reads the clock rate, which /proc/cpuinfo of User Mode Linux lacks."""


def folder(member: Node) -> Path:
    """The node's folder in the memory of the lab's kernel."""
    return VOLATILE / member.namespace


def cgroup(member: Node) -> Path:
    """The node's cgroup, as the lab's kernel sees it."""
    return CGROUPS / member.namespace


def delegate(group: Path) -> None:
    """Enables every controller for children of ``group``. Raises OSError while a process is in it."""
    for controller in (group / "cgroup.controllers").read_text().split():
        with suppress(OSError):  # not a controller for children
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def prepare_kernel() -> None:
    """Mounts cgroups with every controller in the lab's kernel."""
    if not (CGROUPS / "cgroup.controllers").exists():
        namespaces.mount("cgroup2", CGROUPS, "cgroup2")
    delegate(CGROUPS)


def isolate(member: Node) -> None:
    """Moves the caller into the node's machine; its later children are in the node's process namespace, too.

    No process may stay in the root of the node's cgroup namespace, or kubelet finds controllers missing there: the
    caller is in a leaf when it returns.
    """
    group = cgroup(member)
    _remove(group)
    leaf = group / "init"
    leaf.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    namespaces.enter(f"/run/netns/{member.namespace}", namespaces.CLONE_NEWNET)
    namespaces.unshare(namespaces.CLONE_NEWCGROUP)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    delegate(group)
    namespaces.unshare(
        namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWPID
    )
    socket.sethostname(member.name)
    _mounts(member)


def _remove(group: Path) -> None:
    """Removes the cgroup of an earlier boot, whose processes have been killed, and all below it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # a process in it has not quite ended
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of an earlier boot are still in {group}")
        time.sleep(0.01 if group.exists() else 0)


def _mounts(member: Node) -> None:
    """Sets up mounts that propagate to the node's containers and nowhere else."""
    namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
    namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_SHARED)
    own = folder(member)
    for path in PRIVATE:
        private = own / path.strip("/").replace("/", "-")
        private.mkdir(parents=True, exist_ok=True)
        Path(path).mkdir(parents=True, exist_ok=True)
        namespaces.mount(str(private), path, flags=namespaces.MS_BIND)
        namespaces.mount("none", path, flags=namespaces.MS_SHARED)
    for path in LAYERED:
        _overlay(own, Path(path))
    if not MODULES.exists():  # the root file system is read-only, and pods may mount this folder
        _overlay(own, MODULES.parent.resolve())
        MODULES.mkdir(exist_ok=True)  # kept since an earlier boot
    namespaces.mount("sysfs", "/sys", "sysfs")
    namespaces.mount("cgroup2", CGROUPS, "cgroup2")


def _overlay(own: Path, path: Path) -> None:
    """Mounts an overlay on the folder, with the changes in ``own``."""
    layer = own / f"{str(path).strip('/').replace('/', '-')}-layer"
    upper, work = layer / "upper", layer / "work"
    upper.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={path},upperdir={upper},workdir={work}"
    namespaces.mount("overlay", path, "overlay", options=options)


def forget_boot(member: Node) -> None:
    """Removes the node's folders below /run, which do not survive a reboot."""
    import shutil  # noqa: PLC0415 - a node that stays up never needs it

    for path in PRIVATE:
        if path.startswith("/run/"):
            shutil.rmtree(folder(member) / path.strip("/").replace("/", "-"), ignore_errors=True)


def init(ready: int) -> None:
    """The first process of the node's process namespace: mounts /proc, and reaps orphans.

    Closes the file descriptor ``ready`` once /proc is there. Never returns; the kernel ends every process of the
    namespace with it.
    """
    namespaces.mount("proc", "/proc", "proc")
    _add_clock_rate()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.close(ready)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


def _add_clock_rate() -> None:
    source = Path("/proc/cpuinfo")
    text = source.read_text()
    if "cpu MHz" not in text:
        copy = Path("/run/containerd/cpuinfo")
        copy.write_text(text.replace("bogomips", f"{CPU_FACTS}bogomips"))
        namespaces.mount(str(copy), source, flags=namespaces.MS_BIND)

"""A node as a machine of its own inside the lab's kernel: namespaces, a cgroup, and the folders that it does not share.

The process that calls ``isolate`` stays outside of the node's process namespace, so that it knows its children by the
process ids of the lab's kernel; whatever it forks afterwards is inside. The first of these is ``init``.
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
"""What each node has for itself. They are kept while the node's machine is down, but for those below /run."""
LAYERED: Final = ("/etc", "/opt")
"""What each node may change for itself, and otherwise has in common with the machine."""
MODULES: Final = Path("/lib/modules")
"""Every machine that boots a kernel of its own has this folder; one that the lab runs on may not."""
PATIENCE_SECONDS: Final = 60.0
CPU_FACTS: Final = "cpu MHz\t\t: 2000.000\ncore id\t\t: 0\nphysical id\t: 0\n"
"""cadvisor reads the clock rate, which /proc/cpuinfo of User Mode Linux lacks."""


def folder(member: Node) -> Path:
    """Of the node, in the lab kernel's memory."""
    return VOLATILE / member.namespace


def cgroup(member: Node) -> Path:
    """The node's cgroup, as the lab's kernel sees it."""
    return CGROUPS / member.namespace


def delegate(group: Path) -> None:
    """Children of ``group`` may have every controller. Raises OSError where a process is still in it."""
    for controller in (group / "cgroup.controllers").read_text().split():
        with suppress(OSError):  # one that the kernel keeps to itself
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def prepare_kernel() -> None:
    """The lab's kernel has cgroups with every controller."""
    if not (CGROUPS / "cgroup.controllers").exists():
        namespaces.mount("cgroup2", CGROUPS, "cgroup2")
    delegate(CGROUPS)


def isolate(member: Node) -> None:
    """Moves the caller into the node's machine; what it forks from now on is in the node's process namespace too.

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
    """The cgroup and all below it are gone, of an earlier boot whose processes have been killed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # a process in it has not quite ended
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of an earlier boot are still in {group}")
        time.sleep(0.01 if group.exists() else 0)


def _mounts(member: Node) -> None:
    """A mount namespace that propagates to the containers of the node and to nobody else."""
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
    """The folder may be changed; what is changed lies in ``own``."""
    layer = own / f"{str(path).strip('/').replace('/', '-')}-layer"
    upper, work = layer / "upper", layer / "work"
    upper.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={path},upperdir={upper},workdir={work}"
    namespaces.mount("overlay", path, "overlay", options=options)


def forget_boot(member: Node) -> None:
    """Removes what does not survive a reboot: the node's folders below /run."""
    import shutil  # noqa: PLC0415 - a node that stays up never needs it

    for path in PRIVATE:
        if path.startswith("/run/"):
            shutil.rmtree(folder(member) / path.strip("/").replace("/", "-"), ignore_errors=True)


def init(ready: int) -> None:
    """The first process of the node's process namespace: mounts /proc, and reaps whatever has lost its parent.

    Closes the file descriptor ``ready`` once /proc is there. Never returns; the kernel ends every process of the
    namespace with it.
    """
    namespaces.mount("proc", "/proc", "proc")
    _tell_clock_rate()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.close(ready)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


def _tell_clock_rate() -> None:
    source = Path("/proc/cpuinfo")
    text = source.read_text()
    if "cpu MHz" not in text:
        copy = Path("/run/containerd/cpuinfo")
        copy.write_text(text.replace("bogomips", f"{CPU_FACTS}bogomips"))
        namespaces.mount(str(copy), source, flags=namespaces.MS_BIND)

"""Linux namespaces and mounts through the C library: ``os`` of Python 3.11 lacks them."""

import ctypes
import os
import signal
from pathlib import Path
from typing import Final

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_SHARED: Final = 0x100000

MNT_DETACH: Final = 2
PR_SET_PDEATHSIG: Final = 1
PR_SET_TIMERSLACK: Final = 29
RB_POWER_OFF: Final = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(path: str | Path, kind: int = 0) -> None:
    """Moves the calling *thread* into the namespace behind ``path``; ``kind`` 0 accepts any kind."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, kind), f"setns {path}")
    finally:
        os.close(descriptor)


def unshare(flags: int) -> None:
    """Gives the calling thread namespaces of its own."""
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Puts ``source`` at ``target``, as the system call does. Raises OSError with the target's name."""
    arguments = (source.encode(), str(target).encode(), kind.encode() or None)
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def unmount(target: str | Path) -> None:
    """Detaches what is mounted at ``target``."""
    _check(_libc.umount2(str(target).encode(), MNT_DETACH), f"umount {target}")


def mount_points() -> list[tuple[str, bool]]:
    """The caller's mount points, outermost first, and whether each propagates to other mount namespaces."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        path = fields[4].encode().decode("unicode_escape")
        points.append((path, any(field.startswith("shared:") for field in fields[6:])))
    return points


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """The kernel sends ``number`` to the caller when the thread that forked it ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")


def power_off() -> None:
    """Ends the machine. Does not return."""
    os.sync()
    _check(_libc.reboot(RB_POWER_OFF - (1 << 32) if RB_POWER_OFF >> 31 else RB_POWER_OFF), "reboot")


def set_timer_slack(seconds: float) -> None:
    """How much later than asked the clock may wake the calling thread, and programs that it starts."""
    _check(_libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(round(seconds * 1e9)), 0, 0, 0), "prctl")

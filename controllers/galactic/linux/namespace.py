"""Network namespaces: a handle on one, and functions that run inside it.

A namespace is entered by a thread that ends right afterwards (setns(2) is per thread), never by the process. A socket
made inside belongs to that namespace for good, so using it needs no entering.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_GET_STRICT_CHK: Final = 12
_NS_GET_NSTYPE: Final = 0xB703  # ioctl_ns(2)
_SIOCGIFNAME: Final = 0x8910
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFINDEX: Final = 0x8933
_IFREQ: Final = struct.Struct("=16si20x")
_IFREQ_FLAGS: Final = struct.Struct("=16sH22x")
_IFF_UP: Final = 0x1
RECEIVE_BUFFER: Final = 4 << 20
"""Bytes of a netlink socket's receive buffer: a burst's refusals and a dump's parts fit many times."""


class Namespace:
    """A network namespace, held open until closed. ``path`` is for messages."""

    def __init__(self, fd: int | None, path: str) -> None:
        self._fd, self.path, self._closed = fd, path, False

    @classmethod
    def own(cls) -> Self:
        """The namespace of this process."""
        return cls(None, "the host's network namespace")

    @classmethod
    def at(cls, path: str) -> Self:
        """The namespace at that path. Raises OSError if there is none."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if not is_network(descriptor):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a network namespace", path)
        return cls(descriptor, path)

    @classmethod
    def fresh(cls) -> Self:
        """A new namespace without a name; it is gone when this handle and every socket made inside are closed."""

        def unshared() -> int:
            _check(_libc().unshare(_CLONE_NEWNET), "unshare")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        return cls(_in_thread(unshared), "a throw-away network namespace")

    def run(self, function: Callable[[], T]) -> T:
        """Calls ``function`` inside; returns its result or raises its error. Blocks, so keep it short."""
        if self._closed:
            raise ValueError(f"{self.path} was closed")
        if self._fd is None:
            return function()
        fd = self._fd

        def inside() -> T:
            _check(_libc().setns(fd, _CLONE_NEWNET), "setns")
            return function()

        return _in_thread(inside)

    def netlink(self, *, packed: bool = True) -> socket.socket:
        """A non-blocking rtnetlink socket inside. ``packed``: for ``galactic.linux.netlink``. The kernel filters dumps
        and does not return refused messages. pyroute2 supports neither.
        """
        (made,) = self.netlinks(packed)
        return made

    def netlinks(self, *packed: bool) -> list[socket.socket]:
        """As ``netlink``, several at once: entering a namespace costs as much as the rest."""
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        netlinks = self.run(lambda: [socket.socket(socket.AF_NETLINK, kind, 0) for _ in packed])
        for netlink, strict in zip(netlinks, packed, strict=True):
            for option in (_NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                netlink.setsockopt(_SOL_NETLINK, option, int(strict))
            enlarge(netlink)
        return netlinks

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def enlarge(made: socket.socket) -> None:
    """Gives a socket the large receive buffer: beyond net.core.rmem_max with CAP_NET_ADMIN, else up to it."""
    so_rcvbufforce = 33
    try:
        made.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, RECEIVE_BUFFER)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def device_index(within: socket.socket, name: str) -> int:
    """The index of the device of that name in the namespace of a socket (of any kind); 0 if there is none."""
    try:
        answer = fcntl.ioctl(within, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    except OSError:
        return 0
    return int(_IFREQ.unpack(answer)[1])


def device_name(within: socket.socket, index: int) -> str:
    """The name of the device with that index in the namespace of a socket; "" if there is none."""
    try:
        answer = fcntl.ioctl(within, _SIOCGIFNAME, _IFREQ.pack(b"", index))
    except OSError:
        return ""
    return bytes(_IFREQ.unpack(answer)[0]).rstrip(b"\0").decode(errors="replace")


def device_up(within: Namespace, name: str) -> bool:
    """Whether the device of that name is administratively up."""
    with within.netlink() as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), 0))
        except OSError:
            return False
    return bool(_IFREQ_FLAGS.unpack(answer)[1] & _IFF_UP)


def is_network(descriptor: int) -> bool:
    """Whether an open file is a network namespace."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare are Python 3.12's


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=call, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]

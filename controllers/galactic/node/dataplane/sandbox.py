"""A pod's network namespace at a path: whether it exists, and the devices in it."""

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

from galactic.linux.namespace import Namespace, is_network

_SIOCGIFMTU: Final = 0x8921
_SIOCGIFHWADDR: Final = 0x8927
_IFREQ: Final = struct.Struct("=16sH6s16x")
_MTU: Final = struct.Struct("=16si20x")


class Device(NamedTuple):
    """The properties of an interface in a CNI result."""

    mac: str
    mtu: int


def alive(path: str) -> bool:
    """Whether a network namespace other than this process' own is at ``path``.

    The file that a namespace was mounted on may outlive the mount; then it is an empty file, and no namespace.
    """
    try:
        own, stat = Path("/proc/self/ns/net").stat(), Path(path).stat()
        if stat.st_dev != own.st_dev or stat.st_ino == own.st_ino:
            return False  # a file that is no namespace is not even opened
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return is_network(descriptor)
    finally:
        os.close(descriptor)


def absence(path: str) -> str:
    """Why no pod's network namespace is at a path that is not ``alive``, with the remedy.

    A node controller in a container sees the folders that are mounted there, and processes of its own PID namespace.
    """
    if path.startswith("/proc/"):
        return (
            f"{path} names a process that the node controller does not see: make the container runtime keep network "
            "namespaces as files, as containerd and CRI-O do, in the folder node.netnsDir of the chart"
        )
    folder = Path(path).parent
    if not folder.is_dir():
        return (
            f"the node controller does not see {folder}: set node.netnsDir of the chart to the folder in which the "
            "container runtime keeps network namespaces"
        )
    return f"{path} is not a pod's network namespace"


def device(name: str, netns: str = "") -> Device | None:
    """The device of that name in the namespace at ``netns``, by default our own; None where there is none."""

    def read() -> Device:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as within:
            encoded = name.encode()
            mac = _IFREQ.unpack(fcntl.ioctl(within, _SIOCGIFHWADDR, _IFREQ.pack(encoded, 0, b"")))[2]
            mtu = _MTU.unpack(fcntl.ioctl(within, _SIOCGIFMTU, _MTU.pack(encoded, 0)))[1]
        return Device(mac.hex(":"), mtu)

    try:
        if not netns:
            return read()
        with Namespace(os.open(netns, os.O_RDONLY | os.O_CLOEXEC), netns) as namespace:
            return namespace.run(read)
    except OSError:
        return None

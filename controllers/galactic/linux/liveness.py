"""Echo requests to other nodes, again and again, over one socket that never blocks (RFC 4443 §4.1)."""

import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv6Address
from types import TracebackType
from typing import Final, Self

from galactic.errors import Unreachable

_REQUEST, _REPLY = 128, 129
_ICMP: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_FILTER: Final = 1  # ICMPV6_FILTER (RFC 3542 §3.2): a bit for each type that is not passed
_ONLY_REPLIES: Final = struct.pack(
    "=8I", *(0xFFFFFFFF ^ (1 << _REPLY % 32) * (i == _REPLY // 32) for i in range(8))
)
_MOST: Final = 1024
"""Answers that are read at a time: a flood does not hold this process up."""


class EchoSocket:
    """Sends from ``source``. Raises Unreachable where the process may not, or has no such address."""

    def __init__(self, source: IPv6Address) -> None:
        self._token = os.urandom(8)
        self._identifier, self._sequence = int.from_bytes(os.urandom(2), "big"), 0
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        except OSError as error:
            raise Unreachable("echo", error.strerror or str(error)) from error
        try:
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _FILTER, _ONLY_REPLIES)
            self._socket.bind((str(source), 0))
        except OSError as error:
            self._socket.close()
            raise Unreachable("echo", f"{source}: {error.strerror or error}") from error

    def send(self, destinations: Iterable[IPv6Address]) -> None:
        """One request to each. One that the kernel refuses is as good as lost."""
        self._sequence = self._sequence + 1 & 0xFFFF
        head = _ICMP.pack(_REQUEST, 0, 0, self._identifier, self._sequence)
        for destination in destinations:
            try:
                self._socket.sendto(head + self._token, (str(destination), 0))
            except OSError:
                continue

    def answered(self) -> set[IPv6Address]:
        """The senders of the answers that have arrived since the last call."""
        senders = set()
        for _ in range(_MOST):
            try:
                packet, sender = self._socket.recvfrom(256)
            except OSError:
                break
            if len(packet) >= _ICMP.size and packet[_ICMP.size :] == self._token:
                senders.add(IPv6Address(sender[0].partition("%")[0]))
        return senders

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

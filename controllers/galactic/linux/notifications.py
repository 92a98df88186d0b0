"""Notifications that arrive at a netlink socket, as one value for all that came since the last wait."""

import asyncio
import enum
import errno
import socket
from typing import Final, Generic, Self, TypeVar

from galactic.errors import Unreachable

SOL_NETLINK: Final = 270
ADD_MEMBERSHIP: Final = 1
PART: Final = 1 << 16
"""The largest datagram."""
F = TypeVar("F", bound=enum.Flag)


class Notifications(Generic[F]):
    """An asynchronous iterator, for one consumer. Changes between two waits are not lost.

    ``lost``: the value where the buffer overflowed and anything may have changed. ``source``: the kernel's part, for
    errors.
    """

    def __init__(self, made: socket.socket, lost: F, source: str) -> None:
        self._socket, self._lost, self._source = made, lost, source

    def _kinds(self, datagram: bytes) -> F:
        """The value of a datagram."""
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> F:
        """The changes since the last call; waits for the first. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        changed = self._lost & ~self._lost
        while not changed:
            try:
                changed = self._kinds(await loop.sock_recv(self._socket, PART))
            except OSError as error:
                changed = self._missed(error)
            changed |= self._rest()
        return changed

    def _rest(self) -> F:
        """Further messages that have arrived already."""
        changed = self._lost & ~self._lost
        while True:
            try:
                changed |= self._kinds(self._socket.recv(PART))
            except BlockingIOError:
                return changed
            except OSError as error:
                changed |= self._missed(error)

    def _missed(self, error: OSError) -> F:
        """The buffer overflowed: anything may have changed. Raises Unreachable for every other error."""
        if error.errno != errno.ENOBUFS:
            raise Unreachable(self._source, f"waiting for events: {error.strerror}") from error
        return self._lost

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""paho's WebSocket, made to take a packet whole or not at all.

paho frames a packet and sends what the socket takes. Where that is a part, it forgets the packet, and takes the rest of
the frame for the beginning of the next one: one is lost and one is spoilt. Large messages on a slow way meet that.
"""

import contextlib
import ssl
from typing import Any, Final

_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Frames:
    """What is sent over ``connection``, a WebSocket of paho's; the rest of one frame at the most is kept."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._frame = connection.send
        connection.send = self._send

    def rest(self) -> bool:
        """Sends what is left of a frame. Whether there still is some. Raises OSError where the connection is lost."""
        while left := self._connection._sendbuffer:  # noqa: SLF001
            try:
                sent = self._connection._socket.send(left)  # noqa: SLF001
            except _LATER:
                return True
            self._connection._sendbuffer = left[sent:]  # noqa: SLF001
        return False

    def _send(self, packet: bytes | bytearray) -> int:
        if self.rest():
            raise BlockingIOError
        with contextlib.suppress(*_LATER):
            self._frame(packet)  # in any case it is a frame now, of which the rest waits
        return len(packet)

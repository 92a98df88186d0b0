"""paho's WebSocket, corrected to take a packet whole or not at all.

paho frames a packet and sends what the socket takes. If that is a part, paho forgets the packet and takes the rest of
the frame for the beginning of the next one: one packet is lost, one corrupted. Large messages on a slow link cause it.
"""

import contextlib
import ssl
from typing import Any, Final

_LATER: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Frames:
    """Sends over ``connection``, a WebSocket of paho's; keeps the rest of one frame at the most."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._frame = connection.send
        connection.send = self._send

    def send_rest(self) -> bool:
        """Sends the rest of a frame. Returns whether some is left. Raises OSError if the connection is lost."""
        while rest := self._connection._sendbuffer:  # noqa: SLF001
            try:
                sent = self._connection._socket.send(rest)  # noqa: SLF001
            except _LATER:
                return True
            self._connection._sendbuffer = rest[sent:]  # noqa: SLF001
        return False

    def _send(self, packet: bytes | bytearray) -> int:
        if self.send_rest():
            raise BlockingIOError
        with contextlib.suppress(*_LATER):
            self._frame(packet)  # it is a frame now in any case, and its rest waits
        return len(packet)

"""The socket of one paho client on the event loop: paho's external-loop hooks, and reading that can be paused.

Publishes and subscriptions are written at once, because callers wait for them. PUBACKs, which only the broker waits
for, go with the next of those or 1 ms later: a publish that an arrival causes is not delayed by their system calls.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode

from galactic.bus.websocket import Frames

BATCH: Final = 32
"""Packets read before other tasks get a turn: a turn of the loop costs about as much as a packet."""
FEW: Final = 8
"""Packets whose PUBACKs may be delayed. A broker sends 20 before it waits for one, by default."""
ACK_SECONDS: Final = 0.001
_OK: Final = MQTTErrorCode.MQTT_ERR_SUCCESS


class PahoSocket:
    """Reads and writes for ``client`` until it is closed. Calls ``lost`` when that fails."""

    def __init__(
        self, client: mqtt.Client, connection: Any, lost: Callable[[], None], *, paused: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._lost, self._paused = client, lost, paused
        self._descriptor, self._open = connection.fileno(), True
        tcp = getattr(connection, "_socket", connection)  # paho's WebSocket wraps it
        self._frames = None if tcp is connection else Frames(connection)
        self._tcp: socket.socket | None = tcp if isinstance(tcp, socket.socket) else None
        if self._tcp is not None:
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable = select.poll()
        self._readable.register(self._descriptor, select.POLLIN)
        self._decrypted: Callable[[], int] = getattr(tcp, "pending", int)
        client.on_socket_register_write = _queued  # without one paho writes each packet as it makes it
        client.on_socket_close = self._closed
        self._acks: asyncio.TimerHandle | None = None  # writes delayed PUBACKs
        # In this turn of the loop: packets were written, and further ones wait for its end.
        self._written = self._pending = False
        self._full = self._reading = False  # the socket takes no more; paho is within its callbacks
        if not paused:
            self.resume()
        self.flush()

    def flush(self) -> None:
        """Writes queued packets now; those that are queued later in this turn of the loop, together at its end.

        On a WebSocket all packets wait for the end of the turn. The less often Mosquitto is interrupted while it writes
        a large message to one, the less often it fails to continue.
        """
        # Not while reading: a write that fails calls back, which paho cannot do within a callback.
        if self._written or self._reading:
            self._pending = True
            return
        self._written, self._pending = True, self._frames is not None
        self._loop.call_soon(self._turn_ended)
        if not self._pending:
            self._write(self._acks is not None)

    def pause(self) -> None:
        """Stops reading: packets that arrive stay in the socket's buffer."""
        self._paused = True
        if self._open:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        self._paused = False
        if self._open:
            self._loop.add_reader(self._descriptor, self._read)
            self._loop.call_soon(self._read)  # for what TLS has decrypted already

    def close(self) -> None:
        """Ends reading and writing. The socket itself belongs to the client."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._cancel_acks()

    def _read(self) -> None:
        if not self._open or self._paused:
            return
        self._reading = True
        try:
            packets = self._packets()
        finally:
            self._reading = False
        if not packets:
            self._lost()
            return
        if self._open and not self._paused and self._decrypted():
            # TLS decrypts whole records: the rest of one does not make the socket readable again.
            self._loop.call_soon(self._read)
        if self._pending or packets > FEW or self._frames is not None:
            self.flush()
        elif self._acks is None and self._open and self._client.want_write():
            self._acks = self._loop.call_later(ACK_SECONDS, self.flush)

    def _packets(self) -> int:
        """Reads a batch; 0: the connection is lost."""
        packets = 0
        while packets < BATCH:
            if self._client.loop_read() != _OK:
                return 0
            packets += 1
            if not self._open or self._paused or not self._more():
                break
        return packets

    def _more(self) -> bool:
        return bool(self._readable.poll(0))

    def _turn_ended(self) -> None:
        self._written = False
        if self._pending:
            self._pending = False
            self._write(True)

    def _write(self, together: bool) -> None:
        """``together``: there are several packets, which the kernel sends in one segment."""
        if not self._open or self._full:
            return
        self._cancel_acks()
        together = together and self._tcp is not None and self._frames is None
        if together:
            self._cork(True)
        intact = self._client.loop_write() == _OK
        if together and self._open:
            self._cork(False)
        try:
            rest = self._open and self._frames is not None and self._frames.send_rest()
        except OSError:
            intact = False
        if not intact:
            self._lost()
        elif self._open and (rest or self._client.want_write()):
            self._full = True
            self._loop.add_writer(self._descriptor, self._writable)

    def _writable(self) -> None:
        self._full = False
        self._loop.remove_writer(self._descriptor)
        self._write(True)

    def _cancel_acks(self) -> None:
        if self._acks is not None:
            self._acks.cancel()
            self._acks = None

    def _cork(self, on: bool) -> None:
        assert self._tcp is not None
        self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def _closed(self, _client: mqtt.Client, _userdata: object, _connection: object) -> None:
        self.close()


def _queued(_client: mqtt.Client, _userdata: object, _connection: object) -> None:
    """Does nothing: the caller that queues a packet calls ``PahoSocket.flush``."""

"""The socket of one paho client on our event loop: paho's external-loop hooks, and reading that can be paused.

What somebody waits for is written at once: a publish, a subscription. PUBACKs, which only the broker waits for, go with
the next of those or a moment later, so that what an arrival sets off is not behind their way through the kernel.
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
"""Packets read before the rest of the process gets a turn: a turn of the loop costs about as much as a packet."""
FEW: Final = 8
"""Packets whose PUBACKs may wait. A broker sends 20 before it waits for one, unless it is told otherwise."""
ACK_SECONDS: Final = 0.001
_OK: Final = MQTTErrorCode.MQTT_ERR_SUCCESS


class PahoSocket:
    """Reads and writes for ``client`` until it is closed. ``lost`` is called when that fails."""

    def __init__(
        self, client: mqtt.Client, connection: Any, lost: Callable[[], None], *, paused: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._lost, self._paused = client, lost, paused
        self._descriptor, self._open = connection.fileno(), True
        tcp = getattr(connection, "_socket", connection)  # paho's websocket wraps it
        self._frames = None if tcp is connection else Frames(connection)
        self._tcp: socket.socket | None = tcp if isinstance(tcp, socket.socket) else None
        if self._tcp is not None:
            self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable = select.poll()
        self._readable.register(self._descriptor, select.POLLIN)
        self._decrypted: Callable[[], int] = getattr(tcp, "pending", int)
        client.on_socket_register_write = _queued  # without one paho writes each packet as it makes it
        client.on_socket_close = self._closed
        self._acks: asyncio.TimerHandle | None = None  # they are to be written, at the latest then
        # In this turn of the loop: it was written, and it is to be once more.
        self._written = self._wanted = False
        self._watched = self._reading = False  # told when the socket takes more; paho is in its callbacks
        if not paused:
            self.resume()
        self.flush()

    def flush(self) -> None:
        """What is queued is written now; what is queued later in this turn of the loop, in one go when that is over.

        So is everything on a WebSocket: the less often Mosquitto is interrupted while it writes something large to one,
        the less often it forgets to go on.
        """
        # Not while it reads: a write that fails calls back, which paho cannot do within a callback.
        if self._written or self._reading:
            self._wanted = True
            return
        self._written, self._wanted = True, self._frames is not None
        self._loop.call_soon(self._turned)
        if not self._wanted:
            self._write(self._acks is not None)

    def pause(self) -> None:
        """What comes stays in the socket."""
        self._paused = True
        if self._open:
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        self._paused = False
        if self._open:
            self._loop.add_reader(self._descriptor, self._read)
            self._loop.call_soon(
                self._read
            )  # for what TLS has decrypted already; without anything nothing happens

    def close(self) -> None:
        """Nothing is read or written any more. The socket itself is the client's."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._acknowledged()

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
            # TLS decrypts whole records: what is left of one does not make the socket readable again.
            self._loop.call_soon(self._read)
        if self._wanted or packets > FEW or self._frames is not None:
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

    def _turned(self) -> None:
        self._written = False
        if self._wanted:
            self._wanted = False
            self._write(True)

    def _write(self, together: bool) -> None:
        """``together``: there are several packets, which the kernel is to send in one segment."""
        if not self._open or self._watched:
            return
        self._acknowledged()
        together = together and self._tcp is not None and self._frames is None
        if together:
            self._cork(True)
        fine = self._client.loop_write() == _OK
        if together and self._open:
            self._cork(False)
        try:
            rest = self._open and self._frames is not None and self._frames.rest()
        except OSError:
            fine = False
        if not fine:
            self._lost()
        elif self._open and (rest or self._client.want_write()):
            self._watched = True
            self._loop.add_writer(self._descriptor, self._writable)

    def _writable(self) -> None:
        self._watched = False
        self._loop.remove_writer(self._descriptor)
        self._write(True)

    def _acknowledged(self) -> None:
        if self._acks is not None:
            self._acks.cancel()
            self._acks = None

    def _cork(self, on: bool) -> None:
        assert self._tcp is not None
        self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def _closed(self, _client: mqtt.Client, _userdata: object, _connection: object) -> None:
        self.close()


def _queued(_client: mqtt.Client, _userdata: object, _connection: object) -> None:
    """Whoever queues something writes it: see ``PahoSocket.flush``."""

"""The socket of one paho client on our event loop: paho's external-loop hooks, and reading that can be paused."""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode

BATCH: Final = 32
"""Packets read before the rest of the process gets a turn: a turn of the loop costs about as much as a packet."""
_OK = MQTTErrorCode.MQTT_ERR_SUCCESS


class Wire:
    """Reads and writes for ``client`` until it is closed. ``lost`` is called when that fails."""

    def __init__(
        self, client: mqtt.Client, connection: Any, lost: Callable[[], None], *, paused: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._lost, self._paused = client, lost, paused
        self._descriptor, self._open = connection.fileno(), True
        tcp = getattr(connection, "_socket", connection)  # paho's websocket wraps it
        if isinstance(tcp, socket.socket):
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable = select.poll()
        self._readable.register(self._descriptor, select.POLLIN)
        self._decrypted: Callable[[], int] = getattr(tcp, "pending", int)
        client.on_socket_register_write = self._want_write
        client.on_socket_unregister_write = self._wrote
        client.on_socket_close = self._closed
        self._writing = self._watched = False  # a write is due in this turn; told when the socket takes more
        if not paused:
            self.resume()
        if client.want_write():
            self._due()

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

    def _read(self) -> None:
        if not self._open or self._paused:
            return
        for _ in range(BATCH):
            if self._client.loop_read() != _OK:
                self._lost()
                return
            if not self._open or self._paused or not self._more():
                break
        if self._open and not self._paused and self._decrypted():
            # TLS decrypts whole records: what is left of one does not make the socket readable again.
            self._loop.call_soon(self._read)

    def _more(self) -> bool:
        return bool(self._readable.poll(0))

    def _due(self) -> None:
        """Writes at the end of this turn: the socket nearly always takes it, and need not be asked first."""
        if self._open and not self._writing and not self._watched:
            self._writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = False
        if not self._open:
            return
        if self._client.loop_write() != _OK:
            self._lost()
        elif self._open and self._client.want_write() and not self._watched:
            self._watched = True
            self._loop.add_writer(self._descriptor, self._write)

    def _unwatch(self) -> None:
        self._watched = False
        if self._open:
            self._loop.remove_writer(self._descriptor)

    def _want_write(self, _client: mqtt.Client, _userdata: object, _connection: object) -> None:
        self._due()

    def _wrote(self, _client: mqtt.Client, _userdata: object, _connection: object) -> None:
        if self._watched:
            self._unwatch()

    def _closed(self, _client: mqtt.Client, _userdata: object, _connection: object) -> None:
        self.close()

"""paho-mqtt on our event loop.

paho is driven through its external-loop hooks instead of its thread: its callbacks run in the loop like any other code,
so an exception in one of them cannot kill a network thread that publish still believes alive. Only connecting,
which blocks on DNS and the TLS handshake, is done in a worker thread.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any, Final, Self
from urllib.parse import urlsplit

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from galactic.bus import Connected, Delivery, Disconnected
from galactic.errors import Unreachable
from galactic.settings import MqttSettings

log = structlog.get_logger(__name__)
QOS: Final = 1
KEEPALIVE_SECONDS: Final = 15
PUBACK_SECONDS: Final = 10.0
BACKOFF_SECONDS: Final = (0.2, 10.0)
WINDOW: Final = 200
"""Publishes under way at once. More would only wait in paho's memory instead of the caller's hands."""
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


class PahoBus:
    """A connection to the broker that is kept up for as long as ``async with`` lasts; see ``galactic.bus.Bus``."""

    def __init__(self, settings: MqttSettings, client_id: str, will: tuple[str, bytes] | None = None) -> None:
        self._settings, self._client_id, self._will = settings, client_id, will
        self._filters: dict[str, None] = {}
        self._arrived: asyncio.Queue[Delivery | Connected | Disconnected] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._window = asyncio.Semaphore(WINDOW)
        self._ended = asyncio.Event()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make()
        self._up = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._keeper = asyncio.create_task(self._keep(), name="mqtt")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if self._up:
            self._client.disconnect()
            await asyncio.sleep(0)
            self._client.loop_write()
        self._fail(Unreachable("mqtt", "the connection was closed"))

    @property
    def connected(self) -> bool:
        return self._up

    def subscribe(self, *filters: str) -> None:
        new = [pattern for pattern in filters if pattern not in self._filters]
        self._filters.update(dict.fromkeys(new))
        if self._up and new:
            self._client.subscribe([(pattern, QOS) for pattern in new])

    def unsubscribe(self, *filters: str) -> None:
        known = [pattern for pattern in filters if self._filters.pop(pattern, self) is None]
        if self._up and known:
            self._client.unsubscribe(known)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        async with self._window:
            if not self._up:
                raise Unreachable("mqtt", "not connected")
            info = self._client.publish(topic, payload, QOS, retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise Unreachable("mqtt", mqtt.error_string(info.rc))
            confirmed = self._loop.create_future()
            self._waiting[info.mid] = confirmed
            try:
                async with asyncio.timeout(PUBACK_SECONDS):
                    await confirmed
            except TimeoutError:
                raise Unreachable("mqtt", f"no PUBACK within {PUBACK_SECONDS:g} s for {topic}") from None
            finally:
                self._waiting.pop(info.mid, None)

    async def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        while True:
            yield await self._arrived.get()

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause, longest = BACKOFF_SECONDS
        while True:
            self._ended.clear()
            try:
                await self._connect()
                pause = BACKOFF_SECONDS[0]
                await self._drive()
            except (OSError, ValueError, TimeoutError, mqtt.WebsocketConnectionError) as error:
                log.warning(
                    "broker unreachable", url=self._settings.mqtt_url, error=str(error) or repr(error)
                )
            except _VersionRefused:
                log.info("broker speaks no MQTT 5, going on with 3.1.1", url=self._settings.mqtt_url)
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, longest)

    async def _connect(self) -> None:
        self._client = self._make()
        host, port = _address(self._settings.mqtt_url)
        # connect() resolves, opens the socket, does the TLS handshake and sends CONNECT: all blocking.
        await asyncio.to_thread(self._client.connect, host, port, KEEPALIVE_SECONDS)
        connection = self._client.socket()
        if connection is None:
            raise OSError("the connection was lost while it was made")
        self._watch(connection)
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        async with asyncio.timeout(KEEPALIVE_SECONDS):
            await self._accepted

    async def _drive(self) -> None:
        """Keep-alive and retransmission, until the session ends."""
        while not self._ended.is_set():
            if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ended.wait()

    def _make(self) -> mqtt.Client:
        given = self._settings
        scheme = urlsplit(given.mqtt_url).scheme
        five = self._version == MQTTProtocolVersion.MQTTv5
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else True,
            protocol=self._version,
            transport="websockets" if scheme in ("ws", "wss") else "tcp",
        )
        client.max_inflight_messages_set(WINDOW)
        client.connect_timeout = 5.0
        if given.mqtt_username is not None:
            client.username_pw_set(given.mqtt_username, given.password())
        if (context := given.tls()) is not None:
            client.tls_set_context(context)
        if scheme in ("ws", "wss"):
            client.ws_set_options(path=urlsplit(given.mqtt_url).path or "/mqtt")
        if self._will:
            client.will_set(self._will[0], self._will[1], QOS, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    # -- the socket ----------------------------------------------------------------------------------------------

    def _watch(self, connection: Any) -> None:
        client = self._client
        descriptor = connection.fileno()
        if isinstance(connection, socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def read() -> None:
            if client.loop_read(100) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._lost("the connection was lost")

        def write() -> None:
            if client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._lost("the connection was lost")

        def closed(_client: mqtt.Client, _userdata: object, _connection: object) -> None:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)

        def register(_client: mqtt.Client, _userdata: object, _connection: object) -> None:
            self._loop.add_writer(descriptor, write)

        def unregister(_client: mqtt.Client, _userdata: object, _connection: object) -> None:
            self._loop.remove_writer(descriptor)

        self._loop.add_reader(descriptor, read)
        client.on_socket_register_write = register
        client.on_socket_unregister_write = unregister
        client.on_socket_close = closed
        if client.want_write():
            self._loop.add_writer(descriptor, write)

    def _lost(self, reason: str) -> None:
        if self._up:
            self._up = False
            self._arrived.put_nowait(Disconnected(reason))
            log.warning("broker connection lost", reason=reason)
        self._fail(Unreachable("mqtt", reason))
        if not self._accepted.done():
            self._accepted.set_exception(OSError(reason))
        self._ended.set()

    def _fail(self, error: Unreachable) -> None:
        for confirmed in self._waiting.values():
            if not confirmed.done():
                confirmed.set_exception(error)

    # -- paho's callbacks: enqueue, nothing else -----------------------------------------------------------------

    def _on_connect(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            if (
                reason.getName() == "Unsupported protocol version"
                and self._version == MQTTProtocolVersion.MQTTv5
            ):
                self._version = MQTTProtocolVersion.MQTTv311
                refused: Exception = _VersionRefused()
            else:
                refused = OSError(f"the broker refused: {reason}")
            if not self._accepted.done():
                self._accepted.set_exception(refused)
            return
        self._up = True
        self._arrived.put_nowait(Connected())
        if self._filters:
            self._client.subscribe([(pattern, QOS) for pattern in self._filters])
        log.info("broker connected", url=self._settings.mqtt_url, protocol=self._version.name)
        if not self._accepted.done():
            self._accepted.set_result(None)

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._lost(str(reason))

    def _on_message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._arrived.put_nowait(Delivery(message.topic, bytes(message.payload), message.retain))

    def _on_publish(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        confirmed = self._waiting.get(mid)
        if confirmed is None or confirmed.done():
            return
        if reason.is_failure:
            confirmed.set_exception(Unreachable("mqtt", f"the broker refused the message: {reason}"))
        else:
            confirmed.set_result(None)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                log.error(
                    "the broker refused a subscription", reason=str(reason), filters=list(self._filters)
                )


class _VersionRefused(Exception):
    """The broker has no MQTT 5."""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or _PORTS[parts.scheme]

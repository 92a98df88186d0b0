"""paho-mqtt on our event loop.

paho is driven through its external-loop hooks instead of its thread: its callbacks run in the loop like any other code,
so an exception in one of them cannot kill a network thread that publish still believes alive. Only connecting,
which blocks on DNS and the TLS handshake, is done in a worker thread.

What cannot be sent or read yet stays where it is: publishes in their callers' hands, arrivals in the socket.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Self

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from prometheus_client import CollectorRegistry

from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus.arrivals import Arrivals
from galactic.bus.client import QOS, address
from galactic.bus.client import client as paho_client
from galactic.bus.failures import Lost, Refused, failure
from galactic.bus.metrics import BusMetrics
from galactic.bus.unconfirmed import NotDone, Unconfirmed
from galactic.bus.wire import Wire
from galactic.errors import Unreachable
from galactic.messages import MAX_PAYLOAD
from galactic.settings import MqttSettings

log = structlog.get_logger(__name__)
KEEPALIVE_SECONDS: Final = 15
BACKOFF_SECONDS: Final = (0.2, 10.0)
SAME_SECONDS: Final = 60.0
"""The same complaint is logged that often, however often there is reason for it."""
WINDOW: Final = 200
"""Publishes under way at once. More would only wait in paho's memory instead of the caller's hands."""
FILTERS: Final = 500
"""Subscriptions asked for in one packet: brokers limit how large one may be."""


class PahoBus:
    """A connection to the broker that is kept up for as long as ``async with`` lasts; see ``galactic.bus.Bus``."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        will: tuple[str, bytes] | None = None,
        metrics: BusMetrics | None = None,
    ) -> None:
        self._settings, self._client_id, self._will = settings, client_id, will
        self._metrics = metrics or BusMetrics(CollectorRegistry())
        self._filters: dict[str, bool] = {}  # whether what we publish ourselves is to come back
        self._arrived = Arrivals(self._pause, self._resume)
        self._unconfirmed = Unconfirmed(self._metrics)
        self._window = asyncio.Semaphore(WINDOW)
        self._ended = asyncio.Event()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make()
        self._up = False
        self._wire: Wire | None = None
        self._told: dict[str, float] = {}
        self._problem: str | None = None  # what the consumer was told last
        self._error = ""  # what paho logged last about this connection: its callbacks say less
        self._metrics.waiting.set_function(lambda: len(self._arrived))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._keeper = asyncio.create_task(self._keep(), name="mqtt")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._client.on_disconnect = None
        if self._up:
            self._client.disconnect()
            self._client.loop_write()
            self._up = False
            self._metrics.connected.set(0)
        self._abandon()
        self._unconfirmed.fail(Unreachable("mqtt", "the connection was closed"))

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def echoes(self) -> bool:
        return self._version != MQTTProtocolVersion.MQTTv5

    def subscribe(self, *filters: str, replay: bool = True, own: bool = True) -> None:
        new = [pattern for pattern in filters if pattern not in self._filters]
        self._filters.update(dict.fromkeys(new, own))
        if self._up:
            self._ask(new, replay=replay)

    def _ask(self, filters: list[str], *, replay: bool) -> None:
        for start in range(0, len(filters), FILTERS):
            some = filters[start : start + FILTERS]
            if self._version == MQTTProtocolVersion.MQTTv5:
                handling = (
                    SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
                    if replay
                    else SubscribeOptions.RETAIN_DO_NOT_SEND
                )
                options = {
                    own: SubscribeOptions(QOS, noLocal=not own, retainHandling=handling)
                    for own in (True, False)
                }
                self._client.subscribe([(pattern, options[self._filters[pattern]]) for pattern in some])
            else:
                self._client.subscribe([(pattern, QOS) for pattern in some])
        self._flush()

    def unsubscribe(self, *filters: str) -> None:
        known = [pattern for pattern in filters if self._filters.pop(pattern, None) is not None]
        if self._up:
            for start in range(0, len(known), FILTERS):
                self._client.unsubscribe(known[start : start + FILTERS])
            self._flush()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if len(payload) > MAX_PAYLOAD:  # a broker with that limit would end the session, again and again
            refusal = f"{len(payload)} bytes, {MAX_PAYLOAD} at the most"
            self._complain("publish", topic, refusal)
            raise Unreachable("mqtt", f"{topic}: {refusal}")
        async with self._window:
            if not self._up:
                raise Unreachable("mqtt", "not connected")
            info = self._client.publish(topic, payload, QOS, retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise Unreachable("mqtt", mqtt.error_string(info.rc))
            confirmed = self._unconfirmed.add(info.mid)
            self._flush()
            try:
                await confirmed
            except NotDone as refusal:
                self._complain("publish", topic, refusal.reason)
                raise Unreachable("mqtt", f"the broker refused {topic}: {refusal.reason}") from None
            finally:
                self._unconfirmed.remove(info.mid)

    async def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        while True:
            yield await self._arrived.get()

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        waits = pauses()
        while True:
            self._ended.clear()
            try:
                await self._connect()
                waits = pauses()
                await self._drive()
                self._cut()
            except _VersionRefused:
                log.info("broker speaks no MQTT 5, going on with 3.1.1", url=self._settings.mqtt_url)
                self._abandon()
                continue
            except Exception as error:  # noqa: BLE001 - whatever a library raises here, the next attempt may work
                self._failed(error)
            await asyncio.sleep(next(waits))

    def _failed(self, error: Exception) -> None:
        """No connection was made: in the log each time, to the consumer when it is something new."""
        reason, sentence = failure(error)
        self._metrics.failures.labels(reason).inc()
        log.warning("broker unreachable", url=self._settings.mqtt_url, reason=reason, error=sentence)
        self._abandon()
        if sentence != self._problem:
            self._problem = sentence
            self._arrived.put(Disconnected(sentence))

    def _abandon(self) -> None:
        """Leaves no half-made connection behind."""
        if self._wire is not None:
            self._wire.close()
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    async def _connect(self) -> None:
        self._error = ""
        self._client = self._make()
        host, port = address(self._settings.mqtt_url)
        # connect() resolves, opens the socket, does the TLS handshake and sends CONNECT: all blocking.
        await asyncio.to_thread(self._client.connect, host, port, KEEPALIVE_SECONDS)
        connection = self._client.socket()
        if connection is None:
            raise Lost(self._error or "the connection was lost while it was made")
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._client.on_disconnect = self._on_disconnect  # not before: connect() would call it in its thread
        self._wire = Wire(self._client, connection, self._cut, paused=self._arrived.paused)
        async with asyncio.timeout(KEEPALIVE_SECONDS):
            await self._accepted

    async def _drive(self) -> None:
        """Keep-alive, and patience with PUBACKs, until the session ends."""
        while not self._ended.is_set():
            if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            self._flush()
            self._unconfirmed.expire()
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ended.wait()

    def _make(self) -> mqtt.Client:
        client = paho_client(
            self._settings,
            self._client_id,
            self._version,
            will=self._will,
            window=WINDOW,
            complaint=self._complained,
        )
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _flush(self) -> None:
        if self._wire is not None:
            self._wire.flush()

    def _pause(self) -> None:
        """Too much is waiting for the consumer."""
        self._metrics.pauses.inc()
        if self._wire is not None:
            self._wire.pause()

    def _resume(self) -> None:
        if self._wire is not None:
            self._wire.resume()

    def _cut(self) -> None:
        """Does nothing where the end of the session was told already."""
        self._lost(self._error or "the connection was lost")

    def _lost(self, reason: str) -> None:
        if self._up:
            self._up = False
            self._metrics.connected.set(0)
            self._metrics.failures.labels("Lost").inc()
            self._problem = reason
            self._arrived.put(Disconnected(reason))
            log.warning("broker connection lost", reason=reason)
        self._unconfirmed.fail(Unreachable("mqtt", reason))
        if not self._accepted.done():
            self._accepted.set_exception(Lost(reason))
        self._ended.set()

    def _complain(self, what: str, about: str, reason: str) -> None:
        """The broker would not do something: counted, and logged once in a while."""
        self._metrics.refusals.labels(what).inc()
        now = time.monotonic()
        if now - self._told.get(about, -SAME_SECONDS) < SAME_SECONDS:
            return
        if len(self._told) >= 1000:
            self._told.clear()
        self._told[about] = now
        remedy = "see the broker's access list and limits"
        log.error("refused", what=what, topic=about, reason=reason, remedy=remedy)

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
            refused: Exception = Refused(reason)
            if (
                reason.getName() == "Unsupported protocol version"
                and self._version == MQTTProtocolVersion.MQTTv5
            ):
                self._version = MQTTProtocolVersion.MQTTv311
                refused = _VersionRefused()
            if not self._accepted.done():
                self._accepted.set_exception(refused)
            return
        self._up, self._problem = True, None
        self._metrics.connected.set(1)
        self._arrived.put(Connected())
        self._ask(list(self._filters), replay=True)
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
        self._lost(self._error or str(reason))

    def _on_message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._arrived.put(Delivery(message.topic, bytes(message.payload), message.retain))

    def _on_publish(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._unconfirmed.answered(mid, reason)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                self._complain("subscribe", ", ".join(list(self._filters)[:10]), str(reason))

    def _complained(self, text: str) -> None:
        self._error = text


def pauses() -> Iterator[float]:
    """Seconds before each attempt to connect again: twice as long each time, and never the same for all clients."""
    pause, longest = BACKOFF_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, longest)


class _VersionRefused(Exception):
    """The broker has no MQTT 5."""

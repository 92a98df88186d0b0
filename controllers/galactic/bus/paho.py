"""paho-mqtt on the process' event loop.

paho is driven through its external-loop hooks instead of its thread. Its callbacks run in the loop like any other code:
an exception in one of them cannot kill a network thread that ``publish`` takes for alive. Only connecting, which blocks
on DNS and the TLS handshake, is done in a worker thread.

What cannot be sent or read yet is not queued here: publishers wait, and the socket keeps what arrives.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Self

import structlog
from paho.mqtt import client as mqtt
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from prometheus_client import CollectorRegistry

from galactic.backoff import Backoff
from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus.client import QOS, address
from galactic.bus.client import client as paho_client
from galactic.bus.failures import Lost, Refused, failure
from galactic.bus.inflight import Inflight, PublishRefused
from galactic.bus.limits import WINDOW, Limits, UnsuitableBroker, limits
from galactic.bus.metrics import BusMetrics
from galactic.bus.paho_socket import PahoSocket
from galactic.bus.receive_queue import ReceiveQueue
from galactic.errors import Unreachable
from galactic.settings import MqttSettings

log = structlog.get_logger(__name__)
KEEPALIVE_SECONDS: Final = 15
BACKOFF_SECONDS: Final = (0.2, 10.0)
SAME_SECONDS: Final = 60.0
"""Time between two log lines about the same refusal."""
FILTERS: Final = 500
"""Subscriptions in one packet: brokers limit the size of packets."""


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
        self._filters: dict[str, bool] = {}  # whether this client's own publishes are wanted
        self._received = ReceiveQueue(self._pause, self._resume)
        self._inflight = Inflight(self._metrics)
        self._window = asyncio.Semaphore(WINDOW)
        self._ended = asyncio.Event()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make()
        self._up = False
        self._limits = Limits()  # of the last session
        self._socket: PahoSocket | None = None
        self._refused_at: dict[str, float] = {}  # when a refusal was logged, by topic
        self._problem: str | None = None  # the reason in the last Disconnected
        self._error = ""  # paho's last log line about this connection: its callbacks have less detail
        self._metrics.waiting.set_function(lambda: len(self._received))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if problem := self._settings.password_exposure:
            log.warning("password is sent to the broker without encryption", problem=problem)
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
        self._inflight.fail(Unreachable("mqtt", "the connection was closed"))

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def echoes(self) -> bool:
        return self._version != MQTTProtocolVersion.MQTTv5

    @property
    def largest(self) -> int:
        return self._limits.payload

    def subscribe(self, *filters: str, replay: bool = True, own: bool = True) -> None:
        new = [pattern for pattern in filters if pattern not in self._filters]
        self._filters.update(dict.fromkeys(new, own))
        if self._up:
            self._send_subscribe(new, replay=replay)

    def _send_subscribe(self, filters: list[str], *, replay: bool) -> None:
        for start in range(0, len(filters), FILTERS):
            chunk = filters[start : start + FILTERS]
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
                self._client.subscribe([(pattern, options[self._filters[pattern]]) for pattern in chunk])
            else:
                self._client.subscribe([(pattern, QOS) for pattern in chunk])
        self._flush()

    def unsubscribe(self, *filters: str) -> None:
        known = [pattern for pattern in filters if self._filters.pop(pattern, None) is not None]
        if self._up:
            for start in range(0, len(known), FILTERS):
                self._client.unsubscribe(known[start : start + FILTERS])
            self._flush()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if len(payload) > self.largest:  # a broker with that limit would end the session, again and again
            refusal = f"{len(payload)} bytes, {self.largest} at the most"
            self._report_refusal("publish", topic, refusal)
            raise Unreachable("mqtt", f"{topic}: {refusal}")
        while True:
            window = self._window
            async with window:
                if window is self._window:  # else another session has begun, with a window of its own
                    await self._publish(topic, payload, retain)
                    return

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        if not self._up:
            raise Unreachable("mqtt", "not connected")
        info = self._client.publish(topic, payload, QOS, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Unreachable("mqtt", mqtt.error_string(info.rc))
        confirmed = self._inflight.add(info.mid)
        self._flush()
        try:
            await confirmed
        except PublishRefused as refusal:
            self._report_refusal("publish", topic, refusal.reason)
            raise Unreachable("mqtt", f"the broker refused {topic}: {refusal.reason}") from None
        finally:
            self._inflight.remove(info.mid)

    async def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        while True:
            yield await self._received.get()

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            self._ended.clear()
            try:
                await self._connect()
                backoff.succeeded()
                await self._drive()
                self._cut()
            except _VersionRefused:
                log.info("broker lacks MQTT 5, using 3.1.1", url=self._settings.mqtt_url)
                self._abandon()
                continue
            except Exception as error:  # noqa: BLE001 - whatever a library raises here, the next attempt may work
                self._failed(error)
            await asyncio.sleep(backoff.pause())

    def _failed(self, error: Exception) -> None:
        """No connection was made: logged each time, reported to the consumer when the reason is a new one."""
        reason, sentence = failure(error)
        self._metrics.failures.labels(reason).inc()
        log.warning("broker unreachable", url=self._settings.mqtt_url, reason=reason, error=sentence)
        self._abandon()
        if sentence != self._problem:
            self._problem = sentence
            self._received.put(Disconnected(sentence))

    def _abandon(self) -> None:
        """Closes a half-made connection."""
        if self._socket is not None:
            self._socket.close()
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
        self._socket = PahoSocket(self._client, connection, self._cut, paused=self._received.paused)
        async with asyncio.timeout(KEEPALIVE_SECONDS):
            await self._accepted

    async def _drive(self) -> None:
        """Keep-alive, and time-outs of PUBACKs, until the session ends."""
        while not self._ended.is_set():
            if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            self._flush()
            self._inflight.expire()
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
            on_error=self._logged,
        )
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _flush(self) -> None:
        if self._socket is not None:
            self._socket.flush()

    def _pause(self) -> None:
        """The receive queue is full."""
        self._metrics.pauses.inc()
        if self._socket is not None:
            self._socket.pause()

    def _resume(self) -> None:
        if self._socket is not None:
            self._socket.resume()

    def _cut(self) -> None:
        """Does nothing if the end of the session was reported already."""
        self._lost(self._error or "the connection was lost")

    def _lost(self, reason: str) -> None:
        if self._up:
            self._up = False
            self._metrics.connected.set(0)
            self._metrics.failures.labels("Lost").inc()
            self._problem = reason
            self._received.put(Disconnected(reason))
            log.warning("broker connection lost", reason=reason)
        self._inflight.fail(Unreachable("mqtt", reason))
        if not self._accepted.done():
            self._accepted.set_exception(Lost(reason))
        self._ended.set()

    def _report_refusal(self, request: str, topic: str, reason: str) -> None:
        """Counts a publish or subscribe that the broker refused, and logs it once in SAME_SECONDS a topic."""
        self._metrics.refusals.labels(request).inc()
        now = time.monotonic()
        if now - self._refused_at.get(topic, -SAME_SECONDS) < SAME_SECONDS:
            return
        if len(self._refused_at) >= 1000:
            self._refused_at.clear()
        self._refused_at[topic] = now
        remedy = "see the broker's access list and limits"
        log.error("broker refused a request", request=request, topic=topic, reason=reason, remedy=remedy)

    # -- paho's callbacks: enqueue, nothing else -----------------------------------------------------------------

    def _on_connect(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        _flags: Any,
        reason: ReasonCode,
        properties: Properties | None,
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
        try:
            self._limits = limits(properties)
        except UnsuitableBroker as error:
            if not self._accepted.done():
                self._accepted.set_exception(error)
            return
        self._window = asyncio.Semaphore(self._limits.inflight)
        self._up, self._problem = True, None
        self._metrics.connected.set(1)
        self._received.put(Connected())
        self._send_subscribe(list(self._filters), replay=True)
        log.info(
            "broker connected",
            url=self._settings.mqtt_url,
            protocol=self._version.name,
            largest_payload=self._limits.payload,
            inflight=self._limits.inflight,
        )
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
        self._received.put(Delivery(message.topic, bytes(message.payload), message.retain))

    def _on_publish(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._inflight.answered(mid, reason)

    def _on_subscribe(
        self, _client: mqtt.Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                self._report_refusal("subscribe", ", ".join(list(self._filters)[:10]), str(reason))

    def _logged(self, text: str) -> None:
        self._error = text


class _VersionRefused(Exception):
    """The broker has no MQTT 5."""

"""The connection to the MQTT broker. ``Bus`` is its interface; every message of every process passes here.

paho           ``PahoBus``, the adapter of paho-mqtt: connects, subscribes, publishes
client         one paho client, configured from the settings
paho_socket    its socket on the event loop
websocket      a correction of paho's WebSocket
receive_queue  messages that wait for their consumer
inflight       publishes that wait for their PUBACK
limits         what a broker announces that it takes
failures       reasons of a failed connection
metrics        ``galactic_mqtt_…``
memory         a broker in memory, for tests
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message. ``retained``: the broker had stored it before the subscription."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """Marks the beginning of a session in the stream of deliveries: all retained messages follow it."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Marks the end of a session in the stream, and every later change of the reason why there is none.

    Messages that others publish meanwhile may be lost.
    """

    reason: str


class Bus(Protocol):
    """QoS 1 publish and subscribe over one connection, which is made again whenever it ends."""

    @property
    def connected(self) -> bool: ...

    @property
    def echoes(self) -> bool:
        """Whether this client's own publishes are delivered to it in spite of ``own=False``."""

    @property
    def largest(self) -> int:
        """Bytes of the largest payload that the broker takes, and Galactic sends."""

    def subscribe(self, *filters: str, replay: bool = True, own: bool = True) -> None:
        """Adds subscriptions. Never fails: every new session makes them again.

        ``replay`` False: retained messages are not needed now; a new session brings them anyway. ``own`` False: this
        client's own publishes are not needed. Not for retained messages: brokers differ in whether those count as own.
        MQTT 3.1.1 can express neither.
        """

    def unsubscribe(self, *filters: str) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Returns when the broker has confirmed (PUBACK).

        Raises Unreachable if no PUBACK arrived in time, or the broker refused (MQTT 5 only).
        """

    def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        """Everything that arrives, in order, without end. For one consumer.

        A slow consumer makes the connection stop reading, PUBACKs included: it must not wait for a publish.
        """

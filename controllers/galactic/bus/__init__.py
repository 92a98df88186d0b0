"""The only place that talks to the MQTT broker.

``paho.PahoBus`` is the real adapter, ``memory.MemoryBus`` the one for tests; ``Bus`` is what both promise.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it arrived. ``retained`` says that it was stored by the broker before we subscribed."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """Stands in the stream of deliveries where a (new) session began: everything retained follows it."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Stands in the stream where the session ended, and again whenever the reason why there is none is another one.

    What was published by others meanwhile may be lost.
    """

    reason: str


class Bus(Protocol):
    """QoS 1 publish and subscribe over one connection that is kept up by itself."""

    @property
    def connected(self) -> bool: ...

    @property
    def echoes(self) -> bool:
        """Whether what this client publishes comes back though ``subscribe`` was told that it need not."""

    def subscribe(self, *filters: str, replay: bool = True, own: bool = True) -> None:
        """Adds subscriptions; they are made again on every new session, so this never fails.

        ``replay`` False: what is retained need not be sent now. MQTT 3.1.1 cannot say so, and a new session brings it.
        ``own`` False: what this client publishes need not come back. MQTT 3.1.1 cannot say so. Not for retained
        messages: brokers differ in whether those count as one's own.
        """

    def unsubscribe(self, *filters: str) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Returns when the broker has confirmed (PUBACK).

        Raises Unreachable when that did not happen in time, or the broker refused (MQTT 5; 3.1.1 cannot say so).
        """

    def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        """Everything that arrives, in order, for ever. For one consumer.

        One that does not keep up makes the connection stop reading, PUBACKs included: it must not wait for a publish.
        """

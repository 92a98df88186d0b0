"""The end of what the broker retains (end-of-RIB): asks for it, and knows when all of it has arrived.

The router sends itself a message after it has subscribed. A broker queues what it retains when it handles the
subscription, so all of it has arrived when that message is back (MQTT 5 §3.3.4, §4.6; Mosquitto does so).

A broker whose queue for the router is full drops messages silently, the router's own to itself included. So the
message is repeated until it is back, and what must exist and did not arrive is requested by name, in ever smaller
portions.
"""

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Final

from galactic.bus import Bus
from galactic.errors import Unreachable

ECHO_SECONDS: Final = (0.5, 5.0)
RETRY_SECONDS: Final = 0.1
PORTIONS: Final = (100, 25, 6, 1)
"""Topics requested at once. Mosquitto queues 1,000 messages for a client by default, other brokers fewer."""


class ResyncBarrier:
    """The barriers of one client; ``topic`` is its own."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self.topic = topic
        self._bus = bus
        self._echoes: dict[bytes, asyncio.Event] = {}
        self._numbers = count(1)
        self._awaited: list[set[str]] = []
        self.kept: set[str] = set()
        """Topics whose subscription stays after a request."""

    def echoed(self, payload: bytes) -> None:
        """A message on ``topic`` arrived, and everything that arrived before it is dealt with."""
        if (echo := self._echoes.get(payload)) is not None:
            echo.set()

    async def passed(self) -> None:
        """Returns when everything that the broker had queued for the router before is dealt with."""
        payload = f"{id(self)}-{next(self._numbers)}".encode()
        echo = self._echoes[payload] = asyncio.Event()
        timeout, longest = ECHO_SECONDS
        try:
            while not echo.is_set():
                try:
                    await self._bus.publish(self.topic, payload)
                    async with asyncio.timeout(timeout):
                        await echo.wait()
                except (Unreachable, TimeoutError):
                    await asyncio.sleep(RETRY_SECONDS)
                timeout = min(2 * timeout, longest)
        finally:
            del self._echoes[payload]

    def arrived(self, topic: str) -> None:
        """A message on any topic arrived."""
        for awaited in self._awaited:
            awaited.discard(topic)

    async def request(
        self, topics: Iterable[str], portions: Iterable[int] = PORTIONS, *, pause: float = 0.0
    ) -> None:
        """Requests these, and those of them that did not arrive once more, in smaller portions, to the smallest.

        ``pause``: seconds between portions, in which other messages arrive.
        """
        awaited = set(topics)
        self._awaited.append(awaited)
        try:
            for portion in portions:
                rest = sorted(awaited)
                for start in range(0, len(rest), portion):
                    await self._request(rest[start : start + portion])
                    if pause:
                        await asyncio.sleep(pause)
        finally:
            self._awaited[:] = (others for others in self._awaited if others is not awaited)

    async def _request(self, topics: list[str]) -> None:
        self._bus.unsubscribe(*(self.kept & {*topics}))  # or the broker would not send them again
        self._bus.subscribe(*topics)
        try:
            await self.passed()
        finally:
            self._bus.unsubscribe(*(topic for topic in topics if topic not in self.kept))

"""Asking the broker for what it retains, and knowing when it has answered.

The router sends itself a message after it has subscribed. A broker queues what it retains when it handles the
subscription, so whatever there is has arrived when that message is back (MQTT 5 §3.3.4, §4.6; Mosquitto does).

A broker whose queue for us is full drops messages without a word, ours to ourselves included. So that is repeated until
it is back, and what must exist and did not arrive is asked for by name, in ever smaller portions.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

from galactic.bus import Bus
from galactic.errors import Unreachable

ECHO_SECONDS: Final = (0.5, 5.0)
PORTIONS: Final = (100, 25, 6, 1)
"""Topics asked for at once: Mosquitto keeps 1,000 messages for a client unless it is told otherwise, others less."""


class ResyncBarrier:
    """One client's questions. ``settled`` is given what to call when all that has arrived by then is dealt with."""

    def __init__(self, bus: Bus, topic: str, settled: Callable[[Callable[[], None]], None]) -> None:
        self._bus, self._topic, self._settled = bus, topic, settled
        self._echoes: dict[bytes, asyncio.Event] = {}
        self._numbers = count(1)
        self._awaited: list[set[str]] = []
        self.kept: set[str] = set()
        """Topics whose subscription stays when they were asked for."""

    def echoed(self, payload: bytes) -> None:
        """A message on our own topic arrived."""
        if (echo := self._echoes.get(payload)) is not None:
            self._settled(echo.set)

    async def answered(self) -> None:
        """Returns when everything that the broker had queued for us before is handled."""
        payload = f"{id(self)}-{next(self._numbers)}".encode()
        echo = self._echoes[payload] = asyncio.Event()
        pause, longest = ECHO_SECONDS
        try:
            while not echo.is_set():
                try:
                    await self._bus.publish(self._topic, payload)
                    async with asyncio.timeout(pause):
                        await echo.wait()
                except (Unreachable, TimeoutError):
                    await asyncio.sleep(0.1)
                pause = min(2 * pause, longest)
        finally:
            del self._echoes[payload]

    def arrived(self, topic: str) -> None:
        """A message on any topic arrived."""
        for awaited in self._awaited:
            awaited.discard(topic)

    async def ask(
        self, topics: Iterable[str], portions: Iterable[int] = PORTIONS, *, pause: float = 0.0
    ) -> None:
        """Asks for these, and for those of them that did not arrive again, in smaller portions, to the smallest.

        ``pause``: seconds between portions, for whoever else has something to say.
        """
        awaited = set(topics)
        self._awaited.append(awaited)
        try:
            for portion in portions:
                rest = sorted(awaited)
                for start in range(0, len(rest), portion):
                    await self._portion(rest[start : start + portion])
                    if pause:
                        await asyncio.sleep(pause)
        finally:
            self._awaited[:] = (each for each in self._awaited if each is not awaited)

    async def _portion(self, topics: list[str]) -> None:
        self._bus.unsubscribe(*(self.kept & {*topics}))  # or the broker would not send them again
        self._bus.subscribe(*topics)
        try:
            await self.answered()
        finally:
            self._bus.unsubscribe(*(topic for topic in topics if topic not in self.kept))

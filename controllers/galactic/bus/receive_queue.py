"""Messages that arrived and wait for their consumer, bounded: a full queue stops reading from the socket.

Then the TCP window fills, and the broker keeps the rest, in a queue with limits of its own. Reading goes on when the
queue is half empty, so that a slow consumer does not stop and start the connection with every message.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from galactic.bus import Connected, Delivery, Disconnected

Item = Delivery | Connected | Disconnected
MOST: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024


class ReceiveQueue:
    """For one consumer. Calls ``pause`` when it is full, and ``resume`` when it is at half of its limit again."""

    def __init__(
        self,
        pause: Callable[[], None],
        resume: Callable[[], None],
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._pause, self._resume, self._most, self._most_bytes = pause, resume, most, most_bytes
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._nonempty = asyncio.Event()
        self.paused = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Never refuses: what was read already is kept, so the queue may exceed its limit by one read."""
        self._items.append(item)
        self._bytes += _size(item)
        self._nonempty.set()
        if not self.paused and (len(self._items) >= self._most or self._bytes >= self._most_bytes):
            self.paused = True
            self._pause()

    async def get(self) -> Item:
        """The oldest item; waits for one."""
        while not self._items:
            self._nonempty.clear()
            await self._nonempty.wait()
        item = self._items.popleft()
        self._bytes -= _size(item)
        if self.paused and 2 * len(self._items) <= self._most and 2 * self._bytes <= self._most_bytes:
            self.paused = False
            self._resume()
        return item


def _size(item: Item) -> int:
    return len(item.topic) + len(item.payload) if isinstance(item, Delivery) else 0

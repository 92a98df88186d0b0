"""What has arrived and waits for its consumer, bounded: a full one asks that nothing more be read from the socket.

Then the peer's window fills, and the broker keeps the rest, in a queue with limits of its own. Reading goes on when
half of it is handled, so that a slow consumer does not stop and go with every message.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from galactic.bus import Connected, Delivery, Disconnected

Item = Delivery | Connected | Disconnected
MOST: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024


class Arrivals:
    """A queue for one consumer. ``pause`` is called when it is full, ``resume`` when it is at half of that again."""

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
        self._some = asyncio.Event()
        self.paused = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Never refused: what was read already is kept, so it may exceed the limit by a read's worth."""
        self._items.append(item)
        self._bytes += _size(item)
        self._some.set()
        if not self.paused and (len(self._items) >= self._most or self._bytes >= self._most_bytes):
            self.paused = True
            self._pause()

    async def get(self) -> Item:
        """The oldest, as soon as there is one."""
        while not self._items:
            self._some.clear()
            await self._some.wait()
        item = self._items.popleft()
        self._bytes -= _size(item)
        if self.paused and 2 * len(self._items) <= self._most and 2 * self._bytes <= self._most_bytes:
            self.paused = False
            self._resume()
        return item


def _size(item: Item) -> int:
    return len(item.topic) + len(item.payload) if isinstance(item, Delivery) else 0

"""A work queue as client-go has one: items in order of arrival, each once, one worker at a time on each."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from galactic.backoff import Backoff

T = TypeVar("T", bound=Hashable)
BACKOFF_SECONDS: Final = (0.05, 60.0)
"""The shortest and the longest pause before an item that failed comes again."""


class WorkQueue(Generic[T]):
    """``add`` marks an item dirty, ``get`` hands the oldest out, ``done`` or ``failed`` must follow.

    An item that is marked while it is worked on comes again afterwards. Items for which ``first`` is true are handed
    out before the others.
    """

    def __init__(self, first: Callable[[T], bool] = lambda _item: False) -> None:
        self._first = first
        self._urgent: OrderedDict[T, None] = OrderedDict()
        self._dirty: OrderedDict[T, None] = OrderedDict()
        self._working: dict[T, bool] = {}  # item → marked again meanwhile
        self._delayed: dict[T, asyncio.TimerHandle] = {}
        self._failures: dict[T, Backoff] = {}
        self._available = asyncio.Event()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._dirty) + len(self._working) + len(self._delayed)

    @property
    def busy(self) -> bool:
        """Whether an item is dirty or worked on; delayed ones do not count."""
        return bool(self._urgent or self._dirty or self._working)

    def add(self, item: T, delay: float = 0.0) -> None:
        """Marks the item dirty, now or after ``delay`` seconds; the earlier of two marks counts."""
        if delay > 0:
            loop = asyncio.get_running_loop()
            if item in self._urgent or item in self._dirty or self._working.get(item):
                return
            if (timer := self._delayed.get(item)) is not None:
                if timer.when() <= loop.time() + delay:
                    return
                timer.cancel()
            self._delayed[item] = loop.call_later(delay, self._delay_over, item)
            return
        if (timer := self._delayed.pop(item, None)) is not None:
            timer.cancel()
        if item in self._working:
            self._working[item] = True
        else:
            (self._urgent if self._first(item) else self._dirty).setdefault(item)
            self._available.set()

    async def get(self) -> T:
        """The item that has been dirty for longest."""
        while not self._urgent and not self._dirty:
            self._available.clear()
            await self._available.wait()
        item, _ = (self._urgent or self._dirty).popitem(last=False)
        self._working[item] = False
        return item

    def done(self, item: T) -> None:
        """The work on the item succeeded."""
        self._failures.pop(item, None)
        self._finish(item)

    def failed(self, item: T) -> float:
        """The work on the item failed: the item comes again after a pause that doubles. The pause, in seconds."""
        if item not in self._failures:
            self._failures[item] = Backoff(*BACKOFF_SECONDS, spread=0)
        delay = self._failures[item].pause()
        self._finish(item)
        self.add(item, delay)
        return delay

    def take_back(self) -> None:
        """The workers were cancelled: items that they worked on are dirty again."""
        working, self._working = self._working, {}
        for item in working:
            self.add(item)

    def clear(self) -> None:
        """Forgets every item."""
        self.close()
        self._urgent.clear()
        self._dirty.clear()
        self._working.clear()
        self._failures.clear()

    def close(self) -> None:
        """Forgets the delayed items."""
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()

    def _finish(self, item: T) -> None:
        if self._working.pop(item, False):
            self.add(item)

    def _delay_over(self, item: T) -> None:
        self._delayed.pop(item, None)
        self.add(item)

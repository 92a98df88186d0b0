"""A set of what is dirty, in order of arrival: nothing is in it twice, and nothing is worked on twice at a time.

What others depend on goes first.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)
BACKOFF_SECONDS: Final = (0.05, 60.0)


class Queue(Generic[T]):
    """``add`` marks an item dirty, ``get`` hands the oldest out, ``done`` must follow.

    An item marked while it is worked on comes again afterwards. ``first`` says which items go before the others.
    """

    def __init__(self, first: Callable[[T], bool] = lambda _item: False) -> None:
        self._first = first
        self._urgent: OrderedDict[T, None] = OrderedDict()
        self._dirty: OrderedDict[T, None] = OrderedDict()
        self._working: dict[T, bool] = {}  # item → marked again meanwhile
        self._later: dict[T, asyncio.TimerHandle] = {}
        self._failures: dict[T, int] = {}
        self._waiting = asyncio.Event()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._dirty) + len(self._working) + len(self._later)

    @property
    def busy(self) -> bool:
        """Whether anything is dirty now or being worked on, what is due later left aside."""
        return bool(self._urgent or self._dirty or self._working)

    def add(self, item: T, delay: float = 0.0) -> None:
        """Marks the item dirty, now or after ``delay`` seconds; the earlier of two marks counts."""
        if delay > 0:
            loop = asyncio.get_running_loop()
            if item in self._urgent or item in self._dirty or self._working.get(item):
                return
            if (timer := self._later.get(item)) is not None:
                if timer.when() <= loop.time() + delay:
                    return
                timer.cancel()
            self._later[item] = loop.call_later(delay, self._due, item)
            return
        if (timer := self._later.pop(item, None)) is not None:
            timer.cancel()
        if item in self._working:
            self._working[item] = True
        else:
            (self._urgent if self._first(item) else self._dirty).setdefault(item)
            self._waiting.set()

    async def get(self) -> T:
        """The item that has been dirty for longest."""
        while not self._urgent and not self._dirty:
            self._waiting.clear()
            await self._waiting.wait()
        item, _ = (self._urgent or self._dirty).popitem(last=False)
        self._working[item] = False
        return item

    def done(self, item: T) -> None:
        """The work on it went well."""
        self._failures.pop(item, None)
        self._finish(item)

    def failed(self, item: T) -> float:
        """The work on it failed: it comes again after a delay that doubles. The delay, in seconds."""
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        shortest, longest = BACKOFF_SECONDS
        delay = min(shortest * 2.0 ** min(failures - 1, 32), longest)
        self._finish(item)
        self.add(item, delay)
        return delay

    def clear(self) -> None:
        """Nothing is dirty any more, and nothing is worked on."""
        self.close()
        self._urgent.clear()
        self._dirty.clear()
        self._working.clear()
        self._failures.clear()

    def close(self) -> None:
        """Cancels what is due later."""
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    def _finish(self, item: T) -> None:
        if self._working.pop(item, False):
            self.add(item)

    def _due(self, item: T) -> None:
        self._later.pop(item, None)
        self.add(item)

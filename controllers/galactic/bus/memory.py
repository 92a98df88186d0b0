"""A broker in memory, for tests: retained messages, wildcards, Last Will, and loss on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable

from galactic.bus import Connected, Delivery, Disconnected
from galactic.errors import Unreachable
from galactic.messages import MAX_PAYLOAD


class MemoryBroker:
    """Keeps retained messages and passes others on. ``lose`` decides which deliveries are dropped."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes, bool]] = []
        self.up, self.largest = True, MAX_PAYLOAD
        self.lose: Callable[[str, bytes], bool] = lambda _topic, _payload: False
        self._sessions: list[MemoryBus] = []

    def session(self, will: tuple[str, bytes] | None = None) -> "MemoryBus":
        """A new connected client."""
        bus = MemoryBus(self, will)
        self._sessions.append(bus)
        bus.arrive(Connected())
        return bus

    def publish(self, topic: str, payload: bytes, retain: bool, publisher: "MemoryBus | None" = None) -> None:
        self.published.append((topic, payload, retain))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for session in self._sessions:
            ignored = session.others if session is publisher else ()
            filters = (pattern for pattern in session.filters if pattern not in ignored)
            if session.connected and any(matches(pattern, topic) for pattern in filters):
                self.deliver(session, topic, payload, False)

    def deliver(self, session: "MemoryBus", topic: str, payload: bytes, retained: bool) -> None:
        if not self.lose(topic, payload):
            session.arrive(Delivery(topic, payload, retained))

    def stop(self) -> None:
        """The broker stops: every session ends. Retained messages stay, as with persistence."""
        self.up = False
        for session in self._sessions:
            session.arrive(Disconnected("broker stopped"))

    def start(self, *, empty: bool = False) -> None:
        """The broker starts, with or without its retained messages."""
        self.up = True
        if empty:
            self.retained.clear()
        for session in self._sessions:
            session.arrive(Connected())
            session.replay(session.filters)

    def drop(self, session: "MemoryBus") -> None:
        """A client's connection breaks: its Last Will is published."""
        self._sessions.remove(session)
        if session.will:
            self.publish(*session.will, True)


class MemoryBus:
    """One client of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, will: tuple[str, bytes] | None) -> None:
        self.broker, self.will = broker, will
        self.filters: list[str] = []
        self.others: set[str] = set()  # filters that this client's own publishes do not match
        self._queue: asyncio.Queue[Delivery | Connected | Disconnected] = asyncio.Queue()

    @property
    def connected(self) -> bool:
        return self.broker.up

    @property
    def echoes(self) -> bool:
        return False

    @property
    def largest(self) -> int:
        return self.broker.largest

    def subscribe(self, *filters: str, replay: bool = True, own: bool = True) -> None:
        new = [pattern for pattern in filters if pattern not in self.filters]
        self.filters += new
        (self.others.difference_update if own else self.others.update)(new)
        if self.broker.up and replay:
            self.replay(new)

    def unsubscribe(self, *filters: str) -> None:
        self.filters = [pattern for pattern in self.filters if pattern not in filters]

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if not self.broker.up:
            raise Unreachable("mqtt", "the broker is stopped")
        if len(payload) > self.largest:
            raise Unreachable("mqtt", f"{topic}: {len(payload)} bytes, {self.largest} at the most")
        self.broker.publish(topic, payload, retain, self)
        await asyncio.sleep(0)

    async def deliveries(self) -> AsyncIterator[Delivery | Connected | Disconnected]:
        while True:
            yield await self._queue.get()

    def arrive(self, item: Delivery | Connected | Disconnected) -> None:
        self._queue.put_nowait(item)

    def replay(self, filters: list[str]) -> None:
        for topic, payload in sorted(self.broker.retained.items()):
            if any(matches(pattern, topic) for pattern in filters):
                self.broker.deliver(self, topic, payload, True)


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic (MQTT 5 §4.7), ``$`` topics left aside."""
    filters, levels = pattern.split("/"), topic.split("/")
    for position, level in enumerate(filters):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(filters) == len(levels)

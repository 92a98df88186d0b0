"""Everything that arrives over MQTT, and which part of the router deals with it."""

import asyncio
from functools import partial
from typing import Final, Protocol

from galactic.bus import Bus, Connected, Delivery, Disconnected
from galactic.messages import Topics
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.decoder import is_shard
from galactic.router.ingress.node_messages import NodeMessages

TURN: Final = 64
"""Deliveries handled before the rest of the process gets a turn: a flood must not keep commits from happening."""


class RouterTopics(Protocol):
    """Sessions, and messages on topics that only routers write; ``leader.leadership.Leadership``."""

    def session_began(self) -> None: ...

    def session_ended(self, reason: str) -> None: ...

    def arrived(self, parts: tuple[str, ...], payload: bytes, *, retained: bool) -> None: ...


class UsageSink(Protocol):
    """Traffic that nodes report; ``database.usage.UsageWriter``."""

    def arrived(self, cluster: str, node: str, level: str, payload: bytes) -> None: ...


class Inbox:
    """Of one router."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        barrier: ResyncBarrier,
        nodes: NodeMessages,
        router_topics: RouterTopics,
    ) -> None:
        self._bus, self._topics, self._barrier = bus, topics, barrier
        self._nodes, self._router_topics = nodes, router_topics
        self.usage: UsageSink | None = None
        """Set before ``run`` where there is a database."""

    async def run(self) -> None:
        """Handles deliveries for ever. Nothing that arrives stops it."""
        self._bus.subscribe(self._barrier.topic)
        # Only other routers' changes: each change of our own would cost us nearly as much again.
        self._bus.subscribe(self._topics.changes("+"), own=False)
        self._nodes.subscribe()
        if self.usage is not None:
            self._bus.subscribe(self._topics.usage("+", "+", "+"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run(), name="nodes")
            await self._deliveries()

    async def _deliveries(self) -> None:
        handled = 0
        async for item in self._bus.deliveries():
            match item:
                case Connected():
                    self._router_topics.session_began()
                case Disconnected(reason):
                    self._router_topics.session_ended(reason)
                case Delivery(topic, payload) if topic == self._barrier.topic:
                    self._nodes.after(partial(self._barrier.echoed, payload))
                case Delivery():
                    with self._nodes.dropped.guard(item.topic):
                        self._arrived(item)
            handled += 1
            if handled % TURN == 0:
                await asyncio.sleep(0)

    def _arrived(self, delivery: Delivery) -> None:
        self._barrier.arrived(delivery.topic)
        match self._topics.parts(delivery.topic):
            case ("nodes", cluster, node, "endpoints" | "status" as kind):
                self._nodes.arrived(cluster, node, kind, delivery.payload)
            case ("nodes", cluster, node, "endpoints", level) if is_shard(level):
                self._nodes.arrived(cluster, node, f"endpoints/{level}", delivery.payload)
            case ("nodes", cluster, node, "usage", level) if self.usage is not None:
                self.usage.arrived(cluster, node, level, delivery.payload)
            case ("entitlements", cluster, shard) if self._nodes.lists is not None:
                self._nodes.lists.arrived(cluster, shard, delivery.payload)
            case parts:
                self._router_topics.arrived(parts, delivery.payload, retained=delivery.retained)

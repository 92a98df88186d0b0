"""Clears what the broker retains of nodes that are no more, for routers outside of the cluster.

Such a router goes by the node's retained status: until that is cleared the node keeps its prefix and its routes there.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.errors import Unreachable
from galactic.messages import Topics
from galactic.operator.state import Caches

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 60.0
"""A node's controller may end after its Node, and its Last Will comes after a keep-alive and a half."""


class DepartedNodes:
    """Of one cluster. A node is no more when it has had neither a Node nor a NodeSegment for GRACE_SECONDS."""

    def __init__(
        self, topics: Topics, cluster: str, caches: Caches, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._topics, self._cluster, self._caches, self._clock = topics, cluster, caches, clock
        self._retained: set[str] = set()  # nodes with a status
        self._since: dict[str, float] = {}  # of those that are no more

    @property
    def filter(self) -> str:
        """The statuses of all nodes of the cluster."""
        return self._topics.status(self._cluster, "+")

    def arrived(self, topic: str, payload: bytes) -> bool:
        """Whether the message is a node's status."""
        match self._topics.parts(topic):
            case ("nodes", self._cluster, node, "status"):
                (self._retained.add if payload else self._retained.discard)(node)
                return True
        return False

    def due(self) -> list[str]:
        """The nodes to clear now."""
        now = self._clock()
        gone = {node for node in self._retained if not self._exists(node)}
        self._since = {node: self._since.get(node, now) for node in gone}
        return sorted(node for node, since in self._since.items() if now - since >= GRACE_SECONDS)

    async def run(self, bus: Bus, allowed: Callable[[], bool] = lambda: True) -> None:
        """For ever. ``allowed``: whether the cluster's name is this cluster's, and so are all of these nodes."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for node in self.due() if bus.connected and allowed() else ():
                try:
                    await self._clear(bus, node)
                except Unreachable as error:
                    log.warning("messages of a removed node not cleared", node=node, error=str(error))
                    break
                log.info("messages of a removed node cleared", node=node)
                self._retained.discard(node)

    async def _clear(self, bus: Bus, node: str) -> None:
        for topic in self._topics.of_node(self._cluster, node):
            await bus.publish(topic, b"", retain=True)

    def _exists(self, node: str) -> bool:
        key = "", node
        return self._caches.nodes.get(key) is not None or self._caches.segments.get(key) is not None

"""Clears what the broker retains of nodes that are no more: every router that starts would read it, for ever.

For routers outside of the cluster its operator does the same. A node that is no more is offline by its Last Will.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.errors import Unreachable
from galactic.messages import Topics
from galactic.router.kubernetes.segments import SegmentIndex
from galactic.router.rib.path import NodeRef

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 60.0
"""A node's controller may end after its Node."""
REFUSED_SECONDS: Final = 3600.0
"""Until it is tried again, where the broker's access list is one of an earlier version."""


class DepartedNodes:
    """Of the router's own cluster. ``offline``: nodes whose retained status is offline."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        segments: SegmentIndex,
        offline: Callable[[], Iterable[NodeRef]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._topics, self._segments = bus, topics, segments
        self._offline, self._clock = offline, clock
        self._due: dict[NodeRef, float] = {}  # when each may be cleared

    async def run(self) -> None:
        """For ever. For one that leads."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.poll()

    async def poll(self) -> None:
        """Clears the messages of those that have been no more for GRACE_SECONDS."""
        now = self._clock()
        gone = {node for node in self._offline() if self._segments.departed(node)}
        self._due = {node: self._due.get(node, now + GRACE_SECONDS) for node in gone}
        for node in sorted(node for node, due in self._due.items() if due <= now):
            if not self._bus.connected:
                return
            try:
                for topic in self._topics.of_node(*node):
                    await self._bus.publish(topic, b"", retain=True)
            except Unreachable as error:
                log.info("messages of a removed node not cleared", node=node.node, error=str(error))
                self._due[node] = now + (REFUSED_SECONDS if self._bus.connected else GRACE_SECONDS)
            else:
                log.info("messages of a removed node cleared", node=node.node)
                self._due.pop(node, None)

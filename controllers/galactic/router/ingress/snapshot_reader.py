"""Reads the routers' own topics as the broker retains them, once a session and on request."""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from galactic.bus import Bus
from galactic.messages import Topics
from galactic.names import vpc_hex
from galactic.router.egress.retained import Retained
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.decoder import is_valid
from galactic.router.rib.path import NodeRef
from galactic.router.rib.registrations import Registrations

log = structlog.get_logger(__name__)


class SnapshotReader:
    """Reads until nothing that must exist is missing.

    ``nodes``, standalone: the registrations of the nodes that are in the tables must exist too.
    """

    def __init__(
        self, bus: Bus, topics: Topics, barrier: ResyncBarrier, nodes: Registrations | None = None
    ) -> None:
        self._bus, self._topics, self._barrier, self._nodes = bus, topics, barrier, nodes
        self._own = (topics.leader, topics.head("+"), topics.table("+", "+"))
        self._subscribed = False
        self._snapshot: Retained | None = None
        self._task: asyncio.Task[None] | None = None

    def read(self, then: Callable[[Retained], None]) -> None:
        """Reads, and calls ``then`` in the turn in which the last message was dealt with. A later call replaces it.

        Without a session nothing is read: the next session begins with a call.
        """
        if not self._bus.connected:
            return
        if self._subscribed:
            self._bus.unsubscribe(*self._own)
        self.end()
        self._subscribed, self._snapshot = True, Retained()
        self._bus.subscribe(*self._own)
        self._task = asyncio.create_task(self._read(self._snapshot, then), name="snapshot")

    def end(self) -> None:
        """The session is over: stops reading."""
        self._subscribed = False
        if self._task is not None:
            self._task.cancel()

    def arrived(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A message on a router's topic (its levels below the base). Raises Rejected."""
        if self._snapshot is not None and parts[2:] != ("changes",):
            self._snapshot.add(parts, payload)

    async def _read(self, snapshot: Retained, then: Callable[[Retained], None]) -> None:
        await self._barrier.passed()
        requested: set[str] = set()
        while missing := {*self._missing(snapshot)} - requested:
            log.info("requesting retained messages that the broker left out", count=len(missing))
            requested |= missing
            await self._barrier.request(missing)
        self._snapshot = None
        then(snapshot)

    def _missing(self, snapshot: Retained) -> Iterator[str]:
        for vpc, number in snapshot.missing():
            text = vpc_hex(vpc)
            yield self._topics.head(text) if number is None else self._topics.table(text, number)
        if self._nodes is None:
            return
        nodes = {
            NodeRef(route.cluster, route.node)
            for table in snapshot.tables.values()
            for route in table.routes().values()
        }
        for node in sorted(nodes):
            if not self._nodes.is_registered(node) and is_valid(node):
                yield self._topics.status(*node)
                yield self._topics.endpoints(*node)
                yield self._topics.endpoints_shard(*node, "head")
        for node in self._nodes.shards.nodes():
            for number in self._nodes.shards.missing(node):
                yield self._topics.endpoints_shard(*node, number)

"""Which topics of nodes the router is subscribed to, and when it requests retained registrations again.

Normally two wildcards cover all. Everything arrives on one connection in the order of publication. So while a node
floods a topic (``damping``), the router subscribes to the topics of that kind by node, without the flooding one: the
other nodes' messages arrive at once, and a new node's as soon as any of its topics does. The flooding node's retained
message is requested every second.

A broker whose queue for the router is full drops messages silently, QoS 1 or not. So all registrations are requested
now and then, and when a flood is over: by name, a few nodes at a time, which no queue is too small for.
"""

import asyncio
import contextlib
import random
from collections.abc import Collection, Iterator
from itertools import count
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.messages import Topics
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.damping import FloodDamping, Source
from galactic.router.ingress.decoder import is_valid
from galactic.router.log_throttle import LogThrottle
from galactic.router.rib.path import NodeRef
from galactic.router.rib.registrations import Registrations

log = structlog.get_logger(__name__)
KINDS: Final = ("status", "endpoints")
POLL_SECONDS: Final = 1.0
SWEEP_SECONDS: Final = 30.0
"""Between two requests for all registrations without a reason."""
QUIET_SECONDS: Final = 5.0
QUIET_AT_LAST: Final = 12
"""Lost messages are requested when none was lost for QUIET_SECONDS, or after this many times that."""
PORTIONS: Final = (100, 6)
PAUSE_SECONDS: Final = 0.05
FEW: Final = 400
"""Up to this many nodes each sweep uses a wildcard as well; of more only every MANY_TIMES-th does."""
MANY_TIMES: Final = 10


class Subscriptions:
    """To the nodes' topics."""

    def __init__(
        self, bus: Bus, topics: Topics, barrier: ResyncBarrier, damping: FloodDamping, nodes: Registrations
    ) -> None:
        self._bus, self._barrier, self._damping, self._nodes = bus, barrier, damping, nodes
        self._topics = topics
        self._all = {kind: self._filters(kind, NodeRef("+", "+")) for kind in KINDS}
        self._by_node: dict[str, set[NodeRef]] = {}  # by kind, where the wildcard is not subscribed
        self._seen: set[NodeRef] = set()  # only noted while there is such a kind
        self._changed, self._lost = asyncio.Event(), asyncio.Event()
        self._throttle = LogThrottle()

    def subscribe(self) -> None:
        """Subscribes to all."""
        for filters in self._all.values():
            self._bus.subscribe(*filters)

    async def run(self) -> None:
        """Suppresses floods and requests registrations, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._suppress(), name="suppress")
            tasks.create_task(self._sweeps(), name="sweeps")

    def arrived(self, node: NodeRef, kind: str, size: int) -> bool:
        """A message of a node arrived. Whether its topic is suppressed from now on.

        All senders whose names are not valid count as one.
        """
        valid = is_valid(node)
        if self._by_node and valid and node not in self._seen:
            self._seen.add(node)
            self._changed.set()
        source = Source(node if valid else NodeRef("", ""), kind)
        if not self._damping.count(source, size):
            return False
        self._suppressed(source)
        return True

    def lost(self) -> None:
        """A message was dropped or came too late: more of them may have been."""
        self._lost.set()

    # -- floods ------------------------------------------------------------------------------------------------------

    def _suppressed(self, source: Source) -> None:
        node, kind = source
        if kind not in self._by_node:
            self._bus.unsubscribe(*self._all[kind])
            self._by_node[kind] = set()
        elif is_valid(node):
            self._subscribe(kind, (), (node,))
        if times := self._throttle.count(node):
            log.warning(
                "node floods its topic: it is read once a second",
                cluster=node.cluster,
                node=node.node,
                topic=kind,
                times=times,
            )
        self.lost()
        self._changed.set()

    async def _suppress(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._by_node else None):
                    await self._changed.wait()
            self._changed.clear()
            for node, kind in self._damping.released():
                if is_valid(node):
                    self._seen.add(node)
                log.info("node floods no more", cluster=node.cluster, node=node.node, topic=kind)
            for kind in tuple(self._by_node):
                if self._damping.active(kind):
                    await self._subscribe_by_node(kind)
                else:
                    self._subscribe_to_all(kind)
            if not self._by_node:
                self._seen.clear()
            for node, kind in self._damping.suppressed:
                if is_valid(node):
                    filters = self._filters(kind, node)
                    self._bus.subscribe(*filters)
                    self._bus.unsubscribe(*filters)

    async def _subscribe_by_node(self, kind: str) -> None:
        """Subscribes to each node that is known and not suppressed."""
        suppressed = {source.node for source in self._damping.suppressed if source.kind == kind}
        known = {*self._nodes.segments(), *self._seen}
        fresh = [node for node in known - self._by_node[kind] - suppressed if is_valid(node)]
        for start in range(0, len(fresh), PORTIONS[0]):
            portion = fresh[start : start + PORTIONS[0]]
            nodes = [node for node in portion if Source(node, kind) not in self._damping.suppressed]
            self._subscribe(kind, nodes, ())
            if len(fresh) > 1:
                await self._barrier.passed()

    def _subscribe_to_all(self, kind: str) -> None:
        """By wildcard again, before the names go. Nothing was missed, so that nothing need be sent again."""
        self._bus.subscribe(*self._all[kind], replay=False)
        self._subscribe(kind, (), tuple(self._by_node[kind]))
        del self._by_node[kind]
        log.info("subscribed to all nodes again", topic=kind)

    def _subscribe(self, kind: str, more: Collection[NodeRef], less: Collection[NodeRef]) -> None:
        """Subscribes by node, and ends such subscriptions."""
        subscribed = self._by_node[kind]
        subscribed |= {*more}
        subscribed -= {*less}
        added = [name for node in more for name in self._filters(kind, node)]
        gone = [name for node in less for name in self._filters(kind, node)]
        self._barrier.kept |= {*added}
        self._barrier.kept -= {*gone}
        self._bus.subscribe(*added)
        self._bus.unsubscribe(*gone)

    # -- retained registrations --------------------------------------------------------------------------------------

    async def _sweeps(self) -> None:
        for number in count():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS * random.uniform(0.8, 1.2)):
                    await self._lost.wait()
            if self._lost.is_set():
                await self._quiet()
            if self._bus.connected:
                await self._sweep(wildcard=number % MANY_TIMES == 0)

    async def _quiet(self) -> None:
        """Returns after QUIET_SECONDS without a lost message, or after QUIET_AT_LAST such times with lost ones."""
        for _ in range(QUIET_AT_LAST):
            self._lost.clear()
            await asyncio.sleep(QUIET_SECONDS)
            if not self._lost.is_set():
                break
        self._lost.clear()
        log.info("requesting all registrations, as messages were lost")

    async def _sweep(self, *, wildcard: bool) -> None:
        nodes = [node for node in self._nodes.segments() if is_valid(node)]
        if wildcard or len(nodes) <= FEW:
            # Heads as well: those of nodes whose registration has outgrown a message may have been lost.
            heads = self._topics.endpoints_shard("+", "+", "head")
            self._bus.unsubscribe(*self._all["status"], heads)
            self._bus.subscribe(*self._all["status"], heads)
            if "status" in self._by_node:
                # Retained messages only: without the wildcard a new node may have no other way to the router.
                self._bus.unsubscribe(*self._all["status"])
            await self._barrier.passed()
            self._bus.unsubscribe(heads)
            nodes = [node for node in self._nodes.segments() if is_valid(node)]
        sources = (Source(node, kind) for node in nodes for kind in KINDS)
        topics = (
            topic
            for source in sources
            if source not in self._damping.suppressed
            for topic in self._retained(source)
        )
        await self._barrier.request(topics, PORTIONS, pause=PAUSE_SECONDS)

    def _filters(self, kind: str, node: NodeRef) -> tuple[str, ...]:
        """All topics of a kind."""
        if kind == "status":
            return (self._topics.status(*node),)
        return self._topics.endpoints(*node), self._topics.endpoints_shard(*node, "+")

    def _retained(self, source: Source) -> Iterator[str]:
        """The retained topics of a node whose messages the router may lack: of shards only those that it does lack."""
        node, shards = source.node, self._nodes.shards
        yield self._filters(source.kind, node)[0]
        if source.kind == "endpoints":
            if node in shards or not self._nodes.is_registered(node):
                yield self._topics.endpoints_shard(*node, "head")
            for number in shards.missing(node):
                yield self._topics.endpoints_shard(*node, number)

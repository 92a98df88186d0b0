"""Which topics of nodes are listened to, and when they are asked for what they have said already.

Normally all, by two wildcards. Everything arrives on one connection in the order in which it was said, so while one
node floods a topic (``floods``), the nodes' topics of that kind are listened to by name, without its: the others are
heard at once, those that come into being as soon as anything else tells of them, and it is asked every second for its
last word, which is retained.

A broker whose queue for us is full drops messages without a word, QoS 1 or not. So what nodes say is all asked for
again now and then, and when a flood is over: by name, a few nodes at a time, which no queue is too small for.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Iterable
from itertools import count
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.messages import Topics
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.damping import FloodDamping, Source
from galactic.router.ingress.decoder import named
from galactic.router.log_throttle import LogThrottle
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import NodeRef

log = structlog.get_logger(__name__)
KINDS: Final = ("status", "endpoints")
POLL_SECONDS: Final = 1.0
HEAR_SECONDS: Final = 30.0
"""Between two times that all nodes are heard again without a reason."""
QUIET_SECONDS: Final = 5.0
QUIET_AT_LAST: Final = 12
"""What was lost is asked for when nothing more is for QUIET_SECONDS, or after so many times that."""
PORTIONS: Final = (100, 6)
PAUSE_SECONDS: Final = 0.05
FEW: Final = 400
"""So many nodes are all asked by wildcard as well, each time; more only every MANY_TIMES."""
MANY_TIMES: Final = 10


class Subscriptions:
    """``said`` of everything that a node says; ``known`` are the nodes that there are."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        asking: ResyncBarrier,
        metrics: RouterMetrics,
        *,
        known: Callable[[], Iterable[NodeRef]],
        floods: FloodDamping | None = None,
    ) -> None:
        self._bus, self._asking, self._metrics, self._known = bus, asking, metrics, known
        self._floods = floods or FloodDamping()
        self._topic = {"status": topics.status, "endpoints": topics.endpoints}
        self._all = {kind: topic("+", "+") for kind, topic in self._topic.items()}
        self._named: dict[str, set[NodeRef]] = {}  # by kind, where not all are listened to
        self._seen: set[NodeRef] = set()  # only noted while somebody is aside
        self._news, self._lost = asyncio.Event(), asyncio.Event()
        self._repeats = LogThrottle()
        metrics.aside(lambda: len(self._floods.aside))

    def listen(self) -> None:
        """Subscribes. Before a session is read: what nodes say belongs to what is known then."""
        self._bus.subscribe(*self._all.values())

    async def run(self) -> None:
        """Guards against floods and hears again, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._guard(), name="guard")
            tasks.create_task(self._hear_again(), name="hearing again")

    def said(self, origin: NodeRef, kind: str, size: int) -> None:
        """A message of a node arrived, whatever it is worth. An origin that is no node's is one for all of those."""
        if self._named and origin not in self._seen and named(origin):
            self._seen.add(origin)
            self._news.set()
        source = Source(origin if named(origin) else NodeRef("", ""), kind)
        if self._floods.said(source, size):
            self._put_aside(source)

    def lost(self) -> None:
        """Something that a node said was not dealt with, or not in time: there may be more of that."""
        self._lost.set()

    # -- floods ------------------------------------------------------------------------------------------------------

    def _put_aside(self, source: Source) -> None:
        origin, kind = source
        if kind not in self._named:
            self._bus.unsubscribe(self._all[kind])
            self._named[kind] = set()
        elif named(origin):
            self._keep(kind, (), (origin,))
        self._metrics.flooded(origin)
        if times := self._repeats.due(origin):
            log.warning(
                "a node says far more than its share: it is asked every second instead of being listened to",
                cluster=origin.cluster,
                node=origin.node,
                topic=kind,
                times=times,
            )
        self.lost()
        self._news.set()

    async def _guard(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._named else None):
                    await self._news.wait()
            self._news.clear()
            for origin, kind in self._floods.over():
                if named(origin):
                    self._seen.add(origin)
                log.info("a node is listened to again", cluster=origin.cluster, node=origin.node, topic=kind)
            for kind in tuple(self._named):
                if self._floods.watched(kind):
                    await self._by_name(kind)
                else:
                    self._listen_to_all(kind)
            if not self._named:
                self._seen.clear()
            for origin, kind in self._floods.aside:
                if named(origin):
                    topic = self._topic[kind](*origin)
                    self._bus.subscribe(topic)
                    self._bus.unsubscribe(topic)

    async def _by_name(self, kind: str) -> None:
        """Listens to each node that is known and not aside."""
        have = self._named[kind]
        aside = {source.origin for source in self._floods.aside if source.kind == kind}
        fresh = [
            it for it in {*self._known(), *self._seen} if it not in have and it not in aside and named(it)
        ]
        for start in range(0, len(fresh), PORTIONS[0]):
            some = [
                it for it in fresh[start : start + PORTIONS[0]] if Source(it, kind) not in self._floods.aside
            ]
            self._keep(kind, some, ())
            if len(fresh) > 1:
                await self._asking.answered()

    def _listen_to_all(self, kind: str) -> None:
        """By wildcard again, before the names go. Nothing was missed, so that nothing need be sent again."""
        self._bus.subscribe(self._all[kind], replay=False)
        self._keep(kind, (), tuple(self._named[kind]))
        del self._named[kind]
        log.info("all nodes are listened to again", topic=kind)

    def _keep(self, kind: str, more: Collection[NodeRef], less: Collection[NodeRef]) -> None:
        """Subscribes by name, and ends such subscriptions."""
        have, topic = self._named[kind], self._topic[kind]
        have |= {*more}
        have -= {*less}
        added, gone = [topic(*it) for it in more], [topic(*it) for it in less]
        self._asking.kept |= {*added}
        self._asking.kept -= {*gone}
        self._bus.subscribe(*added)
        self._bus.unsubscribe(*gone)

    # -- what was said already ---------------------------------------------------------------------------------------

    async def _hear_again(self) -> None:
        for number in count():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS * random.uniform(0.8, 1.2)):
                    await self._lost.wait()
            if self._lost.is_set():
                await self._quiet()
            if self._bus.connected:
                await self._sweep(everybody=number % MANY_TIMES == 0)

    async def _quiet(self) -> None:
        """What was lost is asked for when nothing more is, or that goes on for long."""
        for _ in range(QUIET_AT_LAST):
            self._lost.clear()
            await asyncio.sleep(QUIET_SECONDS)
            if not self._lost.is_set():
                break
        self._lost.clear()
        log.info("asking for what all nodes say, as some of it may have been lost")

    async def _sweep(self, *, everybody: bool) -> None:
        nodes = [it for it in self._known() if named(it)]
        if everybody or len(nodes) <= FEW:
            self._bus.unsubscribe(self._all["status"])
            self._bus.subscribe(self._all["status"])
            if "status" in self._named:
                # Only what is retained, not what is said: a node that is new may have no other way to us.
                self._bus.unsubscribe(self._all["status"])
            await self._asking.answered()
            nodes = [it for it in self._known() if named(it)]
        sources = (Source(it, kind) for it in nodes for kind in KINDS)
        topics = (self._topic[it.kind](*it.origin) for it in sources if it not in self._floods.aside)
        await self._asking.ask(topics, PORTIONS, pause=PAUSE_SECONDS)

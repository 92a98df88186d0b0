"""What this node says over MQTT, and who listens to what arrives.

It says the same thing, all of it, whenever it changed, a session began, or a router took over: a lost or repeated
message does no harm.
"""

import asyncio
from typing import Final

import structlog

from galactic import __version__
from galactic.bus import Bus, Connected, Delivery, Disconnected
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.messages import Leader, NodeStatus, Topics, decode, encode
from galactic.node.metrics import Metrics
from galactic.node.mqtt.subscriptions import CHECK_SECONDS, Subscriptions
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS: Final = 0.01
BACKOFF_SECONDS: Final = (0.5, 10.0)
LAST_WORD_SECONDS: Final = 1.0


def will(topics: Topics, cluster: str, node: str) -> tuple[str, bytes]:
    """The Last Will: (topic, payload)."""
    return topics.status(cluster, node), encode(NodeStatus("offline", version=__version__))


class Registration:
    """Publishes the store's endpoints and feeds the tables that arrive into it."""

    def __init__(
        self,
        *,
        bus: Bus,
        topics: Topics,
        cluster: str,
        node: str,
        store: Store,
        following: Subscriptions,
        metrics: Metrics,
    ) -> None:
        self._bus, self._topics, self._store, self._following = bus, topics, store, following
        self._metrics = metrics
        self._status, self._endpoints = topics.status(cluster, node), topics.endpoints(cluster, node)
        self._will = will(topics, cluster, node)
        self._changed = store.watch()
        self._term: int | None = None
        self.problem: str | None = "not connected yet"

    async def run(self) -> None:
        """For ever; says goodbye when cancelled."""
        self._bus.subscribe(self._topics.leader)
        self._following.choose()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="mqtt deliveries")
                tasks.create_task(self._speak(), name="mqtt publications")
                tasks.create_task(self._check(), name="mqtt tables")
        finally:
            await self._goodbye()

    @property
    def revisions(self) -> dict[int, int]:
        """The revision of each hosted VPC's table as the router tells it; 0 before it did."""
        return self._following.revisions

    def trusted(self, vpc: int) -> bool:
        """Whether the broker tells the VPC's table: connected, and all that is retained adds up."""
        return self.problem is None and self._following.settled(vpc)

    async def _listen(self) -> None:
        async for item in self._bus.deliveries():
            try:
                self._take(item)
            except Rejected as error:
                self._metrics.dropped.labels(error.reason).inc()
                log.warning("message ignored", error=str(error))
            except GalacticError as error:
                log.warning("message not taken over", error=str(error))

    def _take(self, item: Delivery | Connected | Disconnected) -> None:
        match item:
            case Connected():
                log.info("connected to the broker")
                self.problem = None
                self._following.restart()
                self._changed.set()
            case Disconnected(reason):
                log.warning("disconnected from the broker", reason=reason)
                self.problem = reason
            case Delivery():
                parts = self._topics.parts(item.topic)
                if item.topic == self._topics.leader:
                    self._take_leader(item.payload)
                elif len(parts) > 2 and parts[0] == "vpcs":
                    self._following.take(parts, item)

    def _take_leader(self, payload: bytes) -> None:
        if not payload:
            return
        leader = decode(Leader, payload)
        if leader.term != self._term:
            log.info("a router leads", router=leader.id, term=leader.term)
            self._term = leader.term
            self._changed.set()

    async def _speak(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            self._following.choose()
            announcement = self._store.registration() if self._store.attachments.complete else None
            if announcement is None or not self._bus.connected:
                continue  # a prefix, a session, or knowing all that is attached sets the event again
            status = NodeStatus("online", str(self._store.node.prefix), __version__)
            try:
                await self._bus.publish(self._status, encode(status), retain=True)
                await self._bus.publish(self._endpoints, encode(announcement), retain=True)
            except Unreachable as error:
                self._metrics.publications.labels("failed").inc()
                log.warning("endpoints not published, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                self._changed.set()
            else:
                pause = BACKOFF_SECONDS[0]
                self._metrics.publications.labels("confirmed").inc()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._following.check()

    async def _goodbye(self) -> None:
        """A clean end leaves no Last Will, so it is said by hand. Endpoints stay: they go on working."""
        if not self._bus.connected:
            return
        try:
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await self._bus.publish(*self._will, retain=True)
        except (TimeoutError, Unreachable):
            log.info("could not say goodbye to the broker")

"""The node's MQTT session: the registration it publishes, and the deliveries it receives.

The node publishes its whole registration whenever it changed, a session began, or a router took over: a lost or
repeated message does no harm.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog

from galactic import __version__
from galactic.backoff import Backoff
from galactic.bus import Bus, Connected, Delivery, Disconnected
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.messages import Leader, NodeStatus, Topics, decode, encode
from galactic.node.metrics import Metrics
from galactic.node.mqtt.registration import SINGLE, Part, Registration
from galactic.node.mqtt.subscriptions import CHECK_SECONDS, Subscriptions
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS: Final = 0.01
BACKOFF_SECONDS: Final = (0.5, 10.0)
OFFLINE_SECONDS: Final = 1.0
"""For the status ``offline`` to reach the broker when the node ends."""
LEADERLESS_SECONDS: Final = 5.0
"""Another router takes over within this time. After it, tables that no router keeps are not trusted."""


@dataclass(frozen=True, slots=True)
class NodeTopics:
    """The topics of one node."""

    topics: Topics
    cluster: str
    node: str

    @property
    def status(self) -> str:
        return self.topics.status(self.cluster, self.node)

    @property
    def endpoints(self) -> str:
        return self.topics.endpoints(self.cluster, self.node)

    def usage(self, shard: int) -> str:
        return self.topics.usage(self.cluster, self.node, shard)

    def part(self, part: Part) -> str:
        """The topic of a part of the registration."""
        if part.level == SINGLE:
            return self.endpoints
        return self.topics.endpoints_shard(self.cluster, self.node, part.level)

    @property
    def will(self) -> tuple[str, bytes]:
        """The Last Will: (topic, payload)."""
        return self.status, encode(NodeStatus("offline", version=__version__))


class Session:
    """Publishes the store's registration, and passes tables on to ``subscriptions``."""

    def __init__(
        self, bus: Bus, own: NodeTopics, store: Store, subscriptions: Subscriptions, metrics: Metrics
    ) -> None:
        self._bus, self._own, self._store, self._subscriptions = bus, own, store, subscriptions
        self._metrics = metrics
        self._changed = store.watch()
        self._registration = Registration()
        self._term: int | None = None
        self._leader: str | None = None  # of the last claim
        self._gone_at: float | None = None  # when the leader went, until another one claims
        self.problem: str | None = "not connected yet"
        self.password_exposure: str | None = None

    async def run(self) -> None:
        """For ever; publishes the status ``offline`` when cancelled."""
        self._bus.subscribe(self._own.topics.leader)
        self._subscriptions.update()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(), name="mqtt deliveries")
                tasks.create_task(self._publish(), name="mqtt publications")
                tasks.create_task(self._check(), name="mqtt tables")
        finally:
            await self._go_offline()

    @property
    def revisions(self) -> dict[int, int]:
        """The revision of each hosted VPC's table in MQTT; 0 before there is one."""
        return self._subscriptions.revisions

    def trusted(self, vpc: int) -> bool:
        """Whether the VPC's table in MQTT is whole: connected, all that is retained adds up, and a router leads."""
        return self._served and self._subscriptions.consistent(vpc)

    def serves(self, vpc: int) -> bool:
        """Whether the VPC's table in MQTT is trusted, or comes from a broker and a router that are there."""
        return self.trusted(vpc) or (self._served and self._subscriptions.mending(vpc))

    @property
    def _served(self) -> bool:
        return self.problem is None and not self.leaderless

    @property
    def leaderless(self) -> bool:
        """Whether no router has led for LEADERLESS_SECONDS, by the Last Will of the last one."""
        return self._gone_at is not None and time.monotonic() - self._gone_at >= LEADERLESS_SECONDS

    async def _receive(self) -> None:
        async for event in self._bus.deliveries():
            try:
                self._handle(event)
            except Rejected as error:
                self._metrics.dropped.labels(error.reason).inc()
                log.warning("message ignored", error=str(error))
            except GalacticError as error:
                log.warning("message not applied", error=str(error))

    def _handle(self, event: Delivery | Connected | Disconnected) -> None:
        match event:
            case Connected():
                log.info("connected to the broker")
                self.problem, self._leader, self._gone_at = None, None, None
                self._subscriptions.restart()
                self._registration.forget()
                self._changed.set()
            case Disconnected(reason):
                log.warning("disconnected from the broker", reason=reason)
                self.problem = reason
            case Delivery():
                parts = self._own.topics.parts(event.topic)
                if event.topic == self._own.topics.leader:
                    self._handle_leader(event.payload)
                elif len(parts) > 2 and parts[0] == "vpcs":
                    self._subscriptions.receive(parts, event)

    def _handle_leader(self, payload: bytes) -> None:
        if not payload:
            return
        leader = decode(Leader, payload)
        if leader.gone:
            if self._gone_at is None and self._leader in {None, leader.id}:
                log.warning("the leading router has gone", router=leader.id)
                self._gone_at = time.monotonic()
            return
        self._leader, self._gone_at = leader.id, None
        if leader.term != self._term:
            log.info("router leads", router=leader.id, term=leader.term)
            self._term = leader.term
            self._registration.forget()
            self._changed.set()

    async def _publish(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            self._subscriptions.update()
            registration = self._store.registration() if self._store.attachments.complete else None
            if registration is None or not self._bus.connected:
                continue  # a prefix, a session, or all attachments being known sets the event again
            status = NodeStatus("online", str(self._store.node.prefix), __version__)
            try:
                await self._bus.publish(self._own.status, encode(status), retain=True)
                for part in self._registration.parts(registration, self._bus.largest):
                    await self._bus.publish(self._own.part(part), part.payload, retain=True)
                    self._registration.confirmed(part)
            except (Rejected, Unreachable) as error:
                pause = backoff.pause()
                self._metrics.publications.labels("failed").inc()
                log.warning("registration not published, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                self._changed.set()
            else:
                backoff.succeeded()
                self._metrics.publications.labels("confirmed").inc()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._subscriptions.check()

    async def _go_offline(self) -> None:
        """The broker publishes no Last Will after a clean end. Endpoints stay: their routes go on working."""
        if not self._bus.connected:
            return
        try:
            async with asyncio.timeout(OFFLINE_SECONDS):
                await self._bus.publish(*self._own.will, retain=True)
        except (TimeoutError, Unreachable):
            log.info("status offline not published")

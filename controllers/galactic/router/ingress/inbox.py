"""Everything that arrives over MQTT, and who deals with it.

What nodes say goes into the store in turns (``limits``, ``said``), so that a flood from one does not slow the others
(``floods``, ``hearing``). What the router's own topics retain is read once a session (``reading``, ``asking``).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from typing import Final

import structlog

from galactic.bus import Bus, Connected, Delivery, Disconnected
from galactic.errors import Rejected
from galactic.messages import MAX_PAYLOAD, Topics
from galactic.router.egress.retained import Retained
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.damping import FloodDamping
from galactic.router.ingress.decoder import Decoder, named, origin_of
from galactic.router.ingress.fair_queue import FairQueue
from galactic.router.ingress.snapshot_reader import SnapshotReader
from galactic.router.ingress.subscriptions import Subscriptions
from galactic.router.log_throttle import LogThrottle
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store

log = structlog.get_logger(__name__)
TURN: Final = 64
"""Deliveries handled before the rest of the process gets a turn: a flood must not keep commits from happening."""
USUAL: Final = "StaleSequence"
"""What two ways of saying the same, and repetition, bring about."""


class Inbox:
    """Reads deliveries for ever. ``view`` is told, once a session, of everything that the broker retains."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        replica: str,
        store: Store,
        metrics: RouterMetrics,
        *,
        view: Callable[[Retained], None],
        connection: Callable[[str | None], None],
        prefixes: bool,
        space: IPv6Network | None = None,
        own: Callable[[tuple[str, ...], bytes], None] = lambda _parts, _payload: None,
        state: Callable[[NodeRef, bool], None] = lambda _origin, _online: None,
        turns: FairQueue | None = None,
        floods: FloodDamping | None = None,
    ) -> None:
        """``connection`` is told why there is none, or None.

        ``own`` is told of every message that is published on routers' topics (by their levels below the base), this
        one's included; ``state`` whether a node says, or its Last Will does, that it is online.

        ``prefixes``: what nodes say of their prefix counts (standalone); it must lie in ``space`` where that is given.
        """
        self._bus, self._topics, self._store, self._metrics = bus, topics, store, metrics
        self._connection, self._heard, self._prefixes = connection, own, prefixes
        self._sync = topics.sync(replica)
        self._turns = FairQueue() if turns is None else turns
        self._waits = asyncio.Event()
        self._repeats = LogThrottle()
        self._said = Decoder(store, metrics, prefixes=prefixes, space=space, state=state)
        self._asking = ResyncBarrier(bus, self._sync, self._settled)
        self._reading = SnapshotReader(bus, topics, self._asking, view=view, nodes=self._unheard)
        self._hearing = Subscriptions(bus, topics, self._asking, metrics, known=store.segments, floods=floods)
        metrics.waiting(lambda: len(self._turns))

    @property
    def unplaced(self) -> set[NodeRef]:
        """Nodes whose status does not say a prefix: a Last Will may not know it."""
        return self._said.unplaced

    async def run(self) -> None:
        """Handles deliveries for ever. Nothing that arrives stops it."""
        self._bus.subscribe(self._sync)
        # Of what is told, that of others: each change of our own would cost us nearly as much again.
        self._bus.subscribe(self._topics.changes("+"), own=False)
        self._hearing.listen()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hearing.run(), name="hearing")
            tasks.create_task(self._give_turns(), name="turns")
            await self._deliveries()

    def reread(self) -> None:
        """Reads what is retained of the router's own topics once more, and tells ``view``. A session begins with it."""
        self._reading.again()

    async def _deliveries(self) -> None:
        handled = 0
        try:
            async for item in self._bus.deliveries():
                match item:
                    case Connected():
                        self._connection(None)
                        self._reading.begin()
                    case Disconnected(reason):
                        self._connection(reason)
                        self._reading.end()
                    case Delivery():
                        self._take(item)
                handled += 1
                if handled % TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._reading.end()

    def _take(self, delivery: Delivery) -> None:
        if delivery.topic == self._sync:
            self._asking.echoed(delivery.payload)
            return
        self._asking.arrived(delivery.topic)
        parts = self._topics.parts(delivery.topic)
        try:
            match parts:
                case ("nodes", cluster, node, "endpoints" | "status" as kind):
                    self._hearing.said(NodeRef(cluster, node), kind, len(delivery.payload))
                    self._queue(origin_of(cluster, node), kind, delivery.payload)
                case _:
                    if not delivery.retained:
                        self._heard(parts, delivery.payload)
                    self._reading.take(parts, delivery.payload)
        except Rejected as error:
            self._drop(delivery.topic, error)
        except Exception:  # noqa: BLE001 - told, with its traceback, and counted
            self._fail(delivery.topic)

    def _drop(self, topic: str, error: Rejected) -> None:
        """Counted each time, and in the log once a minute for a topic and reason."""
        self._metrics.rejected(error.reason)
        if times := self._repeats.due((topic, error.reason)):
            say = log.info if error.reason == USUAL else log.warning
            say("message dropped", topic=topic, reason=error.reason, error=str(error), times=times)

    def _fail(self, topic: str) -> None:
        """A mistake of ours; one message that hits on it must not end the routing of all others."""
        self._metrics.rejected("Internal")
        if self._repeats.due((topic, "Internal")):
            log.exception("message dropped", topic=topic, reason="Internal")  # noqa: LOG004 - called in handlers only

    # -- turns -------------------------------------------------------------------------------------------------------

    def _queue(self, origin: NodeRef, kind: str, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise Rejected(f"{len(payload)} bytes, {MAX_PAYLOAD} at the most", reason="Oversized")
        try:
            taken = self._turns.put(origin, kind, payload)
        except Rejected:
            self._hearing.lost()
            raise
        if not taken:
            self._limited(origin)
        self._deal()

    def _limited(self, origin: NodeRef) -> None:
        self._metrics.rejected("RateLimited")
        self._hearing.lost()
        if times := self._repeats.due(origin):
            log.warning(
                "a node says more than its share; of what waits the newest counts",
                cluster=origin.cluster,
                node=origin.node,
                times=times,
            )

    def _deal(self) -> None:
        """Deals with whatever has its turn now: nearly always what has just arrived."""
        while (turn := self._turns.take()) is not None:
            try:
                self._said.take(turn.origin, turn.kind, turn.payload)
            except Rejected as error:
                self._drop("/".join(("nodes", *turn.origin, turn.kind)), error)
            except Exception:  # noqa: BLE001
                self._fail("/".join(("nodes", *turn.origin, turn.kind)))
            self._turns.settled()
        self._turns.settled()
        if len(self._turns):
            self._waits.set()

    def _settled(self, then: Callable[[], None]) -> None:
        self._turns.after(then)
        self._deal()

    async def _give_turns(self) -> None:
        """Those that had to wait for their turn, for ever."""
        while True:
            self._deal()
            self._waits.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._turns.wait()):
                    await self._waits.wait()

    # -- what is retained --------------------------------------------------------------------------------------------

    def _unheard(self, found: Retained) -> Iterator[str]:
        """Standalone: the topics of nodes that are in the tables and were not heard."""
        if not self._prefixes:
            return
        nodes = {
            NodeRef(route.cluster, route.node)
            for table in found.tables.values()
            for route in table.routes().values()
        }
        for origin in sorted(nodes):
            if not self._store.heard(origin) and named(origin):
                yield self._topics.status(*origin)
                yield self._topics.endpoints(*origin)

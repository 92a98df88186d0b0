"""A router as its program wires it, with its parts for tests."""

from collections.abc import Callable
from ipaddress import IPv6Network

from prometheus_client import CollectorRegistry

from galactic.bus import Bus
from galactic.launch import Health
from galactic.messages import Topics
from galactic.router.__main__ import Process, wire
from galactic.router.controller import Router
from galactic.router.egress.retained import Retained
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.damping import FloodDamping
from galactic.router.ingress.decoder import Decoder
from galactic.router.ingress.dropped_messages import DroppedMessages
from galactic.router.ingress.fair_queue import FairQueue
from galactic.router.ingress.inbox import Inbox
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.ingress.node_messages import NodeMessages
from galactic.router.ingress.snapshot_reader import SnapshotReader
from galactic.router.ingress.subscriptions import Subscriptions
from galactic.router.leader.election import Alone, Election
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.store import Store
from galactic.settings import RouterSettings


def assembled(
    settings: RouterSettings,
    bus: Bus,
    kube: object = None,
    *,
    replica: str = "r",
    election: Election | None = None,
    **more: object,
) -> Router:
    """``run`` runs it, ``part`` is one of its parts by class. ``election`` None: every router leads at once."""
    registry, health = CollectorRegistry(), Health()
    process = Process(replica, registry, health)
    controller = wire(settings, bus, kube, process, election=election or Alone(), **more)
    router = controller.router
    router.bus, router.registry, router.health, router.run = bus, registry, health, controller.run
    parts = {type(part): part for part in (*controller.inputs, *controller.workers)}
    router.part = parts.__getitem__
    return router


class Snapshots:
    """Router topics that nothing follows from: what is retained is read, and ``then`` called with it."""

    def __init__(self, reader: SnapshotReader, then: Callable[[Retained], None]) -> None:
        self._reader, self._then = reader, then

    def session_began(self) -> None:
        self._reader.read(self._then)

    def session_ended(self, _reason: str) -> None:
        self._reader.end()

    def arrived(self, parts: tuple[str, ...], payload: bytes, *, retained: bool) -> None:
        self._reader.arrived(parts, payload)


def inbox_of(
    bus: Bus,
    topics: Topics,
    store: Store,
    registry: CollectorRegistry,
    *,
    standalone: bool = True,
    block: IPv6Network | None = None,
    queue: FairQueue | None = None,
    damping: FloodDamping | None = None,
) -> Inbox:
    """Everything up to the store. ``queue`` and ``metrics`` are its attributes."""
    metrics, barrier = RouterMetrics(registry), ResyncBarrier(bus, topics.sync("r"))
    queue = FairQueue() if queue is None else queue
    decoder = Decoder(store.nodes, NodeLiveness(store.nodes, 0), metrics, standalone=standalone, block=block)
    subscriptions = Subscriptions(bus, topics, barrier, damping or FloodDamping(), store.nodes)
    nodes = NodeMessages(queue, decoder, subscriptions, DroppedMessages(metrics))
    reader = SnapshotReader(bus, topics, barrier, store.nodes if standalone else None)
    inbox = Inbox(bus, topics, barrier, nodes, Snapshots(reader, lambda _: None))
    inbox.queue, inbox.metrics = queue, metrics
    return inbox

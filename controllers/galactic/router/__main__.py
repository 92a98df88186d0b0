"""galactic-router: wiring only."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry

from galactic.bus import Bus
from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected
from galactic.kube.client import Kube, connect
from galactic.launch import Health, launch
from galactic.messages import Topics, encode, gone
from galactic.metrics import registry
from galactic.router.commits import Commits
from galactic.router.controller import Controller, Part, Router
from galactic.router.egress.fanout import Fanout
from galactic.router.egress.publisher import Publisher
from galactic.router.ingress.admissions import AdmissionsFile, AdmissionsReload
from galactic.router.ingress.barrier import ResyncBarrier
from galactic.router.ingress.damping import FloodDamping
from galactic.router.ingress.decoder import Decoder
from galactic.router.ingress.dropped_messages import DroppedMessages
from galactic.router.ingress.entitlements import EntitlementLists
from galactic.router.ingress.fair_queue import FairQueue
from galactic.router.ingress.inbox import Inbox
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.ingress.node_messages import NodeMessages
from galactic.router.ingress.rejection_log import MOMENTARY, RejectionReports
from galactic.router.ingress.snapshot_reader import SnapshotReader
from galactic.router.ingress.subscriptions import Subscriptions
from galactic.router.inspection import InspectionServer
from galactic.router.kubernetes.attachment_events import AttachmentEvents
from galactic.router.kubernetes.attachments import AttachmentIndex
from galactic.router.kubernetes.departed import DepartedNodes
from galactic.router.kubernetes.peers import PeerIndex
from galactic.router.kubernetes.reflectors import Indexes, Reflectors
from galactic.router.kubernetes.reports import KubernetesReports
from galactic.router.kubernetes.router_events import RouterEvents
from galactic.router.kubernetes.segments import SegmentIndex
from galactic.router.kubernetes.status_writer import StatusWriter
from galactic.router.leader.election import Alone, Election, LeaseElection, LockElection
from galactic.router.leader.gate import Gate
from galactic.router.leader.installation import Installation
from galactic.router.leader.leadership import Leadership
from galactic.router.leader.reign import Follower, Reign
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.import_policy import OPEN, Policy
from galactic.router.rib.store import Store
from galactic.router.startup import Startup
from galactic.settings import USAGE_ERROR, RouterSettings, load

if TYPE_CHECKING:
    from galactic.router.database.history_writer import HistorySettings, HistoryWriter
    from galactic.router.database.usage import UsageWriter

log = structlog.get_logger(__name__)
PROGRAM: Final = "galactic-router"


@dataclass(frozen=True, slots=True)
class Process:
    """Its name among the replicas, and what it reports to."""

    replica: str
    registry: CollectorRegistry
    health: Health


@dataclass(frozen=True, slots=True)
class Cluster:
    """The room ``kubernetes``. ``writers`` work while this router leads."""

    attachments: AttachmentIndex
    segments: SegmentIndex
    reflectors: Reflectors
    reports: KubernetesReports
    writers: Sequence[Part]


def wire(
    settings: RouterSettings,
    bus: Bus,
    kube: Kube | None,
    process: Process,
    *,
    election: Election | None = None,
    admissions: AdmissionsFile | None = None,
) -> Controller:
    """One router. ``kube`` None: standalone. ``election`` None: by Lease, by the database's lock, or none."""
    topics, metrics = Topics(settings.mqtt_base), RouterMetrics(process.registry)
    policy = admissions.policy if admissions else OPEN if kube else Policy()
    listed = kube is None and settings.require_entitlements
    store = Store(checked=kube is not None, policy=policy, listed=listed)
    commits, publisher = Commits(store, metrics), Publisher(bus, metrics)
    fanout = Fanout(publisher, topics, metrics)
    history = _history(settings, store, fanout, process)
    cluster = _cluster(settings, kube, store, fanout, metrics, health=process.health) if kube else None
    usage = _usage(settings, store, cluster, process)
    writers: list[Part] = []
    if cluster:
        offline = lambda: tuple(store.nodes.offline)  # noqa: E731
        writers = [*cluster.writers, DepartedNodes(bus, topics, cluster.segments, offline)]

    barrier, queue, damping = ResyncBarrier(bus, topics.sync(process.replica)), FairQueue(), FloodDamping()
    liveness = NodeLiveness(store.nodes, settings.withdraw_after)
    decoder = Decoder(store.nodes, liveness, metrics, standalone=kube is None, block=settings.srv6_block)
    subscriptions = Subscriptions(bus, topics, barrier, damping, store.nodes)
    lists = None if kube else EntitlementLists(bus, topics, store.nodes, store.tables)
    nodes = NodeMessages(queue, decoder, subscriptions, DroppedMessages(metrics), lists)
    reader = SnapshotReader(bus, topics, barrier, None if kube else store.nodes)

    installation = Installation(store, decoder, cluster.attachments if cluster else None)
    followers: list[Follower] = [cluster.reports if cluster else RejectionReports(store)]
    followers += [history] if history else []
    followers += [usage] if usage else []
    reign = Reign(commits, installation, fanout, followers, writers)
    chosen = election or _election(
        settings,
        kube,
        process.replica,
        connected=lambda: bus.connected,
        leads=lambda: leadership.leads,
    )
    leadership = Leadership(process.replica, chosen, Gate(publisher, topics, process.health), reader, reign)
    if history:
        history.outranked = leadership.database_ahead

    source = cluster.reflectors if cluster else history
    startup = Startup(commits, installation, leadership, source, process.health)
    inbox = Inbox(bus, topics, barrier, nodes, leadership)
    inbox.usage = usage
    inputs: list[Part] = [inbox]
    inputs += [cluster.reflectors] if cluster else []
    inputs += [AdmissionsReload(admissions, store.tables, metrics)] if admissions else []
    workers: list[Part] = [leadership, liveness, *([history] if history else []), *([usage] if usage else [])]
    metrics.at_scrape(
        tables=lambda: store.counts,
        imports=lambda: store.tables.imports,
        uncarried=lambda: sum(rejection.reason == "NotCarried" for rejection in store.tables.rejections()),
        rejected={reason: partial(store.nodes.rejected, reason) for reason in MOMENTARY},
        unlisted=lambda: len(store.nodes.unlisted),
        leadership=lambda: (leadership.leads, leadership.state.highest_term),
        oldest_change=fanout.oldest,
        waiting=lambda: len(queue),
        suppressed=lambda: len(damping.suppressed),
    )
    return Controller(Router(commits, leadership, fanout), startup, inputs, workers)


def _cluster(
    settings: RouterSettings,
    kube: Kube,
    store: Store,
    fanout: Fanout,
    metrics: RouterMetrics,
    *,
    health: Health,
) -> Cluster:
    attachments = AttachmentIndex(settings.cluster, store.nodes, metrics)
    segments = SegmentIndex(settings.cluster, store.nodes, metrics)
    status = StatusWriter(kube, attachments, store.tables, fanout, metrics)
    events = AttachmentEvents(kube, attachments, store.nodes)
    indexes = Indexes(attachments, PeerIndex(settings.cluster, store.tables), segments)
    reflectors = Reflectors(kube, indexes, status, health)
    reports = KubernetesReports(store, attachments, status, events)
    return Cluster(attachments, segments, reflectors, reports, (status, events))


def _history(
    settings: RouterSettings, store: Store, fanout: Fanout, process: Process
) -> "HistoryWriter | None":
    if settings.database_url is None:
        return None
    from galactic.router.database.history_writer import HistoryWriter  # noqa: PLC0415 - psycopg is 8 MiB
    from galactic.router.database.metrics import DatabaseMetrics  # noqa: PLC0415

    return HistoryWriter(
        _database(settings, process),
        store.tables,
        DatabaseMetrics(process.registry),
        fanout.revision,
        lambda problem: process.health.set("postgres", problem, ready=True),
    )


def _usage(
    settings: RouterSettings, store: Store, cluster: Cluster | None, process: Process
) -> "UsageWriter | None":
    if settings.database_url is None:
        return None
    from galactic.router.database.metrics import UsageMetrics  # noqa: PLC0415 - psycopg again
    from galactic.router.database.usage import UsageWriter  # noqa: PLC0415

    return UsageWriter(
        _database(settings, process),
        UsageMetrics(process.registry),
        cluster.attachments.vpc_name if cluster else store.nodes.vpc_name,
        store.nodes.is_registered,
    )


def _database(settings: RouterSettings, process: Process) -> "HistorySettings":
    from galactic.router.database.history_writer import HistorySettings  # noqa: PLC0415 - psycopg again

    assert settings.database_url is not None
    return HistorySettings(
        settings.database_url.get_secret_value(),
        process.replica,
        settings.history_retention,
        settings.usage_retention,
    )


def _election(
    settings: RouterSettings,
    kube: Kube | None,
    replica: str,
    *,
    connected: Callable[[], bool],
    leads: Callable[[], bool],
) -> Election:
    if kube is not None:
        by_lease = LeaseElection(kube, replica)
        by_lease.connected, by_lease.leads = connected, leads
        return by_lease
    if settings.database_url is not None:
        from galactic.router.database.lock import AdvisoryLock  # noqa: PLC0415 - psycopg again

        return LockElection(AdvisoryLock(settings.database_url.get_secret_value()))
    return Alone()


def exposures(settings: RouterSettings) -> dict[str, str]:
    """The problems of connections that others on the way can read, by name. That of the database is logged."""
    if database := settings.database_exposure:
        log.warning("connection to the database is not secure", problem=database)
    found = {"mqtt-password": settings.password_exposure, "postgres-tls": database}
    return {name: problem for name, problem in found.items() if problem}


def main() -> None:
    settings = load(RouterSettings, program=PROGRAM)
    try:
        admissions = AdmissionsFile(settings.admissions) if settings.admissions else None
    except Rejected as error:
        sys.stderr.write(f"{PROGRAM}: admissions: {error}\n")
        raise SystemExit(USAGE_ERROR) from error
    replica, metrics = f"{socket.gethostname()}-{os.getpid()}", registry("router")

    async def run(health: Health) -> None:
        kube = await connect() if settings.kubernetes else None
        try:
            will = Topics(settings.mqtt_base).leader, encode(gone(replica))
            async with PahoBus(settings, f"{PROGRAM}-{replica}", will, BusMetrics(metrics)) as bus:
                process = Process(replica, metrics, health)
                controller = wire(settings, bus, kube, process, admissions=admissions)
                beside: list[Part] = [InspectionServer(replica, controller.router)]
                exposed = exposures(settings)
                beside += [RouterEvents(kube, lambda: health.problems | exposed)] if kube else []
                tasks = [asyncio.create_task(part.run(), name=type(part).__name__) for part in beside]
                try:
                    await controller.run()
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            if kube is not None:
                await kube.close()

    launch(settings, PROGRAM, run, metrics)


if __name__ == "__main__":
    main()

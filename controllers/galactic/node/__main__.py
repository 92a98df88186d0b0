"""galactic-node: the wiring, read from top to bottom."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected
from galactic.kube.client import Kube, connect
from galactic.launch import Health, launch
from galactic.linux import link_counters
from galactic.linux.events import Changed, Events
from galactic.linux.kernel import LinuxKernel
from galactic.linux.liveness import EchoSocket
from galactic.linux.namespace import Namespace
from galactic.linux.nft_events import EVERYTHING, NftEvents, Transaction
from galactic.linux.nftables import Nftables, lacking
from galactic.linux.too_big import TooBigSocket
from galactic.messages import Topics
from galactic.metrics import registry
from galactic.node.cni.calls import Calls
from galactic.node.cni.server import Server
from galactic.node.dataplane.adapter import LinuxHost
from galactic.node.dataplane.counter_reader import CounterReader, now
from galactic.node.dataplane.events import Paced, follow
from galactic.node.dataplane.fragments import Fragments
from galactic.node.dataplane.gateway_filter import GatewayFilter
from galactic.node.dataplane.gateway_health import GatewayHealth
from galactic.node.dataplane.host_settings import HostSettings
from galactic.node.dataplane.neighbours import Neighbours
from galactic.node.dataplane.path_mtu import PathMTU
from galactic.node.dataplane.setup import HostSetup
from galactic.node.dataplane.sync import EVENT_SECONDS, Sync
from galactic.node.kubernetes.carried import CarriedAttachments
from galactic.node.kubernetes.fallback import Fallback
from galactic.node.kubernetes.gateways import GatewayWatch, restore
from galactic.node.kubernetes.multus import MultusConfiguration
from galactic.node.kubernetes.segment import Segment
from galactic.node.kubernetes.tasks import KubernetesTasks, Tasks
from galactic.node.kubernetes.unaccounted import UnaccountedAttachments
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions
from galactic.node.mqtt.usage import UsagePublisher
from galactic.node.policies.enforcement import Enforcement
from galactic.node.policies.slices import PolicySlices
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store
from galactic.node.status import HostTasks, StatusReport
from galactic.settings import NodeSettings, load

if TYPE_CHECKING:
    from galactic.node.kubernetes.broker_certificate import BrokerCertificate

PROGRAM = "galactic-node"


async def run(  # noqa: PLR0915 - the wiring
    settings: NodeSettings, collectors: CollectorRegistry, health: Health
) -> None:
    """The node controller with its real adapters, until cancelled. The kernel keeps its objects."""
    cluster, (node, block) = settings.cluster, place(settings)
    metrics = Metrics(collectors)
    checkpoint = Checkpoint(settings.socket.parent)
    checkpoint.prepare()
    store = Store(cluster, checkpoint, Clock())
    store.gateways.node = node
    store.restore()
    restore(store, checkpoint)

    topics = Topics(settings.mqtt_base)
    own = NodeTopics(topics, cluster, node)
    certificate: Callable[[Kube], BrokerCertificate] | None = None
    if settings.request_broker_certificate:
        settings, certificate = with_certificate(settings)
    bus = PahoBus(settings, f"galactic-node-{cluster}-{node}", own.will, BusMetrics(collectors))
    async with LinuxKernel() as kernel, bus:

        async def events() -> AsyncIterator[Changed]:
            with Events(own_port=kernel.port) as changes:
                async for changed in changes:
                    yield changed

        nft = Nftables()

        async def transactions() -> AsyncIterator[Transaction]:
            with NftEvents() as changes:
                try:
                    nft.followed = True
                    yield EVERYTHING  # what was missed before
                    async for changed in changes:
                        yield changed
                finally:
                    nft.followed = False

        linux = LinuxHost(block, settings.underlay_interface, drop_external_sids=settings.drop_external_sids)
        setup = HostSetup(linux, store, block, metrics.filter_drift.inc)
        sync = Sync(kernel, store, setup.host, metrics)
        reader = CounterReader(store, checkpoint, lambda: link_counters.read(Namespace.own()))
        path_mtu = PathMTU(
            TooBigSocket,
            store,
            setup.host,
            lambda result: metrics.too_big.labels(result).inc(),
            reader.too_big,
        )
        neighbours, host_settings = Neighbours(kernel, store, setup.uplinks), HostSettings(setup.host)
        multus = MultusConfiguration(settings.cni_conf_dir)
        policies = Enforcement(nft, store.attachments, lacking, store.watch(), metrics.filter_drift.inc)
        reader.policy_drops = policies.drops
        gateways = GatewayFilter(nft, store, lacking, sync.led_out)
        gateways.share()
        reader.refused_connections = gateways.refused
        await gateways.attempt()  # before the kernel is read: ways out of an earlier life stay
        fragments = Fragments(nft, store, lacking, metrics.filter_drift.inc)
        gateway_health = GatewayHealth(store, EchoSocket, metrics.gateway_failovers.inc)
        host = HostTasks(
            setup, sync, neighbours, path_mtu, multus, host_settings, policies, gateways, gateway_health
        )
        filters = {
            Transaction.POLICIES: Paced(policies.on_external_change, EVENT_SECONDS),
            Transaction.GATEWAYS: Paced(gateways.on_external_change, EVENT_SECONDS),
            Transaction.FRAGMENTS: Paced(fragments.on_external_change, EVENT_SECONDS),
            Transaction.CHAINS: Paced(setup.on_external_change, EVENT_SECONDS),
        }
        session = Session(bus, own, store, Subscriptions(bus, topics, store, metrics), metrics)
        session.password_exposure = settings.password_exposure

        def with_client(kube: Kube) -> Tasks:
            segment = Segment(kube, node, store, report.facts)
            carried = CarriedAttachments(
                kube, node, store, lambda reason: metrics.refused.labels(reason).inc()
            )
            return Tasks(
                segment,
                UnaccountedAttachments(kube, store, lambda: segment.endpoints),
                carried,
                Fallback(kube, store, session.serves),
                GatewayWatch(kube, store, checkpoint),
                certificate(kube) if certificate else None,
                policies.follow(PolicySlices(kube, carried, policies.wake.set)),
            )

        kubernetes = KubernetesTasks(connect, with_client)
        report = StatusReport(store, host, session, kubernetes, metrics)
        metrics.traffic.current = lambda: reader.series(kubernetes.vpc_names, settings.attachment_metrics)
        server = Server(
            settings.socket, Calls(store, sync, kubernetes, report.problem, rules=policies), metrics
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(setup.run(), name="host setup")
            tasks.create_task(sync.run(), name="sync")
            tasks.create_task(follow(events, sync.on_external_change), name="kernel events")
            tasks.create_task(
                follow(transactions, lambda changed: [filters[part]() for part in changed]),
                name="transactions",
            )
            tasks.create_task(policies.run(), name="rules")
            tasks.create_task(host.neighbours.run(), name="neighbours")
            tasks.create_task(host.path_mtu.run(), name="path MTU")
            tasks.create_task(gateways.run(), name="gateways' rules")
            tasks.create_task(fragments.run(), name="fragments")
            tasks.create_task(gateway_health.run(), name="gateways' nodes")
            tasks.create_task(host.multus.run(kubernetes.write_status), name="multus")
            tasks.create_task(server.run(), name="socket")
            tasks.create_task(session.run(), name="session")
            tasks.create_task(reader.run(), name="counting")
            tasks.create_task(
                UsagePublisher(bus, own, reader.usage, settings.usage_interval, now).run(), name="usage"
            )
            tasks.create_task(kubernetes.run(), name="kubernetes")
            tasks.create_task(report.run(health), name="status report")


def place(settings: NodeSettings) -> tuple[str, IPv6Network]:
    """The Node's name and the SRv6 block. Raises Rejected where a setting is missing."""
    if not settings.node_name:
        raise Rejected("give this Node's name", field="node_name")
    if settings.srv6_block is None:
        raise Rejected(
            "give the network that all nodes' prefixes lie in, e.g. 2001:db8:ff00::/40", field="srv6_block"
        )
    return settings.node_name, settings.srv6_block


def with_certificate(settings: NodeSettings) -> "tuple[NodeSettings, Callable[[Kube], BrokerCertificate]]":
    """The settings with the file of the node's own certificate, and the task that renews it."""
    from galactic.node.kubernetes import broker_certificate as module  # noqa: PLC0415 - cryptography is 9 MiB

    path = settings.socket.parent / module.FILE
    made = partial(module.BrokerCertificate, path=path, cluster=settings.cluster, node=settings.node_name)
    return settings.model_copy(update={"mqtt_cert_file": path}), made


def main() -> None:
    """The console script."""
    settings = load(NodeSettings, program=PROGRAM)
    collectors = registry("node")
    launch(settings, PROGRAM, lambda health: run(settings, collectors, health), collectors)


if __name__ == "__main__":
    main()

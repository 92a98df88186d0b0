"""``galactic-operator``: the wiring."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from galactic.kube.api import Api
from galactic.kube.client import Kube, connect
from galactic.kube.cluster import cluster_uid
from galactic.kube.fenced import Fenced
from galactic.kube.lease import Candidate, Lease, identity, own_namespace
from galactic.launch import Health, launch
from galactic.messages import Topics
from galactic.metrics import registry
from galactic.names import GROUP
from galactic.operator.attachments import Attachments
from galactic.operator.cluster_name import ClusterName
from galactic.operator.context import ReconcileContext, Rules
from galactic.operator.entitlements import EntitlementPublisher
from galactic.operator.events import Events
from galactic.operator.evictions import Evictions
from galactic.operator.gateways import Gateways
from galactic.operator.gauges import gateways, pool, unattached, unready, vpcs
from galactic.operator.handlers import watch
from galactic.operator.metrics import Metrics
from galactic.operator.pods import Pods
from galactic.operator.policies.index import PolicyIndex
from galactic.operator.policies.reconciler import Policies
from galactic.operator.reconcile import Reconciler, Reconcilers, Report
from galactic.operator.reflectors import reflectors
from galactic.operator.segments import Segments
from galactic.operator.services.index import Index
from galactic.operator.services.reconciler import Services
from galactic.operator.state import Caches
from galactic.operator.triggers import Triggers
from galactic.operator.vpcs import Vpcs
from galactic.settings import OperatorSettings, load

if TYPE_CHECKING:
    from galactic.bus.metrics import BusMetrics


HIGHEST_ANNOTATION: Final = f"{GROUP}/highest-prefix"
"""On the Lease: the highest prefix of the pool that was ever given."""


@dataclass(frozen=True, slots=True)
class Memo:
    """kopf passes it to the handlers."""

    caches: Caches


async def operate(
    settings: OperatorSettings, metrics: Metrics, health: Health, own: CollectorRegistry
) -> None:
    """Watches always, acts while it holds the lease.

    The operator is unhealthy while the API server does not answer, and the process goes on: a new one could do no more.
    """
    health.set("lease", "kube-apiserver was not asked yet")
    async with await connect() as kube:
        namespace = own_namespace()
        candidate = Candidate(namespace, "galactic-operator", identity())
        lease = Lease(kube, candidate, report=partial(health.set, "lease"))
        reconciler = assemble(
            Fenced(kube, lease),
            rules(settings),
            metrics,
            partial(health.set, "kube-apiserver"),
            namespace=namespace,
        )
        observe(metrics, kube, lease, reconciler)
        issuing: list[Coroutine[Any, Any, None]] = []
        if settings.issue_broker_certificates:
            from galactic.operator.issuer import Issuer, Place  # noqa: PLC0415 - 8 MiB of cryptography

            place = Place(settings.cluster, namespace)
            issuing.append(Issuer(Fenced(kube, lease), place, lambda: lease.leads).run())
        broker = _bus_metrics(own) if settings.publish_entitlements else None

        segments = reconciler.segments
        lease.annotate = lambda: {HIGHEST_ANNOTATION: segments.highest} if segments.highest else {}

        async def lead() -> None:
            segments.load(lease.annotations.get(HIGHEST_ANNOTATION, ""))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reconciler.lead(lease.term), name="reconciler")
                if broker is not None:
                    await reconciler.restored.wait()  # a list that is not complete would withdraw routes
                    cluster = ClusterName(
                        settings.cluster, await cluster_uid(kube), partial(health.set, "cluster")
                    )
                    publisher = _publisher(settings, broker, cluster, reconciler.caches)
                    tasks.create_task(publisher.run(), name="entitlements")

        set_back = asyncio.Event()
        await run_all(
            *issuing,
            *(reflector.run() for reflector in reflectors(kube, reconciler.caches, set_back.set)),
            watch(Memo(reconciler.caches), kube, reconciler.resync, set_back),
            lease.run(lead),
        )


def _bus_metrics(own: CollectorRegistry) -> "BusMetrics":
    from galactic.bus.metrics import BusMetrics  # noqa: PLC0415 - most clusters do not need it

    return BusMetrics(own)


def _publisher(
    settings: OperatorSettings, broker: "BusMetrics", cluster: ClusterName, caches: Caches
) -> EntitlementPublisher:
    from galactic.bus.paho import PahoBus  # noqa: PLC0415 - the MQTT client, which most clusters do not need

    def connect() -> PahoBus:
        return PahoBus(settings, f"galactic-operator-{settings.cluster}", metrics=broker)

    return EntitlementPublisher(
        connect, Topics(settings.mqtt_base), cluster, caches, lambda: time.time_ns() // 1_000_000
    )


def assemble(
    api: Api,
    rules: Rules,
    metrics: Metrics,
    report: Report,
    *,
    namespace: str = "galactic-system",
    clock: Callable[[], float] = time.time,
) -> Reconciler:
    """The reconciler of all kinds. ``namespace``: Galactic's own. ``clock``: seconds since 1970."""
    context = ReconcileContext(api, Caches(namespace), Events(api), rules, clock=clock)
    vpcs = Vpcs(context)
    segments = Segments(context)
    evictions = Evictions(context, lambda result: metrics.evictions.labels(result).inc())
    index = Index()
    policies = Policies(context, PolicyIndex())
    reconcilers = Reconcilers(
        vpcs,
        Attachments(context, vpcs, policies.index, evictions.add),
        segments,
        Pods(context),
        Services(context, index),
        policies,
        Gateways(context),
        evictions,
    )
    context.caches.listen(Triggers(context, segments, index, vpcs.peers, policies))
    return Reconciler(context, reconcilers, metrics, report)


def rules(settings: OperatorSettings) -> Rules:
    return Rules(
        srv6_block=settings.srv6_block,
        strict=settings.strict,
        mtu=settings.mtu,
        segments=settings.segments,
        pool=settings.pool_prefix,
        pool_length=settings.pool_length,
        cluster=settings.cluster,
        pool_rest=settings.pool_rest,
        router_outside=settings.router_outside,
        unattached_after=settings.unattached_after,
        evict_unattached=settings.evict_unattached,
        namespace_networks=settings.namespace_networks,
        remove_node_taint=settings.remove_node_taint,
        set_node_taint=settings.set_node_taint,
        scaled_down_retention=settings.scaled_down_retention,
        gateway_addresses=settings.gateway_addresses,
        gateway_node_selector=settings.gateway_node_selector,
        gateway_forbidden=settings.gateway_forbidden,
        gateway_allowed=settings.gateway_allowed,
    )


def observe(metrics: Metrics, kube: Kube, lease: Lease, reconciler: Reconciler) -> None:
    """Gives the metrics the functions that read their values."""
    caches = reconciler.caches
    metrics.read(
        waiting=lambda: len(reconciler.queue),
        requests=lambda: kube.requests,
        dropped=lambda: reconciler.events.dropped,
        counts={cache.name: cache.__len__ for cache in caches.by_kind},
        leads=lambda: lease.leads,
        holder=lambda: lease.holder,
        unready=lambda: unready(caches),
        unattached=lambda: unattached(caches),
        vpcs=lambda: vpcs(caches, reconciler.allocator),
        pool=lambda: pool(caches, reconciler.rules),
        refused_prefixes=reconciler.segments.refused,
        gateways=lambda: gateways(caches),
    )


async def run_all(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs them until one ends, and cancels the others. Raises that one's exception."""
    tasks = {asyncio.create_task(coroutine) for coroutine in coroutines}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def main() -> None:
    settings = load(OperatorSettings, program="galactic-operator")
    own = registry("operator")
    metrics = Metrics(own)
    launch(settings, "galactic-operator", lambda health: operate(settings, metrics, health, own), own)


if __name__ == "__main__":
    main()

"""``galactic-operator``: the wiring."""

import asyncio
from dataclasses import dataclass
from functools import partial

from galactic.kube.client import connect
from galactic.kube.fenced import Fenced
from galactic.kube.lease import Lease, identity, own_namespace
from galactic.launch import Health, launch
from galactic.metrics import registry
from galactic.operator.context import Rules
from galactic.operator.gauges import pool, unattached, unready, vpcs
from galactic.operator.handlers import watch
from galactic.operator.metrics import Metrics
from galactic.operator.reconcile import Reconciler
from galactic.operator.reflectors import reflectors
from galactic.operator.state import Caches
from galactic.settings import OperatorSettings, load


@dataclass(frozen=True, slots=True)
class Memo:
    """What kopf hands to the handlers."""

    caches: Caches


async def operate(settings: OperatorSettings, metrics: Metrics, health: Health) -> None:
    """Watches always, acts while it holds the lease.

    It is not ready while the API server does not answer, whether it acts or waits. Nothing of that ends the process: a
    new one could do no more than wait as well.
    """
    health.set("lease", "kube-apiserver was not asked yet")
    async with await connect() as kube:
        rules = Rules(
            srv6_space=settings.srv6_block,
            strict=settings.strict,
            mtu=settings.mtu,
            segments=settings.segments,
            pool=settings.pool_prefix,
            pool_length=settings.pool_length,
            router_outside=settings.router_outside,
            unattached_after=settings.unattached_after,
            evict_unattached=settings.evict_unattached,
            remove_node_taint=settings.remove_node_taint,
            set_node_taint=settings.set_node_taint,
        )
        lease = Lease(
            kube, own_namespace(), "galactic-operator", identity(), report=partial(health.set, "lease")
        )
        report = partial(health.set, "kube-apiserver")
        namespace = own_namespace()
        reconciler = Reconciler(Fenced(kube, lease), rules, metrics, report, namespace=namespace)
        metrics.read(
            waiting=lambda: len(reconciler.queue),
            requests=lambda: kube.requests,
            dropped=lambda: reconciler.events.dropped,
            counts={cache.kind: cache.__len__ for cache in reconciler.caches.by_kind},
            leads=lambda: lease.leads,
            holder=lambda: lease.holder,
            unready=lambda: unready(reconciler.caches),
            unattached=lambda: unattached(reconciler.caches),
            vpcs=lambda: vpcs(reconciler.caches, reconciler.allocator),
            pool=lambda: pool(reconciler.caches, rules),
        )
        parts = {
            asyncio.create_task(part)
            for part in (
                *(reflector.run() for reflector in reflectors(kube, reconciler.caches)),
                watch(Memo(reconciler.caches), reconciler.resync),
                lease.run(reconciler.lead),
            )
        }
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)


def main() -> None:
    settings = load(OperatorSettings, program="galactic-operator")
    figures = registry("operator")
    metrics = Metrics(figures)
    launch(settings, "galactic-operator", lambda health: operate(settings, metrics, health), figures)


if __name__ == "__main__":
    main()

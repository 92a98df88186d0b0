"""``galactic-operator``: the wiring."""

import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from galactic.errors import Unreachable
from galactic.kube.client import connect
from galactic.launch import Health, launch
from galactic.operator.desk import Rules
from galactic.operator.handlers import watch
from galactic.operator.metrics import Metrics
from galactic.operator.reconcile import Reconciler
from galactic.operator.state import View
from galactic.settings import OperatorSettings, load


@dataclass(frozen=True, slots=True)
class Memo:
    """What kopf hands to the handlers."""

    view: View


async def operate(settings: OperatorSettings, metrics: Metrics, health: Health) -> None:
    async with await connect() as kube:
        rules = Rules(srv6_space=settings.srv6_space, strict=settings.strict, mtu=settings.mtu)
        reconciler = Reconciler(kube, rules, metrics, lambda problem: health.set("kube-apiserver", problem))
        metrics.read(
            waiting=lambda: len(reconciler.queue),
            requests=lambda: kube.requests,
            dropped=lambda: reconciler.events.dropped,
            counts={cache.resource.kind: cache.__len__ for cache in reconciler.view.caches},
        )
        await restored(reconciler, health)
        work = asyncio.create_task(reconciler.run(), name="reconciler")
        await reconciler.started.wait()  # kopf cancels every task that is younger than itself when it ends
        watching = asyncio.create_task(watch(Memo(reconciler.view), reconciler.resync), name="watch")
        try:
            done, _ = await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (watching, work):
                task.cancel()
            await asyncio.wait({watching, work})


async def restored(reconciler: Reconciler, health: Health) -> None:
    """Waits for the API server's first complete answer."""
    while True:
        try:
            await reconciler.restore()
        except Unreachable as error:
            health.set("kube-apiserver", str(error))
            await asyncio.sleep(2)
        else:
            health.set("kube-apiserver", None)
            return


def main() -> None:
    settings = load(OperatorSettings, program="galactic-operator")
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    launch(settings, "galactic-operator", lambda health: operate(settings, metrics, health), registry)


if __name__ == "__main__":
    main()

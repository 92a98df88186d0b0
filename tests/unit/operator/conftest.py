"""A cluster in memory with the reconciler at work in it. Time passes by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from clockwork import Clockwork
from prometheus_client import CollectorRegistry

from galactic.kube import workqueue
from galactic.kube.api import Event, key_of
from galactic.kube.memory import MemoryApi, selected
from galactic.kube.resources import CONFIG_MAPS, NADS, NAMESPACES, VPC_ATTACHMENTS, VPCS, Resource
from galactic.operator.__main__ import assemble
from galactic.operator.context import Rules
from galactic.operator.metrics import Metrics
from galactic.operator.reconcile import Reconciler
from galactic.validation import joining


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"clockwork": Clockwork}


EPOCH = 1_790_000_000.0
"""The wall's clock when a loop's time is 0."""


class Cluster:
    """``api`` is what users do; the reconciler is started, stopped and asked about."""

    def __init__(self, rules: Rules) -> None:
        self.api = MemoryApi()
        self.rules = rules
        self.reconciler: Reconciler
        self._work: asyncio.Task[None] | None = None
        self._term = 0
        for namespace in ("default", "other"):
            self.api.put(NAMESPACES, {"metadata": {"name": namespace, "labels": {"name": namespace}}})

    async def start(self) -> None:
        self.problems: list[str | None] = []
        self.reconciler = assemble(
            self.api,
            self.rules,
            Metrics(CollectorRegistry()),
            self.problems.append,
            clock=self.now,
        )
        await self.lead()

    def now(self) -> float:
        """Seconds since 1970, by the time of the loop."""
        return EPOCH + asyncio.get_running_loop().time()

    async def lead(self, *, again: bool = False) -> None:
        """The reconciler leads, and receives events from then on. ``again``: no other replica did in between."""
        self.api.observer = self._observe
        self._term += not again
        self._work = asyncio.create_task(self.reconciler.lead(self._term))

    async def depose(self) -> None:
        """It stops leading in the middle of its work, and goes on watching."""
        if self._work:
            self._work.cancel()
            await asyncio.wait({self._work})

    async def stop(self) -> None:
        self.api.observer = lambda *_: None
        if self._work:
            self._work.cancel()
            await asyncio.wait({self._work})
            self.reconciler.queue.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Nothing is dirty any more, what was due later included."""
        await asyncio.sleep(0.001)
        await self.until(lambda: not len(self.reconciler.queue) and self.reconciler.events.idle)

    def vpc(self, name: str, *networks: str, namespace: str = "default", **spec: Any) -> None:
        body = {"metadata": {"name": name}, "spec": {"networks": list(networks or ("10.1.1.0/24",)), **spec}}
        made = self.api.put(VPCS, body, namespace)
        if "identifier" in spec:
            self.admits(made)

    def admits(self, vpc: Any) -> None:
        """As the webhook records that the VPC may have its identifier."""
        meta, requested = vpc["metadata"], vpc["spec"]["identifier"]
        records = {meta["uid"]: joining.record((meta["namespace"], meta["name"]), requested)}
        if self.api.stored(CONFIG_MAPS, joining.RECORDS, "galactic-system") is None:
            self.api.put(CONFIG_MAPS, {"metadata": {"name": joining.RECORDS}}, "galactic-system")
        self.api.change(CONFIG_MAPS, joining.RECORDS, {"data": records}, "galactic-system")

    def attachment(
        self, name: str, vpc: str = "v", *addresses: str, namespace: str = "default", **spec: Any
    ) -> None:
        vpc_namespace, _, vpc = vpc.rpartition("/")
        reference = {"name": vpc} | ({"namespace": vpc_namespace} if vpc_namespace else {})
        interface = {"interface": {"addresses": list(addresses)}} if addresses else {}
        body = {"metadata": {"name": name}, "spec": {"vpc": reference, **interface, **spec}}
        self.api.put(VPC_ATTACHMENTS, body, namespace)

    def status(
        self, name: str, namespace: str = "default", resource: Any = VPC_ATTACHMENTS
    ) -> dict[str, Any]:
        stored = self.api.stored(resource, name, namespace)
        assert stored is not None
        return dict(stored.get("status") or {})

    def condition(
        self, type_: str, name: str, namespace: str = "default", resource: Any = VPC_ATTACHMENTS
    ) -> Any:
        conditions = self.status(name, namespace, resource).get("conditions") or ()
        return next((condition for condition in conditions if condition["type"] == type_), None)

    def nad(self, name: str, namespace: str = "default") -> str:
        stored = self.api.stored(NADS, name, namespace)
        return str(stored["spec"]["config"]) if stored else ""

    def _observe(self, resource: Resource, event: Event) -> None:
        stored = event.object
        for cache in self.reconciler.caches.by_kind:
            selection = cache.selection
            if selection.resource != resource or not selected(stored, selection.labels, selection.namespace):
                continue
            if event.type == "DELETED":
                cache.remove(key_of(stored), stored["metadata"]["uid"], stored["metadata"]["resourceVersion"])
            else:
                cache.set(stored)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off and counting delays of milliseconds; a pod waits for its node for a tenth of a second."""
    monkeypatch.setattr(workqueue, "BACKOFF_SECONDS", (0.001, 0.01))
    for module in ("triggers", "vpcs", "policies.changes"):
        monkeypatch.setattr(f"galactic.operator.{module}.COUNT_SECONDS", 0.002)
    monkeypatch.setattr("galactic.operator.triggers.BINDING_SECONDS", 0.1)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster(Rules())
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def clusters() -> Callable[[Rules], Cluster]:
    return Cluster

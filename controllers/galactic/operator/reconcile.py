"""The reconciler: workers that compare dirty objects with what their specifications ask for.

Level-triggered: a change marks objects dirty (``triggers``), a worker compares and writes the difference. The API
server's answers go into the caches at once, so that a later run never starts from a state older than our own writes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.kube.api import Conflict, Key, NotFound, key_of
from galactic.kube.lease import Deposed
from galactic.kube.reflector import in_turns
from galactic.kube.resources import (
    ENDPOINT_SLICES,
    POLICY_SLICES,
    SERVICES,
    STATEFUL_SETS,
    VPC_GATEWAYS,
    VPC_POLICIES,
)
from galactic.operator.allocator import restore
from galactic.operator.attachments import Attachments
from galactic.operator.cache import Cache
from galactic.operator.context import Kind, ReconcileContext
from galactic.operator.evictions import Evictions
from galactic.operator.gateways import Gateways, enter
from galactic.operator.metrics import Metrics
from galactic.operator.pods import Pods
from galactic.operator.policies.policyslices import base
from galactic.operator.policies.reconciler import Policies
from galactic.operator.segments import Segments
from galactic.operator.services.reconciler import Services
from galactic.operator.vpcs import Vpcs

log = structlog.get_logger(__name__)
WORKERS: Final = 16
RESYNC_SECONDS: Final = 300.0
RESTORE_SECONDS: Final = 2.0
"""Between two attempts to restore."""
OPTIONAL: Final = (STATEFUL_SETS, SERVICES, ENDPOINT_SLICES, VPC_POLICIES, POLICY_SLICES, VPC_GATEWAYS)
"""Kinds that the role of an earlier chart does not permit: what depends on them waits, everything else goes on."""
Report = Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class Reconcilers:
    """The reconcilers of each kind, and the evictions that the attachments' one requests."""

    vpcs: Vpcs
    attachments: Attachments
    segments: Segments
    pods: Pods
    services: Services
    policies: Policies
    gateways: Gateways
    evictions: Evictions

    def of(self, kind: Kind) -> Callable[[Key], Awaitable[None]]:
        """The reconciler of a kind."""
        by_kind: dict[Kind, Callable[[Key], Awaitable[None]]] = {
            "vpc": self.vpcs.reconcile,
            "attachment": self.attachments.reconcile,
            "segment": self.segments.reconcile,
            "node": self.segments.reconcile_node,
            "pod": self.pods.reconcile,
            "service": self.services.reconcile,
            "policy": self.policies.reconcile,
            "policyslice": self.policies.reconcile_part,
            "gateway": self.gateways.reconcile,
        }
        return by_kind[kind]


class Reconciler:
    """``lead`` works until it is cancelled, and may be begun again; before and between, only the caches are kept.

    ``report`` gets the problem with the API server, or None.
    """

    def __init__(
        self, context: ReconcileContext, reconcilers: Reconcilers, metrics: Metrics, report: Report
    ) -> None:
        self._context, self._reconcilers = context, reconcilers
        self._metrics, self._report_problem = metrics, report
        self._policies = reconcilers.policies
        self._away = False
        self.queue, self.caches = context.queue, context.caches
        self.allocator, self.events, self.rules = context.allocator, context.events, context.rules
        self.evictions, self.segments = reconcilers.evictions, reconcilers.segments
        self.restored = asyncio.Event()
        """Set while it leads and every kind was listed."""
        self._term: object = None  # of the last restoration

    async def lead(self, term: object) -> None:
        """Restores the allocator from the API server's objects, and reconciles until it is cancelled.

        In the same ``term`` as before, which is the lease's, no other replica has acted in between: it goes on with its
        memory. An API server that was too slow for the lease does not get faster by lists of every kind.
        """
        if term == self._term:
            self.queue.take_back()
            self.evictions.queue.take_back()
        while term != self._term:
            try:
                await self.restore()
            except Unreachable as error:
                self._report(str(error))
                await asyncio.sleep(RESTORE_SECONDS)
            else:
                self._report(None)
                self._term = term
        self.restored.set()
        try:
            await self.run()
        finally:
            self.restored.clear()
            self._report(None)  # a replica that does not act has no problem

    async def restore(self) -> None:
        """Lists every kind and enters what live objects hold, before any decision. Raises GalacticError.

        A list has the API server's present state. A watch may be behind: another replica may have assigned identifiers
        a moment ago.
        """
        for cache in self.caches.by_kind:
            await self._list(cache)
        self.queue.clear()
        self.evictions.queue.clear()
        self.allocator.clear()
        await restore(self.allocator, self.caches)
        enter(self._context)
        await self._mark_all()

    async def run(self) -> None:
        """Works off the queue, and resyncs every RESYNC_SECONDS."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._worker())
            group.create_task(self._resync())
            group.create_task(self.events.run())
            group.create_task(self.evictions.run())

    async def resync(self) -> None:
        """Lists every kind again and marks every object dirty: repairs missed events. Raises GalacticError."""
        for cache in self.caches.by_kind:
            missed = await self._list(cache)
            if missed:
                log.warning("deletions missed by the watch", kind=cache.name, count=missed)
                self._metrics.missed.labels(cache.name).inc(missed)
        await self._mark_all()

    async def _mark_all(self) -> None:
        caches = self.caches
        kinds: tuple[tuple[Kind, Cache[Any]], ...] = (
            ("vpc", caches.vpcs),
            ("attachment", caches.attachments),
            ("segment", caches.segments),
            ("node", caches.nodes),
            ("pod", caches.pods),
            ("policy", caches.policies),
            ("gateway", caches.gateways),
        )
        for kind, cache in kinds:
            async for part in in_turns([*cache]):
                for key in part:
                    self.queue.add((kind, key))
        for key, service in caches.services.items():
            if service.annotation is not None:
                self.queue.add(("service", key))

        for name in self._policies.index.names() | {base(key[1]) for key in caches.policy_parts}:
            self.queue.add(("policyslice", ("", name)))

    async def _worker(self) -> None:
        while True:
            item = await self.queue.get()
            kind, key = item
            began = time.perf_counter()
            result = "error"
            try:
                await self._reconcilers.of(kind)(key)
                result = "ok"
                if self._away:
                    self._report(None)
            except (Conflict, NotFound, Deposed):
                result = "retry"  # another client wrote in between or the object is gone: the watch is behind
            except Unreachable as error:
                result = "retry"
                self._report(str(error))
            except GalacticError as error:
                log.warning("refused by the API server", kind=kind, key=key, error=str(error))
            except Exception:
                log.exception("reconciling failed", kind=kind, key=key)
            self._metrics.reconciled.labels(kind, result).inc()
            self._metrics.seconds.labels(kind).observe(time.perf_counter() - began)
            if result == "ok":
                self.queue.done(item)
            else:
                self.queue.failed(item)
            # An object with nothing to write has waited for nothing, and after a start all of them are such.
            await asyncio.sleep(0)

    def _report(self, problem: str | None) -> None:
        self._away = problem is not None
        self._report_problem(problem)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self.resync()
                self._report(None)
            except GalacticError as error:
                log.warning("resync failed", error=str(error))
                self._report(str(error))

    async def _list(self, cache: "Cache[object]") -> int:
        """Replaces the cache's objects by a list, which is the truth. How many deletions the watch had missed."""
        since, selection, listed = cache.clock, cache.selection, set[Key]()
        try:
            async for objects, _ in self._context.api.pages(
                selection.resource, selection.namespace, labels=selection.labels
            ):
                async for part in in_turns(objects):
                    for item in part:
                        listed.add(key_of(item))
                        cache.set_listed(item, since)
        except NotFound:
            log.warning("kind not installed", kind=selection.resource.kind)
        except Rejected as error:
            if error.reason != "Forbidden" or selection.resource not in OPTIONAL:
                raise
            log.warning("kind not permitted, is the role of an earlier chart?", error=str(error))
            return 0
        return cache.retain(listed, since)

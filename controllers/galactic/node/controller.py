"""The node controller's parts put together and run as one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from galactic import __version__, names
from galactic.errors import GalacticError
from galactic.kube.client import Kube
from galactic.launch import Health
from galactic.linux.events import Changed
from galactic.node.cni.server import Server
from galactic.node.dataplane.neighbours import Neighbours
from galactic.node.dataplane.setup import HostSetup
from galactic.node.dataplane.sync import Sync
from galactic.node.kubernetes.definitions import Definitions
from galactic.node.kubernetes.fallback import Fallback
from galactic.node.kubernetes.multus import MultusConfiguration
from galactic.node.kubernetes.segment import Facts, Segment
from galactic.node.kubernetes.unaccounted import UnaccountedAttachments
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import Registration
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)
HEALTH_SECONDS: Final = 1.0


class Controller:
    """Everything the node controller does, given its parts. ``events`` yields whenever something of ours may have been
    changed; ``connect`` makes a client of the API server or raises Unreachable.
    """

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        preparation: HostSetup,
        sync: Sync,
        neighbours: Neighbours,
        registration: Registration,
        events: Callable[[], AsyncIterator[Changed]],
        connect: Callable[[], Awaitable[Kube]],
        metrics: Metrics,
        multus: MultusConfiguration,
    ) -> None:
        self._metrics, self._multus = metrics, multus
        self._node, self._store, self._preparation, self._sync = node, store, preparation, sync
        self._neighbours = neighbours
        self._registration, self._events, self._connect = registration, events, connect
        self._segment: Segment | None = None
        self._configs: Definitions | None = None
        self._fallback: Fallback | None = None
        self._recovery: UnaccountedAttachments | None = None

    async def run(self, server: Server, health: Health) -> None:
        """Until cancelled. What runs in the kernel goes on running afterwards."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._preparation.run(), name="preparation")
            tasks.create_task(self._sync.run(), name="sync")
            tasks.create_task(self._neighbours.run(), name="neighbours")
            tasks.create_task(self._multus.run(self._tell_conditions), name="multus")
            tasks.create_task(server.run(), name="socket")
            tasks.create_task(self._registration.run(), name="registration")
            tasks.create_task(self._drift(), name="drift")
            tasks.create_task(self._kubernetes(), name="kubernetes")
            tasks.create_task(self._report(health), name="health")

    def problem(self) -> str | None:
        """Why no pod can be attached now; None when one can."""
        if self._preparation.problem:
            return self._preparation.problem
        if self._store.node.prefix is None:
            told = self._segment.problem if self._segment else "kube-apiserver was not reached yet"
            return f"the node does not know its SRv6 prefix: {told}"
        return None if self._sync.ready.is_set() else self._sync.problem

    def facts(self) -> Facts:
        """What the NodeSegment's status says beside endpoints."""
        problem = self.problem()
        sync, mqtt = self._sync.problem, self._registration.problem
        followed = len(self._fallback.followed) if self._fallback else 0
        instead = f"the routes of {followed} VPCs are read from kube-apiserver instead" if followed else ""
        if mqtt and instead:
            mqtt = f"{mqtt}; {instead}"
        lost = self._recovery.problem if self._recovery else None
        stale = self._configs.problem if self._configs else None
        findings = (
            _finding("Ready", problem, "Ready", "NotReady", "pods can be attached"),
            _finding("Synced", sync, "Applied", "Failing", "the kernel is as planned"),
            _finding(
                "DefinitionsApplied",
                "; ".join(filter(None, (lost, stale))) or None,
                "Applied",
                "NotUnderstood",
                "every attachment is as its definition says",
            ),
            _finding(
                "BrokerConnected",
                mqtt,
                "Connected",
                "Disconnected",
                instead or "route changes arrive at once",
            ),
        )
        node = {
            "kernel": self._preparation.kernel,
            "version": __version__,
            "encap": self._preparation.encap,
        }
        node = {name: value for name, value in node.items() if value}
        found = (
            *findings,
            *self._multus.findings(),
            self._neighbours.finding(),
            *self._preparation.findings(),
        )
        return Facts(node, self._sync.routes, found)

    def _tell_conditions(self) -> None:
        if self._segment:
            self._segment.look()

    async def _drift(self) -> None:
        """Without events there is still the interval between full rounds."""
        pause = BACKOFF_SECONDS[0]
        while True:
            try:
                async for changed in self._events():
                    self._sync.on_external_change(changed)
            except GalacticError as error:
                log.warning("no events from the kernel, trying again", error=str(error), seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_SECONDS[1])

    async def _kubernetes(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            try:
                kube = await self._connect()
                break
            except GalacticError as error:
                log.warning("no client of the API server, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
        async with kube:
            self._segment = segment = Segment(kube, self._node, self._store, self.facts)
            self._recovery = UnaccountedAttachments(kube, self._store, lambda: segment.endpoints)
            self._configs = Definitions(kube, self._node, self._store)
            self._fallback = Fallback(kube, self._store, self._registration.trusted)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._segment.run(), name="segment")
                tasks.create_task(self._recovery.run(), name="recovery")
                tasks.create_task(self._configs.run(), name="definitions")
                tasks.create_task(self._fallback.run(), name="fallback")

    async def _report(self, health: Health) -> None:
        """Broker and API server may be away without anything being wrong here: they are conditions, not health."""
        while True:
            health.set("attach", self.problem())
            health.set("kernel", self._sync.problem if self._sync.ready.is_set() else None)
            self._measure()
            await asyncio.sleep(HEALTH_SECONDS)

    def _measure(self) -> None:
        metrics, segment = self._metrics, self._segment
        metrics.connected.labels("broker").set(self._registration.problem is None)
        metrics.connected.labels("kube-apiserver").set(bool(segment and segment.reachable))
        metrics.fallback.set(len(self._fallback.followed) if self._fallback else 0)
        for backend in ("legacy", "nft"):
            metrics.backend.labels(backend).set(backend == self._preparation.backend)
        metrics.neighbours_failed.set(len(self._neighbours.failed))
        metrics.conditions({finding.type: finding.status for finding in self.facts().findings})
        endpoints = Counter(attachment.vpc for attachment in self._store.attachments.values())
        metrics.vpcs_here(
            {names.vpc_hex(vpc): count for vpc, count in endpoints.items()},
            {names.vpc_hex(vpc): revision for vpc, revision in self._registration.revisions.items()},
        )


def _finding(kind: str, problem: str | None, good: str, bad: str, fine: str) -> ConditionState:
    """A condition that says what is wrong, or ``fine``. Never an empty message: API servers of old make it null."""
    return ConditionState(kind, problem is None, good if problem is None else bad, problem or fine)

"""The node's state as others see it: conditions and facts of the NodeSegment, health, and metrics."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from galactic import __version__
from galactic.launch import Health
from galactic.node.dataplane.gateway_filter import GatewayFilter
from galactic.node.dataplane.gateway_health import GatewayHealth
from galactic.node.dataplane.host_settings import HostSettings
from galactic.node.dataplane.neighbours import Neighbours
from galactic.node.dataplane.path_mtu import PathMTU
from galactic.node.dataplane.setup import HostSetup
from galactic.node.dataplane.sync import Sync
from galactic.node.kubernetes.multus import MultusConfiguration
from galactic.node.kubernetes.segment import Facts
from galactic.node.kubernetes.tasks import KubernetesTasks
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import Session
from galactic.node.policies.enforcement import Enforcement
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

HEALTH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class HostTasks:
    """The tasks that keep this host as planned, or watch it."""

    setup: HostSetup
    sync: Sync
    neighbours: Neighbours
    path_mtu: PathMTU
    multus: MultusConfiguration
    settings: HostSettings
    policies: Enforcement
    gateways: GatewayFilter
    gateway_health: GatewayHealth


class StatusReport:
    """The node's status, read from its tasks."""

    def __init__(
        self, store: Store, host: HostTasks, session: Session, kubernetes: KubernetesTasks, metrics: Metrics
    ) -> None:
        self._store, self._host, self._session = store, host, session
        self._kubernetes, self._metrics = kubernetes, metrics

    async def run(self, health: Health) -> None:
        """For ever. The node is healthy without broker and API server: those are conditions, not health."""
        while True:
            sync = self._host.sync
            # A Node that is to have no prefix would never be ready, and no rollout would end.
            no_prefix = self._host.setup.problem is None and self._store.node.prefix is None
            health.set("attach", self.problem(), ready=no_prefix)
            health.set("kernel", sync.problem if sync.ready.is_set() else None)
            self._measure()
            await asyncio.sleep(HEALTH_SECONDS)

    def problem(self) -> str | None:
        """Why no pod can be attached now; None when one can."""
        setup, sync = self._host.setup, self._host.sync
        if setup.problem:
            return setup.problem
        if self._store.node.prefix is None:
            return f"the node does not know its SRv6 prefix: {self._kubernetes.prefix_problem}"
        return None if sync.ready.is_set() else sync.problem

    def facts(self) -> Facts:
        """The NodeSegment's status except for endpoints."""
        setup = self._host.setup
        node = {"kernel": setup.kernel, "version": __version__, "encap": setup.encap}
        conditions = (
            *self._conditions(),
            *self._kubernetes.conditions(),
            *self._host.multus.conditions(),
            self._host.neighbours.condition(),
            self._host.path_mtu.condition(time.monotonic()),
            self._host.settings.condition(),
            self._host.policies.condition(),
            self._host.gateways.condition(),
            *setup.conditions(),
        )
        return Facts({name: value for name, value in node.items() if value}, conditions)

    def _conditions(self) -> tuple[ConditionState, ...]:
        """Those that follow from more than one task. No message is empty: old API servers make that null."""
        vpcs, broker = self._kubernetes.fallback_vpcs, self._session.problem
        fallback = f"the routes of {vpcs} VPCs are read from kube-apiserver instead" if vpcs else ""
        if self._session.leaderless and not broker:
            fallback = "; ".join(filter(None, ("no router leads", fallback)))
        if broker and fallback:
            broker = f"{broker}; {fallback}"
        if certificate := self._kubernetes.certificate_problem:
            broker = f"{broker}; {certificate}" if broker else None
            fallback = "; ".join(filter(None, (fallback, certificate)))
        return (
            _finding("Ready", self.problem(), "Ready", "NotReady", "pods can be attached"),
            _finding("Synced", self._host.sync.problem, "Applied", "Failing", "the kernel is as planned"),
            _finding(
                "DefinitionsApplied",
                self._kubernetes.statuses_problem,
                "Applied",
                "NotUnderstood",
                "every pod is attached as its VPCAttachment has it",
            ),
            _finding(
                "BrokerConnected",
                broker,
                "Connected",
                "Disconnected",
                fallback or "route changes arrive at once",
            ),
            _finding(
                "PasswordEncrypted",
                self._session.password_exposure,
                "Encrypted",
                "Exposed",
                "no password is sent to the broker unencrypted",
            ),
        )

    def _measure(self) -> None:
        metrics = self._metrics
        metrics.connected.labels("broker").set(self._session.problem is None)
        metrics.connected.labels("kube-apiserver").set(self._kubernetes.reachable)
        metrics.fallback.set(self._kubernetes.fallback_vpcs)
        for backend in ("legacy", "nft"):
            metrics.backend.labels(backend).set(backend == self._host.setup.backend)
        metrics.neighbours_failed.set(len(self._host.neighbours.failed))
        metrics.smaller_paths.set(len(self._host.path_mtu.paths(time.monotonic())))
        metrics.ways_out.set(len(self._store.gateways.leading or ()))
        metrics.set_gateway_nodes(self._host.gateway_health.answering)
        metrics.set_conditions({state.type: state.status for state in self.facts().conditions})
        # By name: the port is one of the host's, and an identifier is for those who may read the VPC.
        vpcs = self._kubernetes.vpc_names
        endpoints = Counter(attachment.vpc for attachment in self._store.attachments.values())
        revisions = self._session.revisions
        metrics.set_vpcs(
            {vpcs[vpc]: count for vpc, count in endpoints.items() if vpc in vpcs},
            {vpcs[vpc]: revision for vpc, revision in revisions.items() if vpc in vpcs},
        )


def _finding(kind: str, problem: str | None, good: str, bad: str, fine: str) -> ConditionState:
    """A condition whose message is the problem, or ``fine``."""
    return ConditionState(kind, problem is None, good if problem is None else bad, problem or fine)

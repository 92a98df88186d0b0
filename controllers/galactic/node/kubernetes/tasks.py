"""The tasks that need a client of the API server, once there is one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet
from galactic.kube.client import Kube
from galactic.node.kubernetes.carried import CarriedAttachments
from galactic.node.kubernetes.fallback import Fallback
from galactic.node.kubernetes.gateways import GatewayWatch
from galactic.node.kubernetes.segment import Segment
from galactic.node.kubernetes.unaccounted import UnaccountedAttachments
from galactic.node.policies.slices import PolicySlices
from galactic.node.state.attachment import PluginConfig, PodRef
from galactic.node.state.condition import ConditionState

if TYPE_CHECKING:
    from galactic.node.kubernetes.broker_certificate import BrokerCertificate

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)


@dataclass(frozen=True, slots=True)
class Tasks:
    """Those of one client."""

    segment: Segment
    unaccounted: UnaccountedAttachments
    carried: CarriedAttachments
    fallback: Fallback
    gateways: GatewayWatch
    certificate: "BrokerCertificate | None" = None
    slices: PolicySlices | None = None


class KubernetesTasks:
    """Runs them. ``connect`` makes a client or raises Unreachable, ``compose`` the tasks for it."""

    def __init__(self, connect: Callable[[], Awaitable[Kube]], compose: Callable[[Kube], Tasks]) -> None:
        self._connect, self._compose = connect, compose
        self._tasks: Tasks | None = None

    async def run(self) -> None:
        """For ever."""
        async with await self._client() as kube, asyncio.TaskGroup() as group:
            self._tasks = tasks = self._compose(kube)
            group.create_task(tasks.segment.run(), name="segment")
            group.create_task(tasks.unaccounted.run(), name="unaccounted attachments")
            group.create_task(tasks.carried.run(), name="carried attachments")
            group.create_task(tasks.fallback.run(), name="fallback")
            if tasks.slices:
                group.create_task(tasks.slices.run(), name="policy slices")
            group.create_task(tasks.gateways.run(), name="gateways")
            if tasks.certificate:
                group.create_task(tasks.certificate.run(), name="broker certificate")

    @property
    def reachable(self) -> bool:
        """Whether kube-apiserver answers."""
        return self._tasks is not None and self._tasks.segment.reachable

    @property
    def prefix_problem(self) -> str | None:
        """Why the NodeSegment gives the node no prefix."""
        return self._tasks.segment.problem if self._tasks else "kube-apiserver was not reached yet"

    async def entitled(self, pod: PodRef, name: str) -> PluginConfig:
        """The configuration that the attachment (namespace/name) gives that pod. Raises Rejected or NotYet."""
        if self._tasks is None:
            raise NotYet("kube-apiserver was not reached yet")
        return await self._tasks.carried.entitled(pod, name)

    @property
    def certificate_problem(self) -> str | None:
        """Why the node has no new certificate for the broker; None also where it asks for none."""
        certificate = self._tasks.certificate if self._tasks else None
        return certificate.problem if certificate else None

    @property
    def statuses_problem(self) -> str | None:
        """Attachments that are not as the statuses of their VPCAttachments."""
        if self._tasks is None:
            return None
        return "; ".join(filter(None, (self._tasks.unaccounted.problem, self._tasks.carried.problem))) or None

    def conditions(self) -> tuple[ConditionState, ...]:
        """The condition ``Entitled``; none before the API server was reached."""
        return (self._tasks.carried.condition(),) if self._tasks else ()

    @property
    def vpc_names(self) -> dict[int, str]:
        """The VPCs of this node's attachments, as far as kube-apiserver named them: identifier → namespace/name."""
        return self._tasks.carried.vpc_names if self._tasks else {}

    @property
    def fallback_vpcs(self) -> int:
        """VPCs whose routes are read from kube-apiserver."""
        return len(self._tasks.fallback.followed) if self._tasks else 0

    def write_status(self) -> None:
        """A condition turned: the NodeSegment's status is written at once."""
        if self._tasks:
            self._tasks.segment.write_now()

    async def _client(self) -> Kube:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            try:
                return await self._connect()
            except GalacticError as error:
                pause = backoff.pause()
                log.warning("no client of the API server, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)

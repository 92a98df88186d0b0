"""Opt-in: evicts pods that run without their VPC interface, so that their controllers make others.

The Eviction API respects PodDisruptionBudgets. A pod without a controller is never evicted: nothing would replace it.
At most one pod in the whole cluster is evicted every EVERY_SECONDS.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

import structlog

from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import GalacticError, NotYet
from galactic.kube.api import Conflict, Key, NotFound
from galactic.kube.conditions import MULTUS, READY
from galactic.kube.pods import lacks_interface
from galactic.kube.resources import PODS
from galactic.kube.workqueue import WorkQueue
from galactic.operator.context import ReconcileContext
from galactic.operator.objects import Pod

log = structlog.get_logger(__name__)
EVERY_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 30.0
"""Until a pod that may not be evicted now is checked again."""
RESULTS: Final = ("evicted", "blocked", "failed")
"""Results of requests; the other results make none."""
Result = Literal["evicted", "blocked", "failed", "waits", "needless"]


class Evictions:
    """``add`` queues a Pod that has run without its interface for the grace. ``count`` gets each of RESULTS."""

    def __init__(self, context: ReconcileContext, count: Callable[[str], None]) -> None:
        self._api, self._caches, self._events = context.api, context.caches, context.events
        self._count = count
        self.queue: WorkQueue[Key] = WorkQueue()

    def add(self, key: Key) -> None:
        self.queue.add(key)

    async def run(self) -> None:
        """Never returns: one Pod after the other."""
        while True:
            key = await self.queue.get()
            result = await self._evict(key)
            self.queue.done(key)
            if result in ("waits", "blocked", "failed"):
                self.queue.add(key, AGAIN_SECONDS)
            if result in RESULTS:
                self._count(result)
                await asyncio.sleep(EVERY_SECONDS)

    async def _evict(self, key: Key) -> Result:
        pod = self._caches.pods.get(key)
        if (
            pod is None
            or not pod.owned
            or pod.metadata.deletion_timestamp is not None
            or not self._lacks(pod)
        ):
            return "needless"
        if not self._certain(pod):
            return "waits"
        meta = pod.metadata
        try:
            await self._api.evict(meta.name, meta.namespace, meta.uid)
        except NotYet as error:
            self._events.record(
                PODS, meta, "Warning", "EvictionBlocked", f"without its VPC interface: {error}"
            )
            return "blocked"
        except (NotFound, Conflict):
            return "needless"
        except GalacticError as error:
            log.warning("eviction failed, trying again later", pod="/".join(key), error=str(error))
            return "failed"
        log.info("pod evicted, it ran without its VPC interface", pod="/".join(key), node=pod.node)
        message = "ran without its VPC interface: evicted, so that its controller makes another one"
        self._events.record(PODS, meta, "Warning", "EvictedUnattached", message)
        return "evicted"

    def _lacks(self, pod: Pod) -> bool:
        """Whether the Pod still runs without its interface."""
        name = f"{pod.metadata.namespace}/{pod.attachment}"
        segment = self._caches.segments.get(("", pod.node))
        return lacks_interface(pod.place, name, segment if isinstance(segment, NodeSegment) else None)

    def _certain(self, pod: Pod) -> bool:
        """Whether the node controller is ready, another pod would be attached there, and the router agrees.

        The router gets registrations over MQTT, and so also while the node does not reach the API server.
        """
        segment = self._caches.segments.get(("", pod.node))
        conditions = segment.status.conditions if isinstance(segment, NodeSegment) else ()
        if any(condition.type in (READY, MULTUS) and condition.status != "True" for condition in conditions):
            return False
        attachment = self._caches.attachments.get((pod.metadata.namespace, pod.attachment))
        endpoint = attachment.status.endpoint if isinstance(attachment, VpcAttachment) else None
        return self._caches.reports(pod.node) and (endpoint is None or endpoint.node != pod.node)

"""The reconciler: who has to look again when something changes, and workers that look.

Level-triggered: a change marks objects dirty, a worker compares what is with what should be. What a worker learns from
the API's answers goes into the caches at once, so the next look never builds on something older than our own writes.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_interface
from typing import Final

import structlog

from galactic.crds.model import Meta
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Api, Conflict, NotFound
from galactic.kube.informer import Key
from galactic.kube.lease import Deposed
from galactic.kube.workqueue import WorkQueue
from galactic.operator import attached
from galactic.operator.allocator import Allocator, reference, restore
from galactic.operator.attachments import Attachments
from galactic.operator.context import Item, ReconcileContext, Rules
from galactic.operator.events import Events
from galactic.operator.evictions import Evictions
from galactic.operator.metrics import Metrics
from galactic.operator.pods import Pods
from galactic.operator.route_reporting import PATIENCE_SECONDS, arrived
from galactic.operator.segments import Segments
from galactic.operator.state import Agent, Cache, Caches, Invalid, Listener, Nad, Node, Pod
from galactic.operator.vpcs import COUNT_SECONDS, Vpcs
from galactic.validation.networks import Network, host

log = structlog.get_logger(__name__)
WORKERS: Final = 16
RESYNC_SECONDS: Final = 300.0
RESTORE_SECONDS: Final = 2.0
Report = Callable[[str | None], None]


class Reconciler(Listener):
    """``lead`` works until it is cancelled, and may be begun again: before and between, only the caches are kept.

    ``report`` is told what is wrong with the API server, or None. ``namespace``: Galactic's own.
    """

    def __init__(
        self,
        api: Api,
        rules: Rules,
        metrics: Metrics,
        report: Report | None = None,
        *,
        namespace: str = "galactic-system",
    ) -> None:
        self._api, self._metrics = api, metrics
        self._tell = report or (lambda _problem: None)
        self._away = False
        self.queue: WorkQueue[Item] = WorkQueue(first=lambda item: item[0] != "attachment")
        self.caches = Caches(self, namespace)
        self.events = Events(api)
        self.allocator = Allocator()
        context = ReconcileContext(api, self.caches, self.allocator, self.events, rules, self.queue.add)
        self._vpcs = Vpcs(context)
        self.evictions = Evictions(
            api, self.caches, self.events, lambda result: metrics.evictions.labels(result).inc()
        )
        self._attachments = Attachments(context, self._vpcs, self.evictions.add)
        self._segments = Segments(context)
        self._pods = Pods(context)
        self._members: dict[Key, set[Key]] = {}  # VPC → the attachments that name it
        self._work: dict[str, Callable[[Key], Awaitable[None]]] = {
            "vpc": self._vpcs.reconcile,
            "attachment": self._attachments.reconcile,
            "segment": self._segments.segment,
            "node": self._segments.node,
            "pod": self._pods.reconcile,
        }

    async def lead(self) -> None:
        """Learns what there is, from the API server itself, and acts on it until it is cancelled."""
        while True:
            try:
                await self.restore()
            except Unreachable as error:
                self._report(str(error))
                await asyncio.sleep(RESTORE_SECONDS)
            else:
                self._report(None)
                break
        try:
            await self.run()
        finally:
            self._report(None)  # whoever does not act has nothing to complain about

    async def restore(self) -> None:
        """Lists every kind, and enters what live objects hold, before anything is decided. Raises GalacticError.

        A list is what the API server has, whereas a watch may be behind: another replica may just have handed out what
        this one does not know of.
        """
        for cache in self.caches.by_kind:
            await self._list(cache)
        self.queue.clear()
        self.evictions.queue.clear()
        self.allocator.clear()
        restore(self.allocator, self.caches)
        self._look_again()

    async def run(self) -> None:
        """Works off what is dirty, and looks at everything again now and then."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._worker())
            group.create_task(self._resync())
            group.create_task(self.events.run())
            group.create_task(self.evictions.run())

    async def resync(self) -> None:
        """Lists every kind again and looks at every object: repairs whatever was lost. Raises GalacticError."""
        for cache in self.caches.by_kind:
            missed = await self._list(cache)
            if missed:
                log.warning("deletions missed by the watch", kind=cache.kind, count=missed)
                self._metrics.missed.labels(cache.kind).inc(missed)
        self._look_again()

    def _look_again(self) -> None:
        for key in self.caches.vpcs:
            self.queue.add(("vpc", key))
        for key in self.caches.attachments:
            self.queue.add(("attachment", key))
        for key in self.caches.segments:
            self.queue.add(("segment", key))
        for key in self.caches.nodes:
            self.queue.add(("node", key))
        for key in self.caches.pods:
            self.queue.add(("pod", key))

    # What dirties what.

    def vpc_changed(self, key: Key, old: Vpc | Invalid | None, new: Vpc | Invalid | None) -> None:
        self.queue.add(("vpc", key))
        if _outlook(old) != _outlook(new):
            for attachment in self._members.get(key, ()):
                self.queue.add(("attachment", attachment))

    def attachment_changed(
        self, key: Key, old: VpcAttachment | Invalid | None, new: VpcAttachment | Invalid | None
    ) -> None:
        self.queue.add(("attachment", key))
        before, after = _vpc_of(old), _vpc_of(new)
        if before != after:
            if before:
                self._members.get(before, set()).discard(key)
                if not self._members.get(before):
                    self._members.pop(before, None)
            if after:
                self._members.setdefault(after, set()).add(key)
        if after and _attached(old) != _attached(new):
            self.queue.add(("vpc", after), COUNT_SECONDS)
        if old is None or new is None or _spec(old) != _spec(new):
            self.allocator.name(key, after, _named(new))
        if new is None:
            for pod in self.caches.carriers(key):
                self.queue.add(("pod", pod))  # whoever made away with it: a live one gets another

    def nad_changed(self, key: Key, _old: Nad | None, _new: Nad | None) -> None:
        if self.caches.attachments.get(key) is not None:
            self.queue.add(("attachment", key))

    def segment_changed(
        self, key: Key, old: NodeSegment | Invalid | None, new: NodeSegment | Invalid | None
    ) -> None:
        self._segments.changed(key, new)
        before, after = (each if isinstance(each, NodeSegment) else None for each in (old, new))
        for attachment in arrived(before, after):
            self.queue.add(("attachment", attachment), PATIENCE_SECONDS)
        for attachment in attached.changed(before, after):
            self.queue.add(("attachment", attachment), COUNT_SECONDS)

    def node_changed(self, key: Key, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or _wishes(old) != _wishes(new):
            self.queue.add(("node", key))

    def agent_changed(self, _key: Key, old: Agent | None, new: Agent | None) -> None:
        for agent in (old, new):
            if agent is not None and old != new:
                self.queue.add(("node", ("", agent.node)))

    def namespace_changed(self, key: Key, old: Meta | None, new: Meta | None) -> None:
        if old and new and (old.labels, old.deletion_timestamp) == (new.labels, new.deletion_timestamp):
            return
        name = key[1]
        for attachment in [attachment for attachment in self.caches.attachments if attachment[0] == name]:
            self.queue.add(("attachment", attachment))
        for vpc in [vpc for vpc in self.caches.vpcs if vpc[0] == name]:
            self.queue.add(("vpc", vpc))

    def pod_changed(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if new is not None and new.generated and (old is None or old.metadata.uid != new.metadata.uid):
            self.queue.add(("pod", key))
        for pod in (old, new):
            if pod is not None and (old is None or new is None or _place(old) != _place(new)):
                attachment = (key[0], pod.attachment)
                if self.caches.attachments.get(attachment) is not None:
                    self.queue.add(("attachment", attachment))

    # Work.

    async def _worker(self) -> None:
        while True:
            item = await self.queue.get()
            kind, key = item
            began = time.perf_counter()
            result = "error"
            try:
                await self._work[kind](key)
                result = "ok"
                if self._away:
                    self._report(None)
            except (Conflict, NotFound, Deposed):
                result = "retry"  # somebody wrote in between, or it is gone: the watch is about to tell
            except Unreachable as error:
                result = "retry"
                self._report(str(error))
            except GalacticError as error:
                log.warning("refused", kind=kind, key=key, error=str(error))
            except Exception:
                log.exception("reconciling failed", kind=kind, key=key)
            self._metrics.reconciled.labels(kind, result).inc()
            self._metrics.seconds.labels(kind).observe(time.perf_counter() - began)
            if result == "ok":
                self.queue.done(item)
            else:
                self.queue.failed(item)

    def _report(self, problem: str | None) -> None:
        self._away = problem is not None
        self._tell(problem)

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
        since = cache.clock
        try:
            things, _version = await self._api.list(cache.resource, cache.namespace, labels=cache.labels)
        except NotFound:
            log.warning("kind not installed", kind=cache.resource.kind)
            things = []
        return cache.replace(things, since)


def _outlook(vpc: Vpc | Invalid | None) -> object:
    """What of a VPC its attachments depend on."""
    if not isinstance(vpc, Vpc):
        return None
    deleting = vpc.metadata.deletion_timestamp is not None
    return vpc.spec, vpc.status.ready, vpc.status.identifier, deleting


def _vpc_of(attachment: VpcAttachment | Invalid | None) -> Key | None:
    if not isinstance(attachment, VpcAttachment):
        return None
    return reference(attachment)


def _spec(attachment: VpcAttachment | Invalid) -> object:
    return attachment.spec if isinstance(attachment, VpcAttachment) else None


def _named(attachment: VpcAttachment | Invalid | None) -> frozenset[Network]:
    """The addresses that the specification gives, as far as they are any."""
    if not isinstance(attachment, VpcAttachment):
        return frozenset()
    with contextlib.suppress(ValueError):
        return frozenset(host(ip_interface(text).ip) for text in attachment.spec.interface.addresses)
    return frozenset()


def _wishes(node: Node) -> object:
    """What of a Node its NodeSegment depends on, and what the operator does to it."""
    return node.metadata.annotations, node.taints


def _place(pod: Pod) -> object:
    """What of a Pod its attachment depends on."""
    leaving = pod.metadata.deletion_timestamp is not None
    return pod.live, pod.node, pod.place.started, leaving


def _attached(attachment: VpcAttachment | Invalid | None) -> bool:
    return isinstance(attachment, VpcAttachment) and attachment.status.endpoint is not None

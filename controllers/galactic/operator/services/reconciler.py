"""The reconciler of Services: their EndpointSlices, and Events about mistakes."""

import asyncio
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from galactic.crds.model import Meta
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key, NotFound, Terminating
from galactic.kube.conditions import reason_of
from galactic.kube.resources import ENDPOINT_SLICES, SERVICES
from galactic.operator.context import ReconcileContext
from galactic.operator.services.endpoints import Placed, distinct, endpoints
from galactic.operator.services.index import Index
from galactic.operator.slices import Change, Plan, manifest, plan
from galactic.validation.grants import granted, refusal
from galactic.validation.services import VPC_FIELD, VpcService, checked, exclusive

TURN: Final = 100
"""Pods that are read before other tasks have their turn."""
SUFFIX: Final = 5
"""Random letters at the end of a slice's name, as Kubernetes' own controller has them."""


@dataclass(frozen=True, slots=True)
class _Read:
    """The endpoints of a Pod at a time. ``touched``: when it and its attachments had last changed, by their caches."""

    names: tuple[Key, ...]
    touched: tuple[int, ...]
    placed: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class _Former:
    """The Pods of a Service as it was."""

    service: VpcService
    pods: Mapping[Key, _Read]


class Services:
    """``index`` is kept by the triggers."""

    def __init__(self, context: ReconcileContext, index: Index) -> None:
        self._context, self._index = context, index
        self._read: dict[Key, _Former] = {}
        self._labels: dict[str, dict[Key, tuple[int, Mapping[str, str]]]] = {}
        """Of a namespace's Pods, and when each had last changed. Pairs of Services and Pods would be too many."""

    async def reconcile(self, key: Key) -> None:
        caches = self._context.caches
        service = caches.services.get(key)
        if service is None or service.annotation is None:
            self._read.pop(key, None)
            if not self._index.annotated(key[0]):
                self._labels.pop(key[0], None)
        if service is None or caches.terminating(key[0]):
            return  # garbage collection deletes its slices
        present = [one for name in self._index.slices(key) if (one := caches.slices.get(name)) is not None]
        own = [one for one in present if one.owner == service.uid]
        wanted = {}
        if service.annotation is not None:
            try:
                self._check(service)
            except (Rejected, NotYet) as problem:
                self._record(service, problem)
            if service.excluded and service.headless and service.selector and self._valid(service):
                wanted = distinct(await self._placed(key, service))
        planned = plan(own, wanted)
        foreign = [one for one in present if one.owner != service.uid]
        await self._write(service, Plan(planned.changes, (*planned.surplus, *foreign)))

    async def _placed(self, key: Key, service: VpcService) -> list[Placed]:
        """The endpoints of all Pods that the Service selects. Of others nothing is kept."""
        former = self._read.get(key)
        before = former.pods if former is not None and former.service == service else {}
        after: dict[Key, _Read] = {}
        known, labels = self._labels.get(service.namespace, {}), dict[Key, tuple[int, Mapping[str, str]]]()
        for number, name in enumerate(self._index.pods(service.namespace), 1):
            if number % TURN == 0:
                await asyncio.sleep(0)
            labels[name] = self._labels_of(name, known.get(name))
            if not service.selects(labels[name][1]):
                continue
            read = before.get(name)
            if read is None or read.touched != self._touched(name, read.names):
                read = self._endpoints(service, name)
            after[name] = read
        self._labels[service.namespace] = labels
        self._read[key] = _Former(service, after)
        return [placed for read in after.values() for placed in read.placed]

    def _labels_of(
        self, pod: Key, known: tuple[int, Mapping[str, str]] | None
    ) -> tuple[int, Mapping[str, str]]:
        """The Pod's labels, and when it had last changed."""
        pods = self._context.caches.pods
        touched = pods.touched(pod)
        if known is not None and known[0] == touched:
            return known
        present = pods.get(pod)
        return touched, present.backend.labels if present is not None else {}

    def _touched(self, pod: Key, attachments: tuple[Key, ...]) -> tuple[int, ...]:
        caches = self._context.caches
        return caches.pods.touched(pod), *map(caches.attachments.touched, attachments)

    def _endpoints(self, service: VpcService, key: Key) -> _Read:
        """Those of one Pod."""
        caches = self._context.caches
        pod = caches.pods.get(key)
        if pod is None:
            return _Read((), self._touched(key, ()), ())
        names = tuple((key[0], name) for name in pod.attachments)
        attachments = [
            one for name in names if isinstance(one := caches.attachments.get(name), VpcAttachment)
        ]
        return _Read(names, self._touched(key, names), tuple(endpoints(service, pod, attachments)))

    @staticmethod
    def _valid(service: VpcService) -> bool:
        try:
            checked(service)
        except Rejected:
            return False
        return True

    def _check(self, service: VpcService) -> None:
        """Raises Rejected or NotYet where its user must act. Addresses of attached Pods stay published."""
        checked(service)
        exclusive(service)
        caches, name = self._context.caches, service.vpc
        vpc, namespace = caches.vpcs.get(name), caches.namespaces.get(("", service.namespace))
        if name[0] != service.namespace:
            labels = namespace.labels if namespace else None
            if not isinstance(vpc, Vpc) or not granted(vpc.spec.allowed_namespaces, False, labels):
                raise refusal(name, service.namespace, VPC_FIELD)
        elif vpc is None:
            message = f"{VPC_FIELD}: VPC {'/'.join(name)} does not exist; make it, or name another"
            raise NotYet(message, reason="VPCNotFound")

    def _record(self, service: VpcService, problem: Rejected | NotYet) -> None:
        meta = Meta(name=service.name, namespace=service.namespace, uid=service.uid)
        self._context.events.record(SERVICES, meta, "Warning", reason_of(problem), str(problem))

    async def _write(self, service: VpcService, planned: Plan) -> None:
        for change in planned.changes:
            try:
                await self._apply(service, change)
            except Terminating:
                return  # the Service goes with its namespace
        for surplus in planned.surplus:
            await self._context.api.delete(ENDPOINT_SLICES, surplus.name, surplus.namespace)

    async def _apply(self, service: VpcService, change: Change) -> None:
        api, slices, present = self._context.api, self._context.caches.slices, change.present
        if present is None:
            body = manifest(service, change, _letters)
            slices.set(await api.create(ENDPOINT_SLICES, body, service.namespace))
            return
        patch = {"metadata": {"resourceVersion": present.version}, "endpoints": list(change.endpoints)}
        try:
            slices.set(await api.patch(ENDPOINT_SLICES, present.name, patch, present.namespace))
        except NotFound:
            slices.remove((present.namespace, present.name))
            raise  # it was deleted, and is made again


def _letters() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(SUFFIX))

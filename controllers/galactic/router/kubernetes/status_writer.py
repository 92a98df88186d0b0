"""Writes each attachment's best path into ``VPCAttachment.status``: ``endpoint``, and the condition ``Conflict``.

Desired minus actual per attachment, where actual is the watch's cache: only differences are patched. Commits never wait
for it: names are queued, eight are written at once, each with the state at the time of the patch. While the API server
is unreachable all wait. One that it refuses is tried again by itself: an API server that has just started refuses what
it grants a moment later.

``Conflict`` has one writer at a time: the router while the attachment has an endpoint; the operator while it has none,
when the condition is about an address that another attachment was given.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.crds.model import parse
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Api, NotFound
from galactic.kube.conditions import CONFLICT, State, conditions, now
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.router.kubernetes.record import AttachmentRecord, RecordedEndpoint
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import EndpointPath, Identity
from galactic.router.rib.table import Conflict

log = structlog.get_logger(__name__)
AT_ONCE: Final = 8
BACKOFF_SECONDS: Final = (0.2, 10.0)


class Attachments(Protocol):
    """Actual; ``attachments.AttachmentIndex``."""

    def record(self, name: str) -> AttachmentRecord | None: ...

    def identity(self, name: str) -> Identity | None: ...


class Table(Protocol):
    """Desired; ``rib.vpc_tables.VpcTables``."""

    def best_path(self, attachment: Identity) -> EndpointPath | None: ...

    def conflicts(self, path: EndpointPath) -> list[Conflict]: ...


class Revisions(Protocol):
    """Of the tables as published; ``egress.fanout.Fanout``."""

    def revision(self, vpc: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Record:
    """The router's part of one attachment's status. ``conflict`` is empty where there is none."""

    endpoint: RecordedEndpoint | None
    conflict: str

    def same(self, other: "Record") -> bool:
        """Equal in all that the table decides."""
        return self.conflict == other.conflict and _identity(self.endpoint) == _identity(other.endpoint)


@dataclass(frozen=True, slots=True)
class Written:
    """A record on its way to the API server, and back by the watch.

    ``version``: the object's resource version with it; empty until the API server has answered. ``seen``: the newest
    that the watch delivered until then.
    """

    record: Record
    version: str = ""
    seen: str = ""


class StatusWriter:
    """Patches ``VPCAttachment.status``. ``enqueue`` notes a name, ``run`` works them off."""

    def __init__(
        self,
        api: Api,
        attachments: Attachments,
        table: Table,
        revisions: Revisions,
        metrics: RouterMetrics,
    ) -> None:
        self._api, self._attachments, self._table = api, attachments, table
        self._revisions, self._metrics = revisions, metrics
        self._leads = False
        self._queue: dict[str, None] = {}
        self._written: dict[str, Written] = {}  # until the watch shows it
        self._refused: dict[str, Backoff] = {}
        self._wake = asyncio.Event()

    def enqueue(self, names: Iterable[str]) -> None:
        """The table may have changed for these attachments."""
        if self._leads:
            self._queue.update(dict.fromkeys(names))
            self._count()
            self._wake.set()

    def lead(self, names: Iterable[str]) -> None:
        """Another router wrote until now: compares what all of these attachments have."""
        self._leads = True
        self.enqueue(names)

    def resign(self) -> None:
        """Another router writes from now on."""
        self._leads = False
        self._written.clear()
        self._queue.clear()
        self._refused.clear()
        self._count()

    def observed(self, name: str, version: str) -> None:
        """The watch delivered this attachment. An event from before a write does not undo what is known of that."""
        written = self._written.get(name)
        if written is not None and not written.version:
            self._written[name] = replace(written, seen=version)
        elif written is not None and not (version and _older(version, written.version)):
            del self._written[name]
        self.enqueue((name,))

    def disconnected(self) -> None:
        """The last writes may be lost: an API server that is restored from a copy counts from there."""
        self._written.clear()

    async def run(self) -> None:
        """Writes until cancelled. For one that leads."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            name = next(iter(self._queue))
            del self._queue[name]
            await asyncio.sleep(0)  # a new leader compares everything, with turns for others in between
            try:
                await self._write(name)
            except Unreachable as error:
                log.warning("status not written, trying again", attachment=name, error=str(error))
                self.enqueue((name,))
                await asyncio.sleep(backoff.pause())
                continue
            except NotFound:
                pass  # the watch will deliver that too
            except GalacticError as error:
                self._later(name, error)
            else:
                self._refused.pop(name, None)
            finally:
                self._count()
            backoff.succeeded()

    def _count(self) -> None:
        self._metrics.recording(len(self._queue) + len(self._refused))

    def _later(self, name: str, error: GalacticError) -> None:
        """A refusal concerns this attachment alone: the others do not wait."""
        seconds = self._refused.setdefault(name, Backoff(*BACKOFF_SECONDS)).pause()
        log.warning(
            "status refused by the API server, trying again",
            attachment=name,
            error=str(error),
            seconds=round(seconds, 1),
        )
        asyncio.get_running_loop().call_later(seconds, self.enqueue, (name,))

    async def _write(self, name: str) -> None:
        known = self._attachments.record(name)
        if known is None:
            self._written.pop(name, None)
            self._refused.pop(name, None)
            return
        written = self._written.get(name)
        actual = written.record if written else Record(known.endpoint, known.conflict)
        desired = self._desired(name, actual)
        if desired.same(actual):
            return
        body: dict[str, Any] = {"status": {}}
        if _identity(desired.endpoint) != _identity(actual.endpoint):
            body["status"]["endpoint"] = desired.endpoint and desired.endpoint.document()
        namespace, _, own_name = name.partition("/")
        if desired.conflict != actual.conflict:
            attachment = await self._stored(own_name, namespace)
            body["status"]["conditions"] = _conditions(attachment, desired.conflict)
            # A merge patch replaces the whole list: only if no other writer changed it since.
            body["metadata"] = {"resourceVersion": attachment.metadata.resource_version}
        self._written[name] = Written(desired)
        try:
            answer = await self._api.patch(VPC_ATTACHMENTS, own_name, body, namespace, subresource="status")
        except BaseException:
            self._written.pop(name, None)
            raise
        self._answered(name, answer["metadata"].get("resourceVersion", ""))
        log.info("status written", attachment=name, node=desired.endpoint.node if desired.endpoint else None)

    def _answered(self, name: str, version: str) -> None:
        written = self._written.get(name)
        if written is None:
            return
        if not written.seen or _older(written.seen, version):
            self._written[name] = replace(written, version=version)
        else:
            del self._written[name]
            self.enqueue((name,))

    async def _stored(self, name: str, namespace: str) -> VpcAttachment:
        """The whole object. Conflicts are rare, and the list of conditions is long. Raises NotFound."""
        found, _ = await self._api.list(VPC_ATTACHMENTS, namespace, fields=f"metadata.name={name}")
        if not found:
            raise NotFound(name)
        return parse(VpcAttachment, found[0])

    def _desired(self, name: str, actual: Record) -> Record:
        identity = self._attachments.identity(name)
        path = self._table.best_path(identity) if identity else None
        if identity is None or path is None or path.attachment != name:
            return Record(
                None, "" if actual.endpoint else actual.conflict
            )  # then the operator writes the condition
        conflicts = self._table.conflicts(path)
        lost = {conflict.network for conflict in conflicts}
        endpoint = RecordedEndpoint(
            cluster=path.origin.cluster,
            node=path.origin.node,
            sid=path.sid,
            networks=tuple(network for network in path.networks if network not in lost),
            epoch=path.epoch,
            revision=self._revisions.revision(path.vpc),
            since=_since(path, actual.endpoint),
        )
        return Record(endpoint, "; ".join(conflict.sentence for conflict in conflicts))


def _since(path: EndpointPath, before: RecordedEndpoint | None) -> str:
    same = before and (before.cluster, before.node, before.epoch) == (*path.origin, path.epoch)
    return before.since if before and same and before.since else now()


def _older(version: str, than: str) -> bool:
    """Resource versions of one kind are growing numbers. Of any others none is older."""
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _identity(endpoint: RecordedEndpoint | None) -> tuple[object, ...] | None:
    return None if endpoint is None else endpoint.identity


def _conditions(attachment: VpcAttachment, conflict: str) -> list[dict[str, Any]]:
    state = (
        State("True", "NetworkInUse", conflict)
        if conflict
        else State("False", "NoConflict", "no network is held by another attachment")
    )
    return conditions(attachment.status.conditions, {CONFLICT: state}, attachment.metadata.generation, now())

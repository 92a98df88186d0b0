"""Writes what the table says into ``VPCAttachment.status``: ``endpoint``, and the condition ``Conflict``.

Desired minus actual per attachment, where actual is the watch's cache: only what differs is patched, whoever made it
differ. Never in the way of the fast path: names are noted and worked off a few at a time, newest state at the time of
the patch. While the API server is away all wait. One that it refuses is tried again by itself: an API server that has
just started refuses what it grants a moment later.

``Conflict`` has one writer at a time: the router while the attachment has an endpoint, whoever wrote it before; the
operator while it has none, when it is about an address that another attachment was given.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from galactic.crds.vpcattachment import AttachedEndpoint, VpcAttachment
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Api, NotFound
from galactic.kube.conditions import CONFLICT, State, conditions, now
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import EndpointPath, Identity
from galactic.router.rib.table import Conflict

log = structlog.get_logger(__name__)
AT_ONCE: Final = 8
BACKOFF_SECONDS: Final = (0.2, 10.0)


class Attachments(Protocol):
    """What Kubernetes has."""

    def attachment(self, name: str) -> VpcAttachment | None: ...

    def identity(self, name: str) -> Identity | None: ...


class Table(Protocol):
    """What should be."""

    def endpoint(self, identity: Identity) -> EndpointPath | None: ...

    def conflicts(self, claim: EndpointPath) -> list[Conflict]: ...


@dataclass(frozen=True, slots=True)
class Record:
    """The router's part of one attachment's status. ``conflict`` is empty where there is none."""

    endpoint: AttachedEndpoint | None
    conflict: str

    def same(self, other: "Record") -> bool:
        """Equal in all that the table decides; when and at which revision it was recorded does not count."""
        return self.conflict == other.conflict and _identity(self.endpoint) == _identity(other.endpoint)


class StatusWriter:
    """Patches ``VPCAttachment.status``. ``due`` notes a name, ``run`` works them off for ever."""

    def __init__(
        self,
        api: Api,
        attachments: Attachments,
        table: Table,
        metrics: RouterMetrics,
        *,
        revision: Callable[[int], int],
        backoff: tuple[float, float] = BACKOFF_SECONDS,
    ) -> None:
        self._api, self._attachments, self._table, self._metrics = api, attachments, table, metrics
        self._revision, self._backoff = revision, backoff
        self._due: dict[str, None] = {}
        self._written: dict[str, Record] = {}  # until the watch shows it
        self._refused: dict[str, float] = {}  # seconds until each was, or is, tried again
        self._wake = asyncio.Event()

    def due(self, names: Iterable[str]) -> None:
        """The table may say something else about these attachments now."""
        self._due.update(dict.fromkeys(names))
        self._count()
        self._wake.set()

    def restart(self, names: Iterable[str]) -> None:
        """Another recorded until now: what it wrote is looked at, all of it."""
        self._written.clear()
        self._due.clear()
        self._refused.clear()
        self.due(names)

    def seen(self, name: str) -> None:
        """The watch told of this attachment: what was written is no longer better known than what it shows."""
        self._written.pop(name, None)
        self.due((name,))

    async def run(self) -> None:
        """Records for ever."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        pause, longest = self._backoff
        while True:
            while not self._due:
                self._wake.clear()
                await self._wake.wait()
            name = next(iter(self._due))
            del self._due[name]
            await asyncio.sleep(0)  # after a change of leaders everything is looked at: others want a turn
            try:
                await self._record(name)
            except Unreachable as error:
                log.warning("status not recorded yet", attachment=name, error=str(error))
                self.due((name,))
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            except NotFound:
                pass  # the watch will say so too
            except GalacticError as error:
                self._later(name, error)
            else:
                self._refused.pop(name, None)
            finally:
                self._count()
            pause = self._backoff[0]

    def _count(self) -> None:
        self._metrics.recording(len(self._due) + len(self._refused))

    def _later(self, name: str, error: GalacticError) -> None:
        """A refusal is this attachment's own: the others are not kept waiting."""
        first, longest = self._backoff
        seconds = min(self._refused.get(name, first / 2) * 2, longest)
        self._refused[name] = seconds
        log.warning("status refused, trying again", attachment=name, error=str(error), seconds=seconds)
        asyncio.get_running_loop().call_later(seconds, self.due, (name,))

    async def _record(self, name: str) -> None:
        found = self._attachments.attachment(name)
        if found is None:
            self._written.pop(name, None)
            self._refused.pop(name, None)
            return
        actual = self._written.get(name) or _recorded(found)
        desired = self._desired(name, actual)
        if desired.same(actual):
            return
        body: dict[str, Any] = {"status": {}}
        if _identity(desired.endpoint) != _identity(actual.endpoint):
            given = desired.endpoint.model_dump(mode="json", by_alias=True) if desired.endpoint else None
            body["status"]["endpoint"] = given
        if desired.conflict != actual.conflict:
            body["status"]["conditions"] = _conditions(found, desired.conflict)
            # A merge patch replaces the whole list: only if nobody else changed it since.
            body["metadata"] = {"resourceVersion": found.metadata.resource_version}
        self._written[name] = desired
        try:
            await self._api.patch(
                VPC_ATTACHMENTS, found.metadata.name, body, found.metadata.namespace, subresource="status"
            )
        except BaseException:
            self._written.pop(name, None)
            raise
        log.info("recorded", attachment=name, node=desired.endpoint.node if desired.endpoint else None)

    def _desired(self, name: str, actual: Record) -> Record:
        identity = self._attachments.identity(name)
        claim = self._table.endpoint(identity) if identity else None
        if identity is None or claim is None or claim.attachment != name:
            return Record(None, "" if actual.endpoint else actual.conflict)  # see above whose it is then
        conflicts = self._table.conflicts(claim)
        lost = {conflict.network for conflict in conflicts}
        endpoint = AttachedEndpoint(
            cluster=claim.origin.cluster,
            node=claim.origin.node,
            sid=claim.sid,
            networks=tuple(network for network in claim.networks if network not in lost),
            epoch=claim.epoch,
            revision=self._revision(claim.vpc),
            since=_since(claim, actual.endpoint),
        )
        return Record(endpoint, "; ".join(map(sentence, conflicts)))


def sentence(conflict: Conflict) -> str:
    """A conflict, for people."""
    has = conflict.holder
    return f"{conflict.network} is held by {has.attachment or has.sid} on node {has.origin.node}"


def _since(claim: EndpointPath, before: AttachedEndpoint | None) -> str:
    there = before and (before.cluster, before.node, before.epoch) == (*claim.origin, claim.epoch)
    return before.since if before and there and before.since else now()


def _recorded(attachment: VpcAttachment) -> Record:
    messages = [
        it.message for it in attachment.status.conditions if it.type == CONFLICT and it.status == "True"
    ]
    return Record(attachment.status.endpoint, messages[0] if messages else "")


def _identity(endpoint: AttachedEndpoint | None) -> tuple[object, ...] | None:
    if endpoint is None:
        return None
    return endpoint.cluster, endpoint.node, endpoint.sid, endpoint.networks, endpoint.epoch


def _conditions(attachment: VpcAttachment, conflict: str) -> list[dict[str, Any]]:
    state = (
        State("True", "NetworkInUse", conflict)
        if conflict
        else State("False", "NoConflict", "no network is held by another attachment")
    )
    return conditions(attachment.status.conditions, {CONFLICT: state}, attachment.metadata.generation, now())

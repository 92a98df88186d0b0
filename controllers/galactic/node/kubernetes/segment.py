"""The node's own NodeSegment: the node reads its prefix from it, and writes endpoints and conditions to its status.

The status is durable truth: the route table is a function of all of them. So the node writes until it succeeds. It
sends only changed fields, as a merge patch; lists are replaced whole. The list of conditions has two writers, so the
patch names the version that it was made from: the operator's change in between is neither lost nor taken back.
Endpoints are written once all attachments are known: until then those of the node's last life stay, because they may be
all that is left of it (``unaccounted``). Nothing in the status depends on other nodes' pods: one change would make each
node of the VPC write.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from galactic import names, srv6
from galactic.backoff import Backoff
from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint, SegmentStatus
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api, Conflict, Key, NotFound, Object
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NODE_SEGMENTS
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS: Final = 0.1
BACKOFF_SECONDS: Final = (0.5, 30.0)
REFRESH_SECONDS: Final = 10.0
"""Between updates of counts and conditions."""
THEIRS: Final = frozenset({"Accepted"})
"""Conditions that the operator writes and removes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The parts of the status that are not in the store."""

    node: Mapping[str, str]  # kernel, version, encap
    conditions: tuple[ConditionState, ...]


class Segment:
    """Reads the NodeSegment named ``node`` and writes its status."""

    def __init__(
        self,
        api: Api,
        node: str,
        store: Store,
        facts: Callable[[], Facts],
    ) -> None:
        self._api, self._node, self._store, self._facts = api, node, store, facts
        self._changed = store.watch()
        self._status: Mapping[str, Any] | None = None  # as the API server has it; None: no such object
        self._version = ""
        self.reachable = False
        self._invalid: str | None = None
        self._informer = Informer(
            api,
            Selection(NODE_SEGMENTS, fields=f"metadata.name={node}"),
            self._on_change,
            connection=self._connection,
        )

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="NodeSegment")
            tasks.create_task(self._report_missing(), name="NodeSegment missing")
            tasks.create_task(self._write(), name="NodeSegment status")

    def write_now(self) -> None:
        """A condition turned: the status is not to wait for the next refresh."""
        self._changed.set()

    @property
    def problem(self) -> str | None:
        """Why the NodeSegment gives the node no prefix, in words."""
        if not self._informer.synced.is_set():
            return "its NodeSegment was not read yet"
        if not self.reachable:
            return "kube-apiserver does not answer"
        if self._status is None:
            return (
                f"there is no NodeSegment {self._node}: make one, or give the Node {self._node} the annotation "
                f"{names.PREFIX_ANNOTATION}"
            )
        return self._invalid

    @property
    def endpoints(self) -> tuple[SegmentEndpoint, ...] | None:
        """The endpoints in the status; None while the NodeSegment was not read, or is gone. Raises Rejected."""
        if self._status is None:
            return None
        given = {name: self._status[name] for name in ("endpoints",) if name in self._status}
        return parse(SegmentStatus, given).endpoints

    def _connection(self, connected: bool) -> None:
        self.reachable = connected

    async def _report_missing(self) -> None:
        await self._informer.synced.wait()
        if self._status is None:
            log.warning("waiting for the NodeSegment", problem=self.problem)

    def _on_change(self, key: Key, old: Object | None, new: Object | None) -> None:
        del old
        if key[1] != self._node:
            return
        if new is None:
            self._status = None
            log.warning("waiting for the NodeSegment", problem=self.problem)
            return
        self._remember(new)
        self._changed.set()
        try:
            segment = parse(NodeSegment, new)
            self._observe(segment.status)
            self._store.set_prefix(srv6.parse_prefix(segment.spec.prefix))
        except Rejected as error:
            self._invalid = f"NodeSegment {self._node}: {error}"
            log.warning("NodeSegment is not valid", error=str(error))
        except GalacticError as error:
            self._invalid = str(error)
            log.warning("node prefix not applied", error=str(error))
        else:
            self._invalid = None

    def _remember(self, segment: Object) -> None:
        self._status = segment.get("status") or {}
        self._version = segment["metadata"].get("resourceVersion", "")

    def _on_answer(self, segment: Object) -> None:
        """The answer to a patch. The watch may have brought a later version before, or the object's end."""
        version = segment["metadata"].get("resourceVersion", "")
        if self._status is not None and not _older(version, self._version):
            self._remember(segment)

    def _observe(self, status: SegmentStatus) -> None:
        """The numbers of an earlier life. Those of this life come back as well, and are not newer."""
        highest = max([status.sequence, *(endpoint.epoch for endpoint in status.endpoints)])
        if highest > self._store.node.sequence:
            self._store.observe(highest)

    async def _write(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
            except TimeoutError:
                pass
            self._changed.clear()
            if self._status is None:
                continue
            patch = difference(self._wanted(), self._status)
            if not patch:
                continue
            try:
                await self._send(patch)
            except NotFound:
                continue  # the informer calls when it is back
            except GalacticError as error:
                pause = backoff.pause()
                log.warning("NodeSegment status not written, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                self._changed.set()
            else:
                backoff.succeeded()

    async def _send(self, status: dict[str, Any]) -> None:
        """After a conflict, conditions wait until the informer has brought the newer version; the rest does not."""
        patch: dict[str, Any] = {"status": status}
        if "conditions" in status and self._version:
            patch["metadata"] = {"resourceVersion": self._version}
        try:
            self._on_answer(await self._api.patch(NODE_SEGMENTS, self._node, patch, subresource="status"))
        except Conflict:
            if rest := {name: value for name, value in status.items() if name != "conditions"}:
                await self._api.patch(NODE_SEGMENTS, self._node, {"status": rest}, subresource="status")

    def _wanted(self) -> dict[str, Any]:
        facts, store, known = self._facts(), self._store, self._status or {}
        wanted: dict[str, Any] = {
            "conditions": conditions(facts.conditions, known.get("conditions") or ()),
            "node": dict(facts.node),
        }
        registration = store.registration() if store.attachments.complete else None
        if registration and store.node.prefix:
            wanted["counts"] = {
                "vpcs": len(store.attachments.hosted),
                "endpoints": len(store.attachments),
            }
            if (known.get("counts") or {}).get("routes") is not None:
                wanted["counts"]["routes"] = None  # of an earlier version; in a merge patch, null removes it
            gateways = {"gateways": store.gateways.leading, "published": store.gateways.publishing}
            wanted |= {
                name: list(texts)
                for name, texts in gateways.items()
                if texts is not None and (texts or known.get(name))
            }
            wanted["loopback"] = str(srv6.loopback(store.node.prefix))
            wanted["endpoints"] = [
                {
                    "vpc": endpoint.vpc,
                    "function": endpoint.function,
                    "attachment": endpoint.attachment,
                    "sid": endpoint.sid,
                    "networks": list(endpoint.networks),
                    "containerID": attachment.container,
                    "ifname": attachment.ifname,
                    "netns": attachment.netns,
                    "epoch": endpoint.epoch,
                }
                for endpoint in registration.endpoints
                for attachment in (store.attachments[int(endpoint.vpc, 16), int(endpoint.function, 16)],)
            ]
            same = wanted["endpoints"] == (known.get("endpoints") or []) and "sequence" in known
            wanted["sequence"] = known["sequence"] if same else registration.sequence
        return wanted


def _older(version: str, known: str) -> bool:
    """Resource versions of one object are numbers that grow; where they are not, they have no order."""
    return version.isdigit() and known.isdigit() and int(version) < int(known)


def difference(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) that makes ``known`` have every field of ``wanted``."""
    return {name: value for name, value in wanted.items() if known.get(name) != value}


def conditions(states: tuple[ConditionState, ...], known: Any) -> list[dict[str, Any]]:
    """The conditions to write, and THEIRS as they are. A transition time changes only with its status."""
    before = {condition.get("type"): condition for condition in known}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    result = [dict(condition) for condition in known if condition.get("type") in THEIRS]
    for state in states:
        status = "True" if state.status else "False"
        old = before.get(state.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        result.append(
            {
                "type": state.type,
                "status": status,
                "reason": state.reason,
                "message": state.message,
                "lastTransitionTime": since or now,
            }
        )
    return result

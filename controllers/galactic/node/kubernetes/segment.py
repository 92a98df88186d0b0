"""The node's own NodeSegment: its prefix is read from it, what is attached is written to its status.

The status is durable truth (the route table is a function of all of them), so it is written until it is. Only what
changed is sent, as a merge patch; lists are replaced whole. The list of conditions has two writers, so it is written
only onto the version that it was made from: another's word in between is neither lost nor taken back. Endpoints are
written once all that is attached is known: until then those of the node's last life stay, because they may be all that
is left of it (``recovery``).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from galactic import names, srv6
from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint, SegmentStatus
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Conflict, Key, NotFound, Object
from galactic.kube.client import Kube
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NODE_SEGMENTS
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
DEBOUNCE_SECONDS: Final = 0.1
BACKOFF_SECONDS: Final = (0.5, 30.0)
REFRESH_SECONDS: Final = 10.0
"""How often counts and conditions are looked at again."""
THEIRS: Final = frozenset({"Accepted"})
"""Conditions that the operator writes, and takes away."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the controller knows beyond the store."""

    node: Mapping[str, str]  # kernel, version, encap
    routes: int  # remote routes in the kernel
    findings: tuple[ConditionState, ...]


class Segment:
    """Reads the NodeSegment named ``node`` and writes its status."""

    def __init__(
        self,
        kube: Kube,
        node: str,
        store: Store,
        facts: Callable[[], Facts],
    ) -> None:
        self._kube, self._node, self._store, self._facts = kube, node, store, facts
        self._changed = store.watch()
        self._status: Mapping[str, Any] | None = None  # as the API server has it; None: no such object
        self._version = ""
        self.reachable = False
        self._unusable: str | None = None
        self._informer = Informer(
            kube,
            Selection(NODE_SEGMENTS, fields=f"metadata.name={node}"),
            self._take,
            connection=self._connection,
        )

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="NodeSegment")
            tasks.create_task(self._missing(), name="NodeSegment missing")
            tasks.create_task(self._write(), name="NodeSegment status")

    def look(self) -> None:
        """A condition turned: the status is written now, and not with the next refresh."""
        self._changed.set()

    @property
    def problem(self) -> str | None:
        """Why the prefix is not taken from the NodeSegment, in words."""
        if not self._informer.synced.is_set():
            return "its NodeSegment was not read yet"
        if not self.reachable:
            return "kube-apiserver does not answer"
        if self._status is None:
            return (
                f"there is no NodeSegment {self._node}: make one, or give the Node {self._node} the annotation "
                f"{names.PREFIX_ANNOTATION}"
            )
        return self._unusable

    @property
    def endpoints(self) -> tuple[SegmentEndpoint, ...] | None:
        """What the API server has as attached here; None while that is not known. Raises Rejected."""
        if self._status is None:
            return None
        given = {name: self._status[name] for name in ("endpoints",) if name in self._status}
        return parse(SegmentStatus, given).endpoints

    def _connection(self, connected: bool) -> None:
        self.reachable = connected

    async def _missing(self) -> None:
        await self._informer.synced.wait()
        if self._status is None:
            log.warning("waiting for this node's NodeSegment", problem=self.problem)

    def _take(self, key: Key, old: Object | None, new: Object | None) -> None:
        del old  # only what is counts
        if key[1] != self._node:
            return
        if new is None:
            self._status = None
            log.warning("waiting for this node's NodeSegment", problem=self.problem)
            return
        self._know(new)
        self._changed.set()
        try:
            segment = parse(NodeSegment, new)
            self._observe(segment.status)
            self._store.set_prefix(srv6.parse_prefix(segment.spec.prefix))
        except Rejected as error:
            self._unusable = f"NodeSegment {self._node}: {error}"
            log.warning("this node's NodeSegment is not usable", error=str(error))
        except GalacticError as error:
            self._unusable = str(error)
            log.warning("this node's prefix is not taken over", error=str(error))
        else:
            self._unusable = None

    def _know(self, thing: Object) -> None:
        self._status = thing.get("status") or {}
        self._version = thing["metadata"].get("resourceVersion", "")

    def _answered(self, thing: Object) -> None:
        """What became of a patch. The watch may have been quicker with what came after it, or with the end of all."""
        version = thing["metadata"].get("resourceVersion", "")
        if self._status is not None and not _older(version, self._version):
            self._know(thing)

    def _observe(self, status: SegmentStatus) -> None:
        """What an earlier life said last. Our own words come back as well, and are not newer than we are."""
        said = max([status.sequence, *(endpoint.epoch for endpoint in status.endpoints)])
        if said > self._store.node.sequence:
            self._store.observe(said)

    async def _write(self) -> None:
        pause = BACKOFF_SECONDS[0]
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
                continue  # the informer tells when it is back
            except GalacticError as error:
                log.warning("status not written, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                self._changed.set()
            else:
                pause = BACKOFF_SECONDS[0]

    async def _send(self, status: dict[str, Any]) -> None:
        """Conditions that were overtaken wait until the informer has told of what overtook them; the rest does not."""
        patch: dict[str, Any] = {"status": status}
        if "conditions" in status and self._version:
            patch["metadata"] = {"resourceVersion": self._version}
        try:
            self._answered(await self._kube.patch(NODE_SEGMENTS, self._node, patch, subresource="status"))
        except Conflict:
            if rest := {name: value for name, value in status.items() if name != "conditions"}:
                await self._kube.patch(NODE_SEGMENTS, self._node, {"status": rest}, subresource="status")

    def _wanted(self) -> dict[str, Any]:
        facts = self._facts()
        store, known = self._store, self._status or {}
        wanted: dict[str, Any] = {
            "conditions": conditions(facts.findings, known.get("conditions") or ()),
            "node": dict(facts.node),
        }
        announcement = store.registration() if store.attachments.complete else None
        if announcement and store.node.prefix:
            wanted["counts"] = {
                "vpcs": len(store.attachments.hosted),
                "endpoints": len(store.attachments),
                "routes": facts.routes,
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
                for endpoint in announcement.endpoints
                for attachment in (store.attachments[int(endpoint.vpc, 16), int(endpoint.function, 16)],)
            ]
            same = wanted["endpoints"] == (known.get("endpoints") or []) and "sequence" in known
            wanted["sequence"] = known["sequence"] if same else announcement.sequence
        return wanted


def _older(version: str, known: str) -> bool:
    """Resource versions of one object are numbers that grow; where they are not, nothing is known."""
    return version.isdigit() and known.isdigit() and int(version) < int(known)


def difference(wanted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) that makes ``known`` have every field of ``wanted``."""
    return {name: value for name, value in wanted.items() if known.get(name) != value}


def conditions(findings: tuple[ConditionState, ...], known: Any) -> list[dict[str, Any]]:
    """The conditions to write, and THEIRS as they are. A transition time changes only with its status."""
    before = {each.get("type"): each for each in known}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    result = [dict(each) for each in known if each.get("type") in THEIRS]
    for finding in findings:
        status = "True" if finding.status else "False"
        old = before.get(finding.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        result.append(
            {
                "type": finding.type,
                "status": status,
                "reason": finding.reason,
                "message": finding.message,
                "lastTransitionTime": since or now,
            }
        )
    return result

"""Attachments whose records are lost while the kernel still has them, told by the node's own NodeSegment.

The kernel says that there is a host end, not which pod is behind it. The NodeSegment says container, interface,
namespace and epoch, the attachment's definition the rest. Until both were read nothing of such an orphan's VPC is
deleted, and nobody is told what is attached here; then it is taken in again, or is nobody's and goes.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from galactic.crds.nodesegment import SegmentEndpoint
from galactic.errors import GalacticError, NotYet, Rejected
from galactic.kube.api import Api
from galactic.kube.resources import NADS
from galactic.names import function_hex, vpc_hex
from galactic.node.kubernetes.definitions import configured
from galactic.node.state.attachment import Attachment, Key

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)
OWN_NAMESPACE: Final = "/proc/self/ns/net"


class Unaccounted(Protocol):
    """Where they are kept. ``galactic.node.state.store.Store`` is the real one."""

    orphans: set[Key] | None

    def watch(self) -> asyncio.Event: ...

    def amend(self, attachment: Attachment) -> None:
        """Takes it in, with the epoch it has."""

    def disown(self, keys: Iterable[Key]) -> None:
        """Nobody's: they may go."""


class Recovery:
    """Finds out about orphans. ``endpoints`` is what the NodeSegment has, None while that was not read."""

    def __init__(
        self, api: Api, store: Unaccounted, endpoints: Callable[[], tuple[SegmentEndpoint, ...] | None]
    ) -> None:
        self._api, self._store, self._endpoints = api, store, endpoints
        self._changed = store.watch()
        self.problem: str | None = None

    async def run(self) -> None:
        """Until all are accounted for."""
        pause = BACKOFF_SECONDS[0]
        while self._store.orphans is None:
            await self._changed.wait()
            self._changed.clear()
        while self._store.orphans:
            try:
                await self._settle(set(self._store.orphans))
            except GalacticError as error:
                self.problem = f"{len(self._store.orphans)} attachments without a record: {error}"
                log.warning("lost attachments are not known yet", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
        self.problem = None

    async def _settle(self, orphans: set[Key]) -> None:
        told = self._endpoints()
        if told is None:
            raise NotYet("the node's NodeSegment was not read yet")
        known = {(each.vpc, each.function): each for each in told if each.container_id}
        for key in sorted(orphans):
            endpoint = known.get((vpc_hex(key[0]), function_hex(key[1])))
            try:
                found = await self._attachment(key, endpoint) if endpoint else None
            except Rejected as error:
                log.warning("not understood", attachment=endpoint and endpoint.attachment, error=str(error))
                found = None
            if found is None:
                log.warning(
                    "an attachment that nobody knows goes", vpc=vpc_hex(key[0]), function=function_hex(key[1])
                )
                self._store.disown((key,))
            elif self._store.orphans and key in self._store.orphans:  # and not detached meanwhile
                log.info("attached in an earlier life", attachment=found.name, container=found.container)
                self._store.amend(found)

    async def _attachment(self, key: Key, endpoint: SegmentEndpoint) -> Attachment | None:
        namespace, _, name = endpoint.attachment.partition("/")
        definition = await self._api.find(NADS, name, namespace)
        if definition is None:
            return None  # nor does the router know it
        if not endpoint.netns or _is_own(endpoint.netns):
            raise Rejected(f"{endpoint.netns!r} is no pod's namespace", field="status.endpoints.netns")
        config = str((definition.get("spec") or {}).get("config"))
        found = configured(config, key, endpoint.container_id, endpoint.netns, endpoint.ifname)
        return replace(found, epoch=endpoint.epoch)


def _is_own(netns: str) -> bool:
    try:
        return Path(netns).samefile(OWN_NAMESPACE)
    except OSError:
        return False

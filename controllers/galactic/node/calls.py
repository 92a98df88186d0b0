"""What each CNI verb does: desired state set and, where the caller waits for it, seen in the kernel."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from galactic.errors import GalacticError, NotYet, Unreachable
from galactic.node import cni
from galactic.node.attachment import Attachment, Key, attachment, plugin_config
from galactic.node.cni import Failure, Request
from galactic.node.store import Store
from galactic.node.sync import Sync

log = structlog.get_logger(__name__)
SETTLE_SECONDS: Final = 15.0
"""The kernel gets that long; the plugin gives up after 20."""


class Calls:
    """The five verbs. ``problem`` says why ADD is not possible now, None when it is."""

    def __init__(
        self,
        store: Store,
        sync: Sync,
        problem: Callable[[], str | None],
        exists: Callable[[str], bool] = os.path.exists,
    ) -> None:
        self._store, self._sync, self._problem, self._exists = store, sync, problem, exists
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, request: Request) -> dict[str, Any] | None:
        """The body of the reply; None where success says it all. Raises GalacticError."""
        match request.verb:
            case "add":
                return await self._add(request)
            case "del":
                await self._delete(request)
            case "check":
                await self._check(request)
            case "gc":
                await self._collect(request)
            case _:
                self._status()
        return None

    async def _add(self, request: Request) -> dict[str, Any]:
        wanted = attachment(plugin_config(request.config), request.container, request.netns, request.ifname)
        if problem := self._problem():
            raise NotYet(problem)
        async with self._locks.setdefault(wanted.key, asyncio.Lock()):
            held = self._store.attachments.get(wanted.key)
            if held and not held.same_pod(request.container, request.ifname):
                await self._replace(held)
                held = None
            if held:
                wanted = replace(wanted, epoch=held.epoch, settled=held.settled)
                if wanted != held:
                    self._store.amend(wanted)
            else:
                wanted = self._store.attach(wanted)
            try:
                await self._settle(wanted.key)
            except GalacticError:
                if held is None:
                    self._store.detach(wanted.key)
                raise
        if wanted.key not in self._store.attachments:
            raise NotYet("it was detached again meanwhile")
        log.info(
            "attached",
            attachment=wanted.name,
            pod=request.pod,
            container=request.container,
            epoch=wanted.epoch,
        )
        return cni.result(wanted, request.version)

    async def _replace(self, held: Attachment) -> None:
        """The holder gives way if its namespace is gone. A live one keeps the attachment."""
        if self._exists(held.netns):
            raise NotYet(
                f"attachment {held.name or held.key} is held by container {held.container} on this node, "
                f"which is still there"
            )
        log.warning(
            "taking the attachment of a pod that is gone", attachment=held.name, container=held.container
        )
        self._store.detach(held.key)

    async def _delete(self, request: Request) -> None:
        """Succeeds whatever was there. The kernel is waited for, but a failure there is the sync's to mend."""
        for held in self._of_pod(request.container, request.ifname):
            self._store.detach(held.key)
            log.info("detached", attachment=held.name, pod=request.pod, container=request.container)
            try:
                await self._settle(held.key)
            except GalacticError as error:
                log.warning("detached, but not yet from the kernel", attachment=held.name, error=str(error))

    def forget(self, request: Request) -> None:
        """A DEL of the time when we were away: as ``_delete``, without waiting."""
        for held in self._of_pod(request.container, request.ifname):
            self._store.detach(held.key)
            log.info("detached late", attachment=held.name, pod=request.pod, container=request.container)

    async def _check(self, request: Request) -> None:
        key = plugin_config(request.config).key
        held = self._store.attachments.get(key)
        if held is None or not held.same_pod(request.container, request.ifname):
            raise Failure(cni.NOT_AS_IT_SHOULD_BE, f"container {request.container} is not attached")
        if missing := await self._sync.lacking(held):
            raise Failure(cni.NOT_AS_IT_SHOULD_BE, "not in the kernel as it should be", ", ".join(missing))

    async def _collect(self, request: Request) -> None:
        """Detaches whatever of this network's is not listed as valid."""
        config = plugin_config(request.config)
        valid = {(each.container, each.ifname) for each in config.valid}
        held = self._store.attachments.get(config.key)
        if held and (held.container, held.ifname) not in valid:
            self._store.detach(held.key)
            log.info("detached by garbage collection", attachment=held.name, container=held.container)
            await self._settle(held.key)

    def _status(self) -> None:
        if problem := self._problem():
            raise Failure(cni.NOT_AVAILABLE, problem)

    def _of_pod(self, container: str, ifname: str) -> list[Attachment]:
        return [each for each in self._store.attachments.values() if each.same_pod(container, ifname)]

    async def _settle(self, key: Key) -> None:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._sync.settle(key)
        except TimeoutError:
            raise Unreachable("kernel", f"not done within {SETTLE_SECONDS:g} s") from None

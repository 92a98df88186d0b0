"""What each CNI verb does: desired state set and, where the caller waits for it, seen in the kernel."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from galactic import names
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.node.cni import protocol
from galactic.node.cni.protocol import Failure, Request
from galactic.node.cni.results import differences, result
from galactic.node.dataplane.sandbox import alive, device
from galactic.node.dataplane.sync import Sync
from galactic.node.state.attachment import Attachment, Key, attachment, plugin_config
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
SETTLE_SECONDS: Final = 17.0
"""The kernel gets that long; the plugin gives up after 20."""
UNDO_SECONDS: Final = 2.0
"""What failed gets that long to be gone before the caller is told."""


class Calls:
    """The five verbs. ``problem`` says why ADD is not possible now, None when it is; ``alive`` whether a pod's network
    namespace is at a path.
    """

    def __init__(
        self,
        store: Store,
        sync: Sync,
        problem: Callable[[], str | None],
        alive: Callable[[str], bool] = alive,
    ) -> None:
        self._store, self._sync, self._problem, self._alive = store, sync, problem, alive
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, request: Request) -> dict[str, Any] | None:
        """The body of the reply; None where success says it all. Raises GalacticError. When it is cancelled because the
        caller has gone, what an ADD began is undone.
        """
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
        config = plugin_config(request.config)
        protocol.supported(request.config)
        wanted = attachment(config, request.container, request.netns, request.ifname)
        if problem := self._problem():
            raise NotYet(problem)
        if not self._alive(wanted.netns):
            raise Failure(
                protocol.INVALID_ENVIRONMENT, f"CNI_NETNS: there is no pod's namespace at {wanted.netns}"
            )
        try:
            async with (
                asyncio.timeout(SETTLE_SECONDS),
                self._locks.setdefault(wanted.key, asyncio.Lock()),
            ):
                wanted = await self._attach(wanted)
        except TimeoutError:
            await self._gone(wanted.key)
            raise Unreachable("kernel", f"not done within {SETTLE_SECONDS:g} s") from None
        except GalacticError:
            await self._gone(wanted.key)
            raise
        log.info(
            "attached",
            attachment=wanted.name,
            pod=request.pod,
            container=request.container,
            epoch=wanted.epoch,
        )
        ends = device(names.host_end(*wanted.key)), device(wanted.ifname, wanted.netns)
        return result(wanted, request.version, ends, config.dns, config.previous)

    async def _attach(self, wanted: Attachment) -> Attachment:
        """In the kernel, with its epoch; or, however this ends, as it was before."""
        held = self._store.attachments.get(wanted.key)
        if held and not held.same_pod(wanted.container, wanted.ifname):
            self._give_way(held)
            held = None
        for other in self._store.attachments.beside(wanted):
            if (other.container, other.vpc) == (wanted.container, wanted.vpc):
                raise Rejected(
                    f"the pod is in this VPC already, with {other.ifname} ({other.name}): one interface of a pod "
                    "for each VPC; give one attachment both addresses",
                    field="vpc",
                )
        try:
            if held is None:
                wanted = self._store.attach(wanted)
            else:
                wanted = replace(wanted, epoch=held.epoch, settled=held.settled)
                if wanted != held:
                    self._store.amend(wanted)
            await self._sync.wait_applied(wanted.key)
        except BaseException:
            self._restore(wanted.key, held)
            raise
        if wanted.key not in self._store.attachments:
            raise NotYet("it was detached again meanwhile")
        return wanted

    def _restore(self, key: Key, held: Attachment | None) -> None:
        now = self._store.attachments.get(key)
        if now is None:
            return  # it was never taken in, or detached meanwhile
        if held is None:
            self._store.detach(key)
        elif now != held:
            self._store.amend(held)

    def _give_way(self, held: Attachment) -> None:
        """The holder goes if its namespace is gone. Raises NotYet: a live one keeps the attachment."""
        if self._alive(held.netns):
            raise NotYet(
                f"attachment {held.name or held.key} is held by container {held.container} on this node, "
                f"which is still there"
            )
        log.warning(
            "taking the attachment of a pod that is gone", attachment=held.name, container=held.container
        )
        self._store.detach(held.key)

    async def _gone(self, key: Key) -> None:
        """A while for what was undone to leave the kernel. The sync goes on trying if that is not enough."""
        if key not in self._store.attachments:
            with suppress(GalacticError, TimeoutError):
                async with asyncio.timeout(UNDO_SECONDS):
                    await self._sync.wait_applied(key)

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
        config = plugin_config(request.config)
        if config.previous is None:
            raise Failure(protocol.INVALID_CONFIG, "prevResult: CHECK needs the result of the ADD")
        held = self._store.attachments.get(config.key)
        if held is None or not held.same_pod(request.container, request.ifname):
            raise Failure(protocol.NOT_AS_IT_SHOULD_BE, f"container {request.container} is not attached")
        if held.netns != request.netns:
            raise Failure(
                protocol.NOT_AS_IT_SHOULD_BE, f"container {request.container} was attached in {held.netns}"
            )
        if wrong := differences(config.previous, held):
            raise Failure(protocol.NOT_AS_IT_SHOULD_BE, "not what prevResult says", ", ".join(wrong))
        if missing := await self._sync.missing(held):
            raise Failure(
                protocol.NOT_AS_IT_SHOULD_BE, "not in the kernel as it should be", ", ".join(missing)
            )

    async def _collect(self, request: Request) -> None:
        """Detaches whatever of this network's is not listed as valid: a network of ours is one attachment."""
        config = plugin_config(request.config)
        valid = config.valid
        held = self._store.attachments.get(config.key)
        if held and (held.container, held.ifname) not in valid:
            self._store.detach(held.key)
            log.info("detached by garbage collection", attachment=held.name, container=held.container)
            await self._settle(held.key)

    def _status(self) -> None:
        """Raises Failure: 51 once pods are attached here and the node was fine, so that they may suffer as well."""
        if problem := self._problem():
            worse = self._sync.ready.is_set() and self._store.attachments
            raise Failure(protocol.NOT_AVAILABLE_AND_LIMITED if worse else protocol.NOT_AVAILABLE, problem)

    def _of_pod(self, container: str, ifname: str) -> list[Attachment]:
        return [each for each in self._store.attachments.values() if each.same_pod(container, ifname)]

    async def _settle(self, key: Key) -> None:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._sync.wait_applied(key)
        except TimeoutError:
            raise Unreachable("kernel", f"not done within {SETTLE_SECONDS:g} s") from None

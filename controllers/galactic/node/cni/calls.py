"""The CNI verbs: each sets the desired state and, where the caller waits for it, waits until the kernel has it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import structlog

from galactic import names
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.node.cni import protocol
from galactic.node.cni.protocol import Failure, Request
from galactic.node.cni.results import differences, result
from galactic.node.dataplane.sandbox import absence, alive, device
from galactic.node.dataplane.sync import Sync
from galactic.node.state.attachment import (
    Attachment,
    Key,
    PluginConfig,
    PodRef,
    attachment_of,
    plugin_config,
)
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
APPLY_SECONDS: Final = 17.0
"""For the desired state to be in the kernel; the plugin gives up after 20 s."""
UNDO_SECONDS: Final = 2.0
"""For a failed ADD to leave the kernel before the caller gets the error."""


class Authority(Protocol):
    """Decides which pod an attachment attaches. ``galactic.node.kubernetes.tasks.KubernetesTasks`` is the real one."""

    async def entitled(self, pod: PodRef, name: str) -> PluginConfig:
        """The configuration that the attachment (namespace/name) gives that pod. Raises Rejected or NotYet."""


class Enforced(Protocol):
    """The rules of attachments. ``galactic.node.policies.enforcement.Enforcement`` is the real one."""

    def admitting(self, attachment: Attachment, slices: tuple[str, ...]) -> AbstractContextManager[None]:
        """Within it the rules of a pod that is about to be attached are wanted."""

    async def enforced(self, key: Key) -> None:
        """Returns when they are in the kernel. Raises NotYet or Unreachable."""


class Unruled:
    """A node without rules."""

    def admitting(self, _attachment: Attachment, _slices: tuple[str, ...]) -> AbstractContextManager[None]:
        return nullcontext()

    async def enforced(self, _key: Key) -> None: ...


class Calls:
    """The five verbs. ``problem``: why ADD is not possible now, None when it is; ``alive``: whether a pod's network
    namespace is at a path. Of an ADD's configuration only the attachment's name, ``dns`` and ``prevResult`` are used.
    """

    def __init__(
        self,
        store: Store,
        sync: Sync,
        authority: Authority,
        problem: Callable[[], str | None],
        alive: Callable[[str], bool] = alive,
        *,
        rules: Enforced | None = None,
    ) -> None:
        self._store, self._sync, self._authority = store, sync, authority
        self._problem, self._alive, self._rules = problem, alive, rules or Unruled()
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, request: Request) -> dict[str, Any] | None:
        """The body of the reply; None for an empty one. Raises GalacticError. An ADD that is cancelled because its
        caller has gone is undone.
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
        hint = plugin_config(request.config)
        protocol.supported(request.config)
        if problem := self._problem():
            raise NotYet(problem)
        deadline = asyncio.get_running_loop().time() + APPLY_SECONDS
        config = await self._authority.entitled(request.pod, hint.attachment)
        attachment = attachment_of(config, request.container, request.netns, request.ifname)
        attachment = replace(attachment, pod=request.pod.uid)
        if not self._alive(attachment.netns):
            raise Failure(
                protocol.INVALID_ENVIRONMENT,
                f"CNI_NETNS: {absence(attachment.netns)}",
            )
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._locks.setdefault(attachment.key, asyncio.Lock()),
            ):
                with self._rules.admitting(attachment, config.policies):
                    await self._rules.enforced(attachment.key)
                    attachment = await self._attach(attachment)
        except TimeoutError:
            await self._wait_undone(attachment.key)
            raise Unreachable("kernel", f"not done within {APPLY_SECONDS:g} s") from None
        except GalacticError:
            await self._wait_undone(attachment.key)
            raise
        log.info(
            "attached",
            attachment=attachment.name,
            pod=str(request.pod),
            container=request.container,
            epoch=attachment.epoch,
        )
        ends = device(names.host_end(*attachment.key)), device(attachment.ifname, attachment.netns)
        return result(attachment, request.version, ends, hint.dns, hint.previous)

    async def _attach(self, attachment: Attachment) -> Attachment:
        """The attachment with its epoch, in the kernel. When this raises, the store is as it was before."""
        existing = self._store.attachments.get(attachment.key)
        if existing and not existing.same_pod(attachment.container, attachment.ifname):
            self._detach_dead(existing)
            existing = None
        for other in self._store.attachments.beside(attachment):
            if (other.container, other.vpc) == (attachment.container, attachment.vpc):
                raise Rejected(
                    f"the pod is in this VPC already, with {other.ifname} ({other.name}): one interface of a pod "
                    "for each VPC; give one attachment both addresses",
                    field="vpc",
                )
        try:
            if existing is None:
                attachment = self._store.attach(attachment)
            else:
                attachment = replace(attachment, epoch=existing.epoch, settled=existing.settled)
                if attachment != existing:
                    self._store.amend(attachment)
            await self._sync.wait_applied(attachment.key)
        except BaseException:
            self._restore(attachment.key, existing)
            raise
        if attachment.key not in self._store.attachments:
            raise NotYet("it was detached again meanwhile")
        return attachment

    def _restore(self, key: Key, before: Attachment | None) -> None:
        attachment = self._store.attachments.get(key)
        if attachment is None:
            return  # it was never in the store, or was detached meanwhile
        if before is None:
            self._store.detach(key)
        elif attachment != before:
            self._store.amend(before)

    def _detach_dead(self, existing: Attachment) -> None:
        """Detaches another pod's attachment if its namespace is gone. Raises NotYet: a live pod keeps it."""
        if self._alive(existing.netns):
            raise NotYet(
                f"attachment {existing.name or existing.key} belongs to container {existing.container} on this node, "
                f"which is still running; a rolling update ends with strategy Recreate, or maxSurge 0"
            )
        log.warning(
            "detaching a pod that is gone, for another one",
            attachment=existing.name,
            container=existing.container,
        )
        self._store.detach(existing.key)

    async def _wait_undone(self, key: Key) -> None:
        """For UNDO_SECONDS at most. The sync task goes on trying if that is not enough."""
        if key not in self._store.attachments:
            with suppress(GalacticError, TimeoutError):
                async with asyncio.timeout(UNDO_SECONDS):
                    await self._sync.wait_applied(key)

    async def _delete(self, request: Request) -> None:
        """Succeeds without an attachment too. It waits for the kernel; a failure there is the sync task's to mend."""
        for attachment in self._of_pod(request.container, request.ifname):
            self._store.detach(attachment.key)
            log.info(
                "detached", attachment=attachment.name, pod=str(request.pod), container=request.container
            )
            try:
                await self._wait_applied(attachment.key)
            except GalacticError as error:
                log.warning(
                    "detached, but not yet from the kernel", attachment=attachment.name, error=str(error)
                )

    def delete_later(self, request: Request) -> None:
        """A DEL that the plugin left while the node controller was away: as ``_delete``, without waiting."""
        for attachment in self._of_pod(request.container, request.ifname):
            self._store.detach(attachment.key)
            log.info(
                "detached, by a DEL of an earlier time",
                attachment=attachment.name,
                pod=str(request.pod),
                container=request.container,
            )

    async def _check(self, request: Request) -> None:
        config = plugin_config(request.config)
        if config.previous is None:
            raise Failure(protocol.INVALID_CONFIG, "prevResult: CHECK needs the result of the ADD")
        attachment = next(iter(self._of_pod(request.container, request.ifname)), None)
        if attachment is None or attachment.name != config.attachment:
            raise Failure(protocol.NOT_AS_IT_SHOULD_BE, f"container {request.container} is not attached")
        if attachment.netns != request.netns:
            raise Failure(
                protocol.NOT_AS_IT_SHOULD_BE,
                f"container {request.container} was attached in {attachment.netns}",
            )
        if differing := differences(config.previous, attachment):
            raise Failure(
                protocol.NOT_AS_IT_SHOULD_BE, "prevResult and the attachment differ", ", ".join(differing)
            )
        if missing := await self._sync.missing(attachment):
            raise Failure(
                protocol.NOT_AS_IT_SHOULD_BE, "objects are missing in the kernel", ", ".join(missing)
            )

    async def _collect(self, request: Request) -> None:
        """Detaches the network's attachment if it is not listed as valid: a network of ours is one attachment."""
        config = plugin_config(request.config)
        valid = config.valid
        attachment = self._named(config.attachment)
        if attachment and (attachment.container, attachment.ifname) not in valid:
            self._store.detach(attachment.key)
            log.info(
                "detached by garbage collection", attachment=attachment.name, container=attachment.container
            )
            await self._wait_applied(attachment.key)

    def _status(self) -> None:
        """Raises Failure: 51 where pods are attached here, so that they may have limited connectivity, else 50."""
        if problem := self._problem():
            limited = self._sync.ready.is_set() and self._store.attachments
            raise Failure(protocol.NOT_AVAILABLE_AND_LIMITED if limited else protocol.NOT_AVAILABLE, problem)

    def _named(self, name: str) -> Attachment | None:
        named = (attachment for attachment in self._store.attachments.values() if attachment.name == name)
        return next(named, None) if name else None

    def _of_pod(self, container: str, ifname: str) -> list[Attachment]:
        attachments = self._store.attachments.values()
        return [attachment for attachment in attachments if attachment.same_pod(container, ifname)]

    async def _wait_applied(self, key: Key) -> None:
        try:
            async with asyncio.timeout(APPLY_SECONDS):
                await self._sync.wait_applied(key)
        except TimeoutError:
            raise Unreachable("kernel", f"not done within {APPLY_SECONDS:g} s") from None

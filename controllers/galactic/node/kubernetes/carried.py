"""The VPCAttachments that pods of this node carry: the authority for each ADD, and for running pods.

One watch, of the attachments that the operator labelled with this node, answers each ADD. An ADD that comes before the
operator has written its pod waits for the watch, and asks the API server after 1, 3 and 7 seconds. A change of the
status reaches pods that run, addresses included; container, interface and epoch stay the running pod's. A pod that no
longer carries its attachment is detached after GRACE_SECONDS, which the condition ``Entitled`` announces.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

import structlog

from galactic import refusals
from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import Key as Name
from galactic.kube.api import Object
from galactic.kube.client import Kube
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.names import carrier_label, from_base62
from galactic.node.kubernetes.entitlement import Entitlement, entitlement, kept
from galactic.node.state.attachment import Attachment, Key, PluginConfig, PodRef, attachment_of
from galactic.node.state.condition import ConditionState

log = structlog.get_logger(__name__)
WAIT_SECONDS: Final = 12.0
"""For an ADD that comes before its pod is in the status; the plugin gives up after 20 s."""
ASK_SECONDS: Final = 1.0
"""Between an ADD's requests to the API server while there is no watch; each further pause is twice as long."""
CONFIRM_SECONDS: Final = 4.0
"""Until an ADD asks the API server, once, beside a watch that brings everything."""
LAG_SECONDS: Final = 2.0
"""After an ADD, until the watch has certainly brought the status that it came with."""
GRACE_SECONDS: Final = 60.0
"""From the check that first finds a pod without its attachment until it is detached."""
CHECK_SECONDS: Final = 5.0
BACKOFF_SECONDS: Final = (0.5, 30.0)
NAMED: Final = 3
"""Objects that a message names at the most."""


class Attachments(Protocol):
    """The attachments on this node. The node's store is the real one."""

    @property
    def attachments(self) -> Mapping[Key, Attachment]: ...

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details. Raises Unreachable when that cannot be recorded."""

    def detach(self, key: Key) -> None: ...

    def watch(self) -> asyncio.Event:
        """An event that every ADD and DEL sets."""


class CarriedAttachments:
    """Decides which pod may be attached, and keeps attachments as their statuses have them."""

    def __init__(
        self,
        kube: Kube,
        node: str,
        store: Attachments,
        refused: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``refused`` counts refusals by reason. ``clock``: seconds."""
        self._kube, self._node, self._store = kube, node, store
        self._refused, self._clock = refused, clock
        self._attached = store.watch()
        self.observed = asyncio.Event()
        """Set with each change, for others to wait for and clear."""
        self._known: dict[Name, Entitlement] = {}
        self._changed = asyncio.Event()  # set and replaced with each change
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._unusable: dict[str, str] = {}  # attachment → the reason
        self._since: dict[
            Key, tuple[float, str]
        ] = {}  # attached without entitlement → since when, and the reason
        self._informer = Informer(
            kube,
            Selection(VPC_ATTACHMENTS, labels=carrier_label(node), cached=True),
            self._arrived,
            keep=kept,
        )

    @property
    def problem(self) -> str | None:
        """The statuses that are not in force, in words."""
        texts = [f"VPCAttachment {name}: {reason}" for name, reason in sorted(self._unusable.items())]
        return _listed(texts)

    @property
    def vpc_names(self) -> dict[int, str]:
        """The VPCs of this node's attachments: identifier → namespace/name."""
        known = self._known.values()
        return {from_base62(one.config.vpc): one.vpc for one in known if one.config and one.vpc}

    @property
    def synced(self) -> bool:
        """Whether the API server's list was complete once."""
        return self._informer.synced.is_set()

    @property
    def _follows(self) -> bool:
        """Whether the watch brings every change."""
        return self._informer.synced.is_set() and self._informer.connected

    def policies(self, name: str) -> tuple[str, ...] | None:
        """The PolicySlices in force for an attachment (namespace/name); None where it is not known."""
        namespace, _, own = name.partition("/")
        known = self._known.get((namespace, own))
        return known.config.policies if known and known.config else None

    def condition(self) -> ConditionState:
        """The condition ``Entitled``: whether every attached pod carries its attachment."""
        texts = []
        for key, (_since, reason) in sorted(self._since.items()):
            if attachment := self._store.attachments.get(key):
                pod = f"{attachment.name} in container {attachment.container}"
                texts.append(f"{pod} {reason}; it is detached after {GRACE_SECONDS:g} s")
        problem = _listed(texts)
        fine = "every attached pod carries its attachment"
        return ConditionState(
            "Entitled", problem is None, "Entitled" if problem is None else "NotEntitled", problem or fine
        )

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="carried attachments")
            tasks.create_task(self._recheck(), name="statuses of new attachments")
            tasks.create_task(self._work(), name="amendments")
            tasks.create_task(self._expire(), name="lost entitlements")

    async def entitled(self, pod: PodRef, name: str) -> PluginConfig:
        """The configuration that the attachment (namespace/name) gives that pod of this node.

        Raises Rejected for an attachment of another namespace. Raises NotYet while the pod does not carry it.
        """
        namespace, _, own = name.partition("/")
        if not own:
            self._refused(refusals.NO_ATTACHMENT)
            raise Rejected(refusals.no_attachment(), field="attachment")
        if namespace != pod.namespace:
            self._refused(refusals.OTHER_NAMESPACE)
            raise Rejected(refusals.other_namespace(name, str(pod)), field="attachment")
        key, loop = (namespace, own), asyncio.get_running_loop()
        # The watch brings it. When thousands of pods start, ADDs that ask are what the operator waits behind.
        deadline, pause = loop.time() + WAIT_SECONDS, ASK_SECONDS
        ask = loop.time() + (CONFIRM_SECONDS if self._follows else 0)
        answer: Entitlement | None = None  # the API server's last
        while True:
            changed = self._changed
            known = self._known.get(key) or answer
            if not self._serves(known, pod) and loop.time() >= ask:
                fresh = await self._ask(key)
                known, answer = fresh or known, fresh or answer
                pause *= 2
                ask = math.inf if self._follows else loop.time() + pause
            if known and known.config and self._serves(known, pod):
                return known.config
            if loop.time() >= deadline:
                self._refused(refusals.NOT_CARRIED)
                raise NotYet(self._reason(known, pod, name))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(ask, deadline)):
                    await changed.wait()

    def _serves(self, known: Entitlement | None, pod: PodRef) -> bool:
        return known is not None and known.config is not None and known.carried_by(pod, self._node)

    def _reason(self, known: Entitlement | None, pod: PodRef, name: str) -> str:
        if known is None:
            return f"VPCAttachment {name} is not known here: it does not exist, or kube-apiserver does not answer"
        if known.config is None:
            return (
                f"VPCAttachment {name} has no status.configuration: it is not ready, galactic-operator is away, or "
                "the kinds are those of an earlier version (apply crds/)"
            )
        return refusals.not_carried(name, str(pod), pod.uid, self._node)

    async def _ask(self, key: Name) -> Entitlement | None:
        """As the API server has it; None where it does not answer, or has none that is usable."""
        try:
            vpcattachment = await self._kube.find(VPC_ATTACHMENTS, key[1], key[0])
            return entitlement(vpcattachment) if vpcattachment else None
        except GalacticError as error:
            log.warning("attachment not read", attachment="/".join(key), error=str(error))
            return None

    def _report(self, name: str, reason: str) -> None:
        if self._unusable.get(name) != reason:
            log.warning("status not usable", attachment=name, error=reason)
        self._unusable[name] = reason

    # Attachments follow the statuses.

    def _arrived(self, key: Name, old: Object | None, new: Object | None) -> None:
        del old
        name = "/".join(key)
        self._known.pop(key, None)
        self._unusable.pop(name, None)
        if new is not None:
            try:
                self._known[key] = entitlement(new)
            except Rejected as error:
                self._report(name, str(error))
        self._mark(name)
        self.observed.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def _mark(self, *names: str) -> None:
        self._dirty.update(names)
        self._wake.set()

    async def _recheck(self) -> None:
        while True:
            await self._attached.wait()
            await asyncio.sleep(LAG_SECONDS)
            self._attached.clear()
            self._mark(*(attachment.name for attachment in self._store.attachments.values()))

    async def _work(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._dirty = self._dirty, set()
            attachments = {attachment.name: attachment for attachment in self._store.attachments.values()}
            failed = {name for name in names if not self._amend(name, attachments.get(name))}
            if failed:
                await asyncio.sleep(backoff.pause())
                self._mark(*failed)
            else:
                backoff.succeeded()

    def _amend(self, name: str, attachment: Attachment | None) -> bool:
        """False when it is to be tried again."""
        known = self._known.get(_name(attachment)) if attachment else None
        if (
            attachment is None
            or known is None
            or known.config is None
            or (attachment.pod and known.lost_by(attachment.pod))
        ):
            return True
        try:
            wanted = amended(attachment, known.config)
        except Rejected as error:
            self._report(name, str(error))
            return True
        if wanted == attachment:
            return True
        try:
            self._store.amend(wanted)
        except GalacticError as error:
            log.warning("attachment not updated, trying again", attachment=name, error=str(error))
            return False
        log.info("attachment updated", attachment=name)
        return True

    # A pod that lost its attachment.

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.expire()

    async def expire(self) -> None:
        """Detaches the pods whose entitlement has been missing for GRACE_SECONDS, as the API server confirms."""
        if not self._follows:
            return
        now, before = self._clock(), self._since
        self._since = {
            key: (before[key][0] if key in before else now, reason)
            for key, attachment in self._store.attachments.items()
            if (reason := self._lost(attachment, self._known.get(_name(attachment))))
        }
        for key, (since, _reason) in [*self._since.items()]:
            if now - since >= GRACE_SECONDS:
                await self._confirm(key)

    async def _confirm(self, key: Key) -> None:
        attachment = self._store.attachments.get(key)
        if attachment is None:
            return
        namespace, own = _name(attachment)
        try:
            vpcattachment = await self._kube.find(VPC_ATTACHMENTS, own, namespace)
            reason = self._lost(attachment, entitlement(vpcattachment) if vpcattachment else None)
            if reason is None or self._store.attachments.get(key) != attachment:
                self._since.pop(key, None)
                return
            self._store.detach(key)
        except (Rejected, Unreachable) as error:
            log.warning("pod not detached yet", attachment=attachment.name, error=str(error))
            return
        self._refused(refusals.DETACHED)
        self._since.pop(key, None)
        log.warning(
            "pod detached, it has lost its attachment",
            attachment=attachment.name,
            container=attachment.container,
            reason=reason,
        )

    @staticmethod
    def _lost(attachment: Attachment, known: Entitlement | None) -> str | None:
        """Why the pod is not entitled any more; None where it is, or where the record has no pod."""
        if not attachment.pod or not attachment.name:
            return None
        if known is None:
            return "has lost its VPCAttachment: it does not exist, or no pod of this node carries it"
        return "does not carry its VPCAttachment any more" if known.lost_by(attachment.pod) else None


def amended(attachment: Attachment, config: PluginConfig) -> Attachment:
    """The attachment with that configuration. Raises Rejected where the configuration is another attachment's."""
    if config.key != attachment.key:
        raise Rejected(
            f"it is of VPC {config.vpc} and attachment {config.vpcattachment} (base62), the running pod has others; "
            "delete the pod, so that it is made again",
            field="status.identifier",
        )
    return replace(
        attachment_of(config, attachment.container, attachment.netns, attachment.ifname),
        name=attachment.name,
        epoch=attachment.epoch,
        settled=attachment.settled,
        pod=attachment.pod,
    )


def _name(attachment: Attachment) -> Name:
    namespace, _, own = attachment.name.partition("/")
    return namespace, own


def _listed(texts: list[str]) -> str | None:
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more or None

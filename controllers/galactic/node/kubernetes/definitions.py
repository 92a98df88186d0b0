"""Changes of NetworkAttachmentDefinitions reach the pods that already run.

One watch, of the definitions that the operator labelled with this node: those of other nodes never come here. A
definition that differs from its attachment amends it, addresses included; container, interface, epoch and MTU (the two
ends of a veth pair must have the same) are the running pod's and stay. A definition that is gone changes nothing. One
that is not valid changes nothing either, and is named in the condition ``DefinitionsApplied``.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api, Object
from galactic.kube.api import Key as Name
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NADS
from galactic.names import NODE_LABEL, label_value
from galactic.node.state.attachment import Attachment, Key, attachment_of, plugin_config

log = structlog.get_logger(__name__)
PLUGIN: Final = "galactic"
LAG_SECONDS: Final = 2.0
"""After an ADD, until the watch has certainly brought the definition that it came with."""
BACKOFF_SECONDS: Final = (0.5, 30.0)
NAMED: Final = 3


class Attachments(Protocol):
    """The attachments here. ``galactic.node.state.store.Store`` is the real one."""

    @property
    def attachments(self) -> Mapping[Key, Attachment]: ...

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details. Raises Unreachable when its record cannot be written."""

    def watch(self) -> asyncio.Event:
        """An event that is set by every ADD and DEL."""


class Definitions:
    """Keeps the attachments on ``node`` as their definitions. ``problem`` names those that are not in force."""

    def __init__(self, api: Api, node: str, store: Attachments) -> None:
        self._store, self._attached = store, store.watch()
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._problems: dict[str, str] = {}  # by attachment
        self._compared: dict[str, tuple[Attachment, Object]] = {}  # that were equal
        self._informer = Informer(
            api,
            Selection(NADS, labels=f"{NODE_LABEL}={label_value(node)}", cached=True),
            self._changed,
            keep=_compact,
        )

    @property
    def problem(self) -> str | None:
        """Definitions that are not in force, in words."""
        problems = [
            f"NetworkAttachmentDefinition {name}: {problem}"
            for name, problem in sorted(self._problems.items())
        ]
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        return "; ".join(problems[:NAMED]) + more or None

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="definitions")
            tasks.create_task(self._recheck_attached(), name="definitions of what was attached")
            tasks.create_task(self._work(), name="amendments")

    def _changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        del old, new  # the informer has the newest
        self._mark("/".join(key))

    def _mark(self, *names: str) -> None:
        self._dirty.update(names)
        self._wake.set()

    async def _recheck_attached(self) -> None:
        while True:
            await self._attached.wait()
            await asyncio.sleep(LAG_SECONDS)
            self._attached.clear()
            self._mark(*(attachment.name for attachment in self._store.attachments.values()), *self._problems)

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
        namespace, _, own = name.partition("/")
        definition = self._informer.objects.get((namespace, own))
        if attachment is None or definition is None:
            self._problems.pop(name, None)
            self._compared.pop(name, None)
            return True
        if (attachment, definition) == self._compared.get(name):
            return True
        try:
            desired = amended(attachment, str(definition["spec"]["config"]))
        except Rejected as error:
            if self._problems.get(name) != str(error):
                log.warning("definition not in force", attachment=name, error=str(error))
            self._problems[name] = str(error)
            return True
        self._problems.pop(name, None)
        self._compared[name] = desired, definition
        if desired == attachment:
            return True
        try:
            self._store.amend(desired)
        except GalacticError as error:
            log.warning("attachment not amended, trying again", attachment=name, error=str(error))
            del self._compared[name]
            return False
        log.info("attachment amended", attachment=name)
        return True


def amended(attachment: Attachment, config: str) -> Attachment:
    """The attachment as that definition has it. Raises Rejected where it is not valid, or another attachment's."""
    return replace(
        configured(config, attachment.key, attachment.container, attachment.netns, attachment.ifname),
        name=attachment.name,
        epoch=attachment.epoch,
        settled=attachment.settled,
    )


def configured(config: str, key: Key, container: str, netns: str, ifname: str) -> Attachment:
    """The attachment with those identifiers that a definition's configuration list describes. Raises Rejected."""
    try:
        plugins: Any = json.loads(config)["plugins"]
        (plugin,) = (plugin for plugin in plugins if plugin["type"] == PLUGIN)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Rejected(
            f"not a configuration list with exactly one plugin {PLUGIN}", field="config"
        ) from error
    parsed = plugin_config(json.dumps(plugin).encode())
    if parsed.key != key:
        raise Rejected(
            f"it is of VPC {parsed.vpc} and attachment {parsed.vpcattachment} (base62), the running pod has others; "
            "delete the pod, so that it is made again",
            field="vpcattachment",
        )
    return attachment_of(parsed, container, netns, ifname)


def _compact(thing: Object) -> Object:
    """The part of a definition that the informer keeps."""
    meta, spec = thing["metadata"], thing.get("spec") or {}
    metadata = {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta}
    return {"metadata": metadata, "spec": {"config": spec.get("config") or ""}}

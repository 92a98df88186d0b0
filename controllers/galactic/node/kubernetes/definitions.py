"""What the NetworkAttachmentDefinitions say reaches the pods that already run.

One watch, of the definitions that the operator labelled with this node: what others have never comes by here. A
definition that differs from what is attached amends it, addresses included; container, interface, epoch and MTU (the
two ends of a veth pair must have the same) are the running pod's and stay. One that is gone changes nothing, and
neither does one that is not understood: that is told.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Key as Name
from galactic.kube.api import Object
from galactic.kube.client import Kube
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NADS
from galactic.names import NODE_LABEL, label_value
from galactic.node.state.attachment import Attachment, Key, attachment, plugin_config

log = structlog.get_logger(__name__)
PLUGIN: Final = "galactic"
LAG_SECONDS: Final = 2.0
"""What was attached just now came with a definition that the watch may not have told of yet."""
BACKOFF_SECONDS: Final = (0.5, 30.0)
NAMED: Final = 3


class Attachments(Protocol):
    """What is attached here. ``galactic.node.state.store.Store`` is the real one."""

    @property
    def attachments(self) -> Mapping[Key, Attachment]: ...

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details. Raises Unreachable when that cannot be kept."""

    def watch(self) -> asyncio.Event:
        """Set whenever something was attached or detached."""


class Definitions:
    """Keeps what is attached on ``node`` as its definitions say. ``problem`` names those that are not understood."""

    def __init__(self, kube: Kube, node: str, store: Attachments) -> None:
        self._store, self._attached = store, store.watch()
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._told: dict[str, str] = {}  # what is wrong, by attachment
        self._compared: dict[str, tuple[Attachment, Object]] = {}  # and found equal
        self._informer = Informer(
            kube,
            Selection(NADS, labels=f"{NODE_LABEL}={label_value(node)}", cached=True),
            self._changed,
            keep=_kept,
        )

    @property
    def problem(self) -> str | None:
        """Definitions that are not in force, in words."""
        told = [f"NetworkAttachmentDefinition {name}: {why}" for name, why in sorted(self._told.items())]
        more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
        return "; ".join(told[:NAMED]) + more or None

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="definitions")
            tasks.create_task(self._look_again(), name="definitions of what was attached")
            tasks.create_task(self._work(), name="amendments")

    def _changed(self, key: Name, old: Object | None, new: Object | None) -> None:
        del old, new  # whatever it was: what is there now counts
        self._mark("/".join(key))

    def _mark(self, *names: str) -> None:
        self._dirty.update(names)
        self._wake.set()

    async def _look_again(self) -> None:
        while True:
            await self._attached.wait()
            await asyncio.sleep(LAG_SECONDS)
            self._attached.clear()
            self._mark(*(each.name for each in self._store.attachments.values()), *self._told)

    async def _work(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._dirty = self._dirty, set()
            held = {each.name: each for each in self._store.attachments.values()}
            failed = {name for name in names if not self._amend(name, held.get(name))}
            if failed:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                self._mark(*failed)
            else:
                pause = BACKOFF_SECONDS[0]

    def _amend(self, name: str, held: Attachment | None) -> bool:
        """False when it is to be tried again."""
        namespace, _, own = name.partition("/")
        found = self._informer.objects.get((namespace, own))
        if held is None or found is None:
            self._told.pop(name, None)
            self._compared.pop(name, None)
            return True
        if (held, found) == self._compared.get(name):
            return True
        try:
            wanted = amended(held, str(found["spec"]["config"]))
        except Rejected as error:
            if self._told.get(name) != str(error):
                log.warning("definition not in force", attachment=name, error=str(error))
            self._told[name] = str(error)
            return True
        self._told.pop(name, None)
        self._compared[name] = wanted, found
        if wanted == held:
            return True
        try:
            self._store.amend(wanted)
        except GalacticError as error:
            log.warning("not amended, trying again", attachment=name, error=str(error))
            del self._compared[name]
            return False
        log.info("amended", attachment=name)
        return True


def amended(held: Attachment, config: str) -> Attachment:
    """What is attached, as that definition has it. Raises Rejected where it is not usable, or another's."""
    return replace(
        configured(config, held.key, held.container, held.netns, held.ifname),
        name=held.name,
        epoch=held.epoch,
        settled=held.settled,
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
            f"it is of VPC {parsed.vpc} and attachment {parsed.vpcattachment} (base62), the pod is attached by others; "
            "make the pod anew",
            field="vpcattachment",
        )
    return attachment(parsed, container, netns, ifname)


def _kept(thing: Object) -> Object:
    """The part of a definition that is remembered."""
    meta, spec = thing["metadata"], thing.get("spec") or {}
    kept = {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta}
    return {"metadata": kept, "spec": {"config": spec.get("config") or ""}}

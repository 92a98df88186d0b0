"""The PolicySlices of this node's VPCs, followed at the API server.

One watch of the VPCs that have an attachment with rules here, by the label with the VPC's identifier. It begins again
where a VPC is added; the slices that were known stay until the new list is complete.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from galactic.errors import Rejected
from galactic.kube.api import Api, Key, Object
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import POLICY_SLICES
from galactic.names import VPC_LABEL, vpc_hex
from galactic.node.policies.classes import Ip
from galactic.node.policies.rules import Addresses, Rules, kept, part

log = structlog.get_logger(__name__)


class Carried(Protocol):
    """The attachments of this node. ``galactic.node.kubernetes.carried.CarriedAttachments`` is the real one."""

    observed: asyncio.Event

    @property
    def synced(self) -> bool: ...

    def policies(self, name: str) -> tuple[str, ...] | None:
        """The PolicySlices in force for an attachment (namespace/name); None where it is not known."""


class PolicySlices:
    """``changed`` is called after each difference."""

    def __init__(self, api: Api, carried: Carried, changed: Callable[[], None]) -> None:
        self._api, self._carried, self._changed = api, carried, changed
        self._wanted: frozenset[int] = frozenset()
        self._followed: frozenset[int] = frozenset()
        self._listed: frozenset[int] = frozenset()
        self._more = asyncio.Event()
        self._rules: dict[str, Rules] = {}
        self._parts: dict[str, Addresses] = {}
        self.groups: Mapping[str, frozenset[Ip]] = {}

    @property
    def complete(self) -> bool:
        return self._carried.synced and self._wanted <= self._listed

    def listed(self, attachment: str) -> tuple[str, ...] | None:
        return self._carried.policies(attachment)

    def rules(self, slices: tuple[str, ...]) -> tuple[Rules, ...] | None:
        found = [self._rules.get(name) for name in slices]
        rules = tuple(one for one in found if one is not None)
        if len(rules) < len(slices) or any(one.groups - self.groups.keys() for one in rules):
            return None
        return rules

    def want(self, vpcs: frozenset[int]) -> None:
        self._wanted = vpcs
        if not vpcs <= self._followed:
            self._more.set()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._observe(), name="attachments with rules")
            while True:
                await self._more.wait()
                self._more.clear()
                self._followed = self._wanted
                following = tasks.create_task(self._follow(self._followed), name="policy slices")
                await self._more.wait()
                following.cancel()

    async def _observe(self) -> None:
        while True:
            await self._carried.observed.wait()
            self._carried.observed.clear()
            self._changed()

    async def _follow(self, vpcs: frozenset[int]) -> None:
        """The slices of those VPCs, until cancelled."""
        before = {*self._rules, *self._parts}
        current: set[str] = set()

        def arrived(key: Key, old: Object | None, new: Object | None) -> None:
            del old
            (current.discard if new is None else current.add)(key[1])
            self._set(key[1], new)
            self._changed()

        label = f"{VPC_LABEL} in ({','.join(vpc_hex(vpc) for vpc in sorted(vpcs))})"
        informer = Informer(
            self._api, Selection(POLICY_SLICES, labels=label, cached=True), arrived, keep=kept
        )

        async def settle() -> None:
            await informer.synced.wait()
            for name in before - current:
                self._set(name, None)
            self._listed = vpcs
            self._changed()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informer.run(), name="policy slices")
            tasks.create_task(settle(), name="policy slices listed")

    def _set(self, name: str, document: Object | None) -> None:
        self._rules.pop(name, None)
        gone = self._parts.pop(name, None)
        found: Rules | Addresses | None = None
        if document is not None:
            try:
                found = part(document)
            except Rejected as error:
                log.warning("slice not usable", slice=name, error=str(error))
        if isinstance(found, Rules):
            self._rules[name] = found
        elif found is not None:
            self._parts[name] = found
        for group in {one.group for one in (gone, found) if isinstance(one, Addresses)}:
            self._compose(group)

    def _compose(self, group: str) -> None:
        parts = [one for one in self._parts.values() if one.group == group]
        groups = dict(self.groups)
        groups.pop(group, None)
        if any(one.first for one in parts):
            groups[group] = frozenset().union(*(one.addresses for one in parts))
        self.groups = groups

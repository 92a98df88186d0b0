"""Publishes what the cluster's attachments entitle to, and which VPCs name which peers, for routers outside of it.

See docs/design/entitlements.md.

The list is in shards, each a retained message. All shards of one generation are one list: a replica that begins to lead
begins a later one.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.bus import Bus, Connected, Delivery
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected, Unreachable
from galactic.kube.api import Key
from galactic.messages import Entitlement, Entitlements, PeeringVpc, Topics, decode, encode
from galactic.operator.cluster_name import ClusterName, NameTaken
from galactic.operator.departed import DepartedNodes
from galactic.operator.entitlement_list import Layout, declaration, entitlement
from galactic.operator.objects import Invalid
from galactic.operator.peering import named, peering_view
from galactic.operator.state import Caches

log = structlog.get_logger(__name__)
SHARD_BYTES: Final = 64 * 1024
"""Of the entries of one shard, or less, if the broker takes less."""
ENVELOPE: Final = 256
"""Bytes of a shard around its entries, more than enough."""
DEBOUNCE_SECONDS: Final = 0.05
BACKOFF_SECONDS: Final = (0.5, 10.0)
SETTLE_SECONDS: Final = 1.0
"""Before the first message: what the broker retains arrives first, another cluster's of the same name included."""
TAKEN_SECONDS: Final = 60.0
"""Between two looks whether the name is free: at many brokers each one ends the other cluster's session."""


class EntitlementPublisher:
    """Of one cluster, by its own user at the broker. ``run`` while this replica leads, with complete caches."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Bus]],
        topics: Topics,
        cluster: ClusterName,
        caches: Caches,
        clock: Callable[[], int],
    ) -> None:
        """``clock``: in ms."""
        self._connect, self._topics, self._cluster = connect, topics, cluster
        self._caches, self._clock = caches, clock
        self._changed = asyncio.Event()
        self._keys: set[Key] = set()
        self._layout: Layout | None = None
        self._generation = 0
        self._retained: set[int] = set()  # shards that the broker has
        self._holds = False  # whether the name is this cluster's
        self._departed = DepartedNodes(topics, cluster.name, caches)
        self._vpcs: set[Key] = set()
        self._views: dict[Key, object] = {}
        caches.observe_attachments(self._observe)
        caches.observe_vpcs(self._observe_vpc)

    async def run(self) -> None:
        """Publishes the whole list, and every change of it, until cancelled.

        Nothing while another cluster has the name.
        """
        try:
            while True:
                await self._hold()
                await asyncio.sleep(TAKEN_SECONDS)
        finally:
            self._cluster.report(None)

    async def _hold(self) -> None:
        """Publishes for as long as no other cluster has the name."""
        self._layout, self._holds = None, False
        try:
            async with self._connect() as bus, asyncio.TaskGroup() as tasks:
                bus.subscribe(self._topics.entitlements(self._cluster.name, "+"), self._departed.filter)
                tasks.create_task(self._departed.run(bus, lambda: self._holds), name="departed nodes")
                tasks.create_task(self._receive(bus), name="entitlements published elsewhere")
                tasks.create_task(self._publish(bus), name="entitlements")
        except* NameTaken as group:
            problem = str(group.exceptions[0])
            log.warning("entitlements not published", problem=problem)
            self._cluster.report(problem)

    def _observe(self, key: Key, _new: VpcAttachment | Invalid | None) -> None:
        self._keys.add(key)
        self._changed.set()

    def _observe_vpc(self, key: Key, new: Vpc | Invalid | None) -> None:
        view = peering_view(new)
        if self._views.get(key) == view:
            return
        if view is None:
            self._views.pop(key, None)
        else:
            self._views[key] = view
        self._vpcs |= {key, *(one for one, vpc in self._caches.vpcs.items() if key in named(one, vpc))}
        self._changed.set()

    async def _receive(self, bus: Bus) -> None:
        """The parts of the list that the broker has: of an earlier leader, or our own."""
        async for event in bus.deliveries():
            match event:
                case Connected():
                    self._layout = None  # the broker may have lost what it had
                    self._retained.clear()
                    self._changed.set()
                case Delivery(topic, payload) if self._departed.arrived(topic, payload):
                    pass
                case Delivery(topic, payload) if payload:
                    try:
                        part = decode(Entitlements, payload)
                    except Rejected:
                        continue
                    self._published(self._topics.parts(topic)[-1], part)

    def _published(self, level: str, part: Entitlements) -> None:
        """Raises NameTaken for another cluster's part. Of two that began at once the one with the lower UID stays."""
        if self._cluster.rival(part.owner) and not (self._holds and self._cluster.uid < part.owner):
            topics = self._topics.entitlements(self._cluster.name, "+")
            raise NameTaken(self._cluster, part.owner, topics)
        if level.isdecimal():
            self._retained.add(int(level))
        if part.generation > self._generation:
            self._generation, self._layout = part.generation, None  # ours has to be a later one
            self._changed.set()
        elif (
            part.generation < self._generation
            and self._layout is not None
            and level.isdecimal()
            and int(level) < len(self._layout.shards)
        ):
            self._layout.dirty.add(int(level))
            self._changed.set()

    async def _publish(self, bus: Bus) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            if not bus.connected:
                continue  # a session sets the event
            if not self._holds:
                await asyncio.sleep(SETTLE_SECONDS)
                self._holds = True
                self._cluster.report(None)
            try:
                count = await self._send(bus)
            except Unreachable as error:
                pause = backoff.pause()
                log.warning("entitlements not published, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
                self._changed.set()
            else:
                backoff.succeeded()
                log.debug("entitlements published", shards=count)

    def _enter(self, layout: Layout) -> None:
        """Puts what changed into the layout."""
        keys, self._keys = self._keys, set()
        vpcs, self._vpcs = self._vpcs, set()
        for key in sorted(vpcs):
            if (declared := declaration(key, self._caches)) is not None:
                layout.put(declared)
            else:
                layout.remove(f"/{'/'.join(key)}")
        for key in sorted(keys):
            attachment = self._caches.attachments.get(key)
            if isinstance(attachment, VpcAttachment):
                layout.put(entitlement(attachment))
            elif attachment is None:
                layout.remove("/".join(key))

    async def _send(self, bus: Bus) -> int:
        """Publishes what differs. How many shards that took. Raises Unreachable."""
        layout = self._layout
        if layout is None:
            layout = self._layout = Layout(min(SHARD_BYTES, bus.largest - ENVELOPE))
            self._generation = max(self._generation + 1, self._clock())
            self._keys, self._vpcs = {*self._caches.attachments}, {*self._caches.vpcs}
        self._enter(layout)
        count = 0
        while layout.dirty and self._layout is layout:
            number = max(layout.dirty)
            entries = layout.shards[number].values()
            attachments = tuple(entry for entry in entries if isinstance(entry, Entitlement))
            declared_vpcs = tuple(entry for entry in entries if isinstance(entry, PeeringVpc))
            layout.dirty.discard(number)
            payload = encode(
                Entitlements(
                    self._generation, len(layout.shards), attachments, self._cluster.uid, declared_vpcs
                )
            )
            try:
                await bus.publish(self._topics.entitlements(self._cluster.name, number), payload, retain=True)
            except Unreachable:
                layout.dirty.add(number)
                raise
            count += 1
        for number in sorted(self._retained):
            if number >= len(layout.shards):  # of an earlier list that was longer
                await bus.publish(self._topics.entitlements(self._cluster.name, number), b"", retain=True)
                self._retained.discard(number)
        if layout.sparse and self._layout is layout:
            self._layout = None
            self._changed.set()
        return count

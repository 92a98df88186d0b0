"""The desired state of this node: its attachments, and the remote routes of their VPCs.

A change only marks what it concerns as dirty, so that it costs what it changes: ``sync`` writes it to the kernel,
``session`` publishes the registration, ``segment`` writes the status.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from ipaddress import IPv6Network

import structlog

from galactic.errors import Unreachable
from galactic.linux.objects import PackedNetwork
from galactic.messages import NodeEndpoints
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.attachments import LocalAttachments
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.dirty import Dirty, DirtyState
from galactic.node.state.endpoints import Endpoints
from galactic.node.state.epoch import Clock
from galactic.node.state.gateways import Gateway, GatewayState
from galactic.node.state.node import NodeRecord
from galactic.node.state.remote import Entry, Source
from galactic.node.state.tables import RemoteTables

log = structlog.get_logger(__name__)


class Store:
    """The one place where the desired state is changed; its parts are for reading."""

    def __init__(self, cluster: str, checkpoint: Checkpoint, clock: Clock) -> None:
        self.cluster, self._checkpoint = cluster, checkpoint
        self.node = NodeRecord(checkpoint, clock)
        self.attachments = LocalAttachments()
        self.tables = RemoteTables(self.attachments)
        self.gateways = GatewayState()
        self.dirty = DirtyState()
        self._endpoints = Endpoints(self.attachments)
        self._watchers: list[asyncio.Event] = []
        self.detaching: Callable[[Key], object] = lambda _key: None
        """Called before an attachment goes."""
        self._detached: set[Key] = set()  # before the kernel was first read

    def restore(self) -> None:
        """As the checkpoint has it: the desired state of an earlier life."""
        self.node.restore()
        self.tables.locate(self.node.here)
        for attachment in self._checkpoint.attachments().values():
            self.node.observe(attachment.epoch)
            self._put(attachment)
        self._registration_changed()

    def watch(self) -> asyncio.Event:
        """A new event, set whenever endpoints or the prefix change. It is set now."""
        event = asyncio.Event()
        event.set()
        self._watchers.append(event)
        return event

    def set_prefix(self, prefix: IPv6Network) -> None:
        """The node's SRv6 prefix. Another one moves every SID."""
        if prefix != self.node.prefix:
            log.info("node prefix set", prefix=str(prefix), before=str(self.node.prefix))
            self.node.prefix = prefix
            self._endpoints.clear()
            self.tables.locate(self.node.here)
            self.dirty.now.vpcs.update(self.tables)
            self._host_led_out()
            self.dirty.mark_host()
            self._registration_changed()

    def set_gateways(self, gateways: Mapping[int, Gateway]) -> None:
        """The gateways of all VPCs."""
        before, self.gateways.all = self.gateways.all, gateways
        changed = {vpc for vpc in before.keys() | gateways.keys() if before.get(vpc) != gateways.get(vpc)}
        if changed:
            self._host_led_out()
            self.dirty.mark_gateways(changed)
            self._notify()

    def set_away(self, nodes: AbstractSet[str]) -> None:
        """The nodes of gateways' exits that do not answer."""
        changed, self.gateways.away = nodes ^ self.gateways.away, frozenset(nodes)
        if changed:
            gateways = self.gateways.all.values()
            self.dirty.mark_gateways(
                gateway.vpc for gateway in gateways if any(one.node in changed for one in gateway.exits)
            )

    def set_filtered(self, vpcs: AbstractSet[int]) -> None:
        """The VPCs that the packet filter has the rules of their way out of."""
        changed, self.gateways.filtered = vpcs ^ self.gateways.filtered, frozenset(vpcs)
        if changed:
            self.dirty.mark_gateways(changed)
            self._notify()

    def set_leading(self, segments: Iterable[str], published: Iterable[str] = ()) -> None:
        """The SIDs of the ways out that are in this node's kernel, and the published addresses."""
        gateways = self.gateways
        before = gateways.leading, gateways.publishing
        gateways.leading, gateways.publishing = tuple(segments), tuple(published)
        if before != (gateways.leading, gateways.publishing):
            self._notify()

    def _host_led_out(self) -> None:
        """A VPC that is led out here is hosted, whether it has pods here or not."""
        led_out = self.gateways.led_out(self.node.prefix)
        changed = led_out ^ self.attachments.led_out
        self.attachments.led_out = led_out
        for vpc in led_out:
            self.tables.ensure(vpc)
        for vpc in changed:
            self.dirty.mark_vpc(vpc)
        self.dirty.mark_gateways(changed)

    def observe(self, number: int) -> None:
        """That number is known elsewhere as an epoch or sequence of this node: those that follow are greater."""
        self.node.observe(number)
        if self.node.sequence <= number:
            self._registration_changed()

    def attach(self, attachment: Attachment) -> Attachment:
        """The attachment with its epoch, recorded. Raises Unreachable when the record cannot be written."""
        epoch = self.node.next_epoch(*self.tables.epochs(attachment))
        attachment = replace(attachment, epoch=epoch, settled=self.tables.complete(attachment.vpc))
        self.amend(attachment)
        return attachment

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details and the same epoch; one that is not there is added."""
        self._checkpoint.put(attachment)
        self._put(attachment)
        self._registration_changed()

    def detach(self, key: Key) -> None:
        """Removes the attachment and its record. One that is not there is no error."""
        self.detaching(key)
        self._checkpoint.remove(key)
        unaccounted = self.attachments.unaccounted
        if unaccounted is None:
            self._detached.add(key)
        if attachment := self.attachments.get(key):
            self.tables.withdraw(attachment)
            self._changed(attachment, self.attachments.remove(key))
            if attachment.peers:
                self.tables.set_peers(attachment.vpc)
            self._registration_changed()
        elif unaccounted and key in unaccounted:
            self.release_unaccounted((key,))

    def set_unaccounted(self, host_ends: Iterable[Key]) -> None:
        """The kernel was first read: it has these host ends. Those without a record are unaccounted."""
        unaccounted = set(host_ends) - self.attachments.keys() - self._detached
        self.attachments.unaccounted = unaccounted
        self._detached.clear()
        for vpc, _ in unaccounted:
            self.tables.ensure(vpc)
        if unaccounted:
            log.warning("attachments without a record found in the kernel", count=len(unaccounted))
        self._notify()

    def release_unaccounted(self, keys: Iterable[Key]) -> None:
        """These unaccounted attachments exist nowhere else: they may be removed from the kernel."""
        if self.attachments.unaccounted:
            released = self.attachments.unaccounted & set(keys)
            self.attachments.unaccounted -= released
            self.dirty.now.vpcs |= {vpc for vpc, _ in released}
            self.dirty.now.everything = True
            self._notify()
            self.dirty.wake.set()

    def set_table(
        self,
        vpc: int,
        source: Source,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> None:
        """The whole table of a VPC as one source has it; ``before``: see ``RemoteRoutes.set_table``."""
        if self.tables.set_table(vpc, source, revision, routes, before):
            self.dirty.mark_vpc(vpc)
            self._settle_epochs(vpc)

    def drop_source(self, vpc: int, source: Source) -> None:
        """Drops the VPC's table of that source."""
        if vpc in self.tables:
            self.tables[vpc].drop_source(source)
            self.dirty.mark_vpc(vpc)

    def registration(self) -> NodeEndpoints | None:
        """All endpoints of this node; None before it knows its prefix."""
        if self.node.prefix is None:
            return None
        return NodeEndpoints(self.node.sequence, self._endpoints.all(self.node.prefix))

    def drain_dirty(self) -> Dirty:
        """The parts that changed since the last call. From now on no route is desired of VPCs that are not hosted any
        more: not sooner, so that no route is lost where one pod makes way for another at once.
        """
        self.tables.clear_unhosted(self.dirty.now.vpcs)
        for vpc in self.dirty.now.vpcs:
            self.dirty.now.attachments |= self.tables.judge(vpc)
        return self.dirty.drain()

    def tidy(self, vpcs: Iterable[int]) -> None:
        """These VPCs are in the kernel as desired: those that are not hosted are forgotten if nothing changed since."""
        self.tables.discard_unhosted(vpc for vpc in vpcs if vpc not in self.dirty.now.vpcs)

    def _put(self, attachment: Attachment) -> None:
        key, unaccounted = attachment.key, self.attachments.unaccounted
        if before := self.attachments.get(key):
            self.tables.withdraw(before)
        if unaccounted and key in unaccounted:
            unaccounted.discard(key)
            self.dirty.now.everything = True  # what it has is in the kernel, and in no plan yet
        self.tables.announce(attachment)
        self._changed(attachment, self.attachments.put(attachment))
        if before is None or before.peers != attachment.peers:
            self.tables.set_peers(attachment.vpc)

    def _changed(self, attachment: Attachment, affected: set[Key]) -> None:
        self._endpoints.discard(attachment.key)
        self.dirty.now.attachments |= affected
        self.dirty.mark_vpc(attachment.vpc)

    def _settle_epochs(self, vpc: int) -> None:
        """An epoch that was taken before the VPC's table was known is compared with the table, once."""
        unsettled = [attachment for attachment in self.attachments.of_vpc(vpc) if not attachment.settled]
        for attachment in unsettled if self.tables.complete(vpc) else ():
            known = self.tables.epochs(attachment)
            late = any(epoch >= attachment.epoch for epoch in known)
            epoch = self.node.next_epoch(*known) if late else attachment.epoch
            try:
                self.amend(replace(attachment, epoch=epoch, settled=True))
            except Unreachable as error:
                # The routes are no worse for it, and the next table is another chance.
                log.warning("epoch not settled yet", attachment=attachment.name, error=str(error))

    def _registration_changed(self) -> None:
        try:
            self.node.advance()
        finally:  # a change is published, whether it can be remembered or not
            self._notify()
            self.dirty.wake.set()

    def _notify(self) -> None:
        for event in self._watchers:
            event.set()

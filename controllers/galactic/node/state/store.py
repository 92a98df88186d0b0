"""The desired store: what is attached here, and what the VPCs hosted here reach elsewhere.

Setting anything only marks what it concerns as dirty, so that a change costs what it changes: ``sync`` applies it,
``registration`` and ``segment`` tell it to others.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network

import structlog

from galactic import names, srv6
from galactic.errors import Unreachable
from galactic.linux.objects import Network, PackedNetwork, packed
from galactic.messages import Endpoint, NodeEndpoints
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.checkpoint import Checkpoint, NodeFile
from galactic.node.state.epoch import Clock
from galactic.node.state.remote import Entry, RemoteRoutes, View, Writer

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Dirty:
    """What may not be in the kernel yet."""

    attachments: set[Key] = field(default_factory=set)
    vpcs: set[int] = field(default_factory=set)  # whose networks elsewhere changed
    host: bool = False  # what all plans depend on
    everything: bool = False  # the kernel must be read

    def __bool__(self) -> bool:
        return bool(self.attachments or self.vpcs or self.host or self.everything)


class Store:
    """Everything wanted of this node. ``wake`` is set when the kernel may have to change."""

    def __init__(self, cluster: str, records: Checkpoint, clock: Clock) -> None:
        self.cluster, self._records, self._clock = cluster, records, clock
        self._remotes: dict[int, RemoteRoutes] = {}
        self._local: dict[int, dict[Key, Attachment]] = {}
        self._pods: dict[str, set[Key]] = {}  # by network namespace
        self._announcers: dict[tuple[int, Network], set[Key]] = {}
        self._endpoints: dict[Key, Endpoint] = {}
        self._watchers: list[asyncio.Event] = []
        self._detached: set[Key] = set()  # before the kernel was first read
        self._dirty = Dirty()
        self.attachments: dict[Key, Attachment] = {}
        self.orphans: set[Key] | None = None
        """Host ends found in the kernel at start that no record knows, until somebody does; None: not looked yet."""
        self.prefix: IPv6Network | None = None
        self.filtered: IPv6Network | None = None
        self.sequence = 0
        self.wake = asyncio.Event()

    def restore(self) -> None:
        """What the records remember of an earlier life."""
        node = self._records.node()
        self._clock.observe(node.clock)
        self.prefix = srv6.parse_prefix(node.prefix) if node.prefix else None
        self.filtered = srv6.parse_prefix(node.filtered) if node.filtered else None
        for attachment in self._records.attachments().values():
            self._clock.observe(attachment.epoch)
            self._put(attachment)
        self._touch_endpoints()

    def watch(self) -> asyncio.Event:
        """A new event, set whenever endpoints or the prefix change. It is set now."""
        event = asyncio.Event()
        event.set()
        self._watchers.append(event)
        return event

    @property
    def hosted(self) -> set[int]:
        """The VPCs that have an attachment here, be it one that only the kernel knows."""
        return self._local.keys() | {vpc for vpc, _ in self.orphans or ()}

    def hosts(self, vpc: int) -> bool:
        """Whether that one is among ``hosted``."""
        return vpc in self._local or any(vpc == orphaned for orphaned, _ in self.orphans or ())

    def local(self, vpc: int) -> list[Attachment]:
        return list(self._local.get(vpc, {}).values())

    def holder(self, vpc: int, network: Network) -> Key | None:
        """Of the attachments here that announce that network, the one that has it: the oldest."""
        announcers = self._announcers.get((vpc, network))
        if not announcers:
            return None
        return min(announcers, key=lambda key: (self.attachments[key].epoch, key))

    def rank(self, key: Key) -> int:
        """How many of the pod's other attachments are older: 0 for the only one. Their routes come first."""
        attachment = self.attachments[key]
        return sum(
            (self.attachments[other].epoch, other) < (attachment.epoch, key)
            for other in self._pods[attachment.netns]
        )

    def beside(self, attachment: Attachment) -> list[Attachment]:
        """The attachments of the same pod, other than that one."""
        keys = self._pods.get(attachment.netns, set()) - {attachment.key}
        return [self.attachments[key] for key in sorted(keys)]

    @property
    def remotes(self) -> Mapping[int, RemoteRoutes]:
        """The networks elsewhere of every VPC that is hosted here, or was until a moment ago."""
        return self._remotes

    def set_prefix(self, prefix: IPv6Network) -> None:
        """The node's SRv6 prefix. A new one moves every SID."""
        if prefix != self.prefix:
            log.info("the node's prefix", prefix=str(prefix), before=str(self.prefix))
            self.prefix = prefix
            self._endpoints.clear()
            for remotes in self._remotes.values():
                remotes.locate(self._here())
            self._dirty.vpcs.update(self._remotes)
            self._dirty.host = True
            self._touch_endpoints()

    def set_filtered(self, prefix: IPv6Network) -> None:
        """The packet filter is in place for a node with that prefix. It outlives us, as the records do."""
        if prefix != self.filtered:
            self.filtered = prefix
            self._remember()

    def replan(self) -> None:
        """Something that all plans depend on changed."""
        self._dirty.host = True
        self.wake.set()

    def observe(self, number: int) -> None:
        """Somebody knows that number as an epoch or sequence of ours: whatever we say from now on is newer."""
        self._clock.observe(number)
        if self.sequence <= number:
            self._touch_endpoints()

    def attach(self, attachment: Attachment) -> Attachment:
        """Takes the attachment in, durably, with its epoch. Raises Unreachable when that cannot be written."""
        known = self._known_epochs(attachment)
        settled = self.complete(attachment.vpc)
        attachment = replace(attachment, epoch=self._clock.take(*known), settled=settled)
        self.amend(attachment)
        return attachment

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details and the same epoch; one that is not there is taken in."""
        self._records.put(attachment)
        self._put(attachment)
        self._touch_endpoints()

    def detach(self, key: Key) -> None:
        """Forgets the attachment, durably. Forgetting what is not there is fine."""
        self._records.remove(key)
        if self.orphans is None:
            self._detached.add(key)
        if key in self.attachments:
            self._drop(key)
            self._touch_endpoints()
        elif self.orphans and key in self.orphans:
            self.disown((key,))

    @property
    def whole(self) -> bool:
        """Whether all that is attached here is known: the kernel was read, and it has nothing else."""
        return self.orphans is not None and not self.orphans

    def set_orphans(self, found: Iterable[Key]) -> None:
        """The host ends that the kernel had when it was first read."""
        self.orphans = set(found) - self.attachments.keys() - self._detached
        self._detached.clear()
        for vpc, _ in self.orphans:
            self._remotes.setdefault(vpc, RemoteRoutes(self._here()))
        if self.orphans:
            log.warning("attachments in the kernel that no record knows", count=len(self.orphans))
        self._announce()

    def disown(self, keys: Iterable[Key]) -> None:
        """These orphans are nobody's: they may go."""
        if self.orphans:
            gone = self.orphans & set(keys)
            self.orphans -= gone
            self._dirty.vpcs |= {vpc for vpc, _ in gone}
            self._dirty.everything = True
            self._announce()
            self.wake.set()

    def tell(
        self,
        vpc: int,
        writer: Writer,
        revision: int,
        routes: Mapping[PackedNetwork, Entry],
        before: Mapping[PackedNetwork, Entry | None] | None = None,
    ) -> None:
        """The whole table of a hosted VPC as one writer knows it; ``before``: see ``Remotes.tell``.

        What comes late, of a VPC whose last attachment has gone, concerns nobody here any more. Before a round has seen
        it go, another pod may take its place at once: so long that table stays the one that changes are told of.
        """
        remotes = self._remotes.get(vpc)
        if remotes and (self.hosts(vpc) or remotes.view(writer)):
            remotes.tell(writer, revision, routes, before)
            self._told(vpc)

    def forget(self, vpc: int, writer: Writer) -> None:
        """That writer does not know the VPC's table any more."""
        if remotes := self._remotes.get(vpc):
            remotes.forget(writer)
            self._touch(vpc)

    def view(self, vpc: int, writer: Writer) -> View | None:
        """The table of a hosted VPC as that writer told it last."""
        remotes = self._remotes.get(vpc)
        return remotes.view(writer) if remotes else None

    def complete(self, vpc: int) -> bool:
        """Whether a writer has told of the whole table of the VPC."""
        remotes = self._remotes.get(vpc)
        return bool(remotes and remotes.complete)

    def announcement(self) -> NodeEndpoints | None:
        """All endpoints of this node; None before it knows its prefix."""
        if self.prefix is None:
            return None
        for key in self.attachments.keys() - self._endpoints.keys():
            self._endpoints[key] = self._endpoint(self.prefix, self.attachments[key])
        return NodeEndpoints(self.sequence, tuple(self._endpoints[key] for key in sorted(self.attachments)))

    def take_dirty(self) -> Dirty:
        """What changed since the last call. Of VPCs that are not hosted any more nothing is wanted from now on: not
        sooner, so that nothing is lost where a pod gives way to another at once.
        """
        for vpc in self._dirty.vpcs:
            if (remotes := self._remotes.get(vpc)) and not self.hosts(vpc):
                remotes.clear()
        dirty, self._dirty = self._dirty, Dirty()
        self.wake.clear()
        return dirty

    def give_back(self, dirty: Dirty) -> None:
        """It could not be seen to yet."""
        mine = self._dirty
        mine.attachments |= dirty.attachments
        mine.vpcs |= dirty.vpcs
        mine.host |= dirty.host
        mine.everything |= dirty.everything

    def tidy(self, vpcs: Iterable[int]) -> None:
        """What was dirty of these is in the kernel: those that nobody wants are forgotten if nothing came since."""
        for vpc in vpcs:
            if vpc not in self._dirty.vpcs and not self.hosts(vpc):
                self._remotes.pop(vpc, None)

    def _put(self, attachment: Attachment) -> None:
        vpc, key = attachment.vpc, attachment.key
        if key in self.attachments:
            self._withdraw(key)
        if self.orphans and key in self.orphans:
            self.orphans.discard(key)
            self._dirty.everything = True  # what it has is in the kernel, and in no plan yet
        self.attachments[key] = self._local.setdefault(vpc, {})[key] = attachment
        in_pod = self._pods.setdefault(attachment.netns, set())
        self._dirty.attachments |= in_pod  # their ranks may change
        in_pod.add(key)
        remotes = self._remotes.setdefault(vpc, RemoteRoutes(self._here()))
        remotes.announce([packed(network) for network in attachment.announces])
        for network in attachment.announces:
            announcers = self._announcers.setdefault((vpc, network), set())
            self._dirty.attachments |= announcers  # who of them has it may change
            announcers.add(key)
        self._dirty.attachments.add(key)
        self._touch(vpc)

    def _drop(self, key: Key) -> None:
        vpc = key[0]
        self._withdraw(key)
        del self.attachments[key], self._local[vpc][key]
        if not self._local[vpc]:
            del self._local[vpc]
        self._touch(vpc)

    def _withdraw(self, key: Key) -> None:
        """What it announced is not announced by it any more."""
        vpc, networks = key[0], self.attachments[key].announces
        in_pod = self._pods[netns := self.attachments[key].netns]
        in_pod.remove(key)
        self._dirty.attachments |= in_pod
        if not in_pod:
            del self._pods[netns]
        self._remotes[vpc].withdraw([packed(network) for network in networks])
        for network in networks:
            announcers = self._announcers[vpc, network]
            announcers.remove(key)
            self._dirty.attachments |= announcers
            if not announcers:
                del self._announcers[vpc, network]
        self._dirty.attachments.add(key)
        self._endpoints.pop(key, None)

    def _endpoint(self, prefix: IPv6Network, attachment: Attachment) -> Endpoint:
        return Endpoint(
            vpc=names.vpc_hex(attachment.vpc),
            function=names.function_hex(attachment.function),
            attachment=attachment.name,
            sid=str(srv6.sid(prefix, attachment.vpc, attachment.function)),
            networks=tuple(map(str, attachment.announces)),
            epoch=attachment.epoch,
        )

    def _told(self, vpc: int) -> None:
        """A view arrived: an epoch taken without it is compared with it, once."""
        self._touch(vpc)
        unsettled = [each for each in self._local.get(vpc, {}).values() if not each.settled]
        for attachment in unsettled if self.complete(vpc) else ():
            known = self._known_epochs(attachment)
            late = any(epoch >= attachment.epoch for epoch in known)
            epoch = self._clock.take(*known) if late else attachment.epoch
            try:
                self.amend(replace(attachment, epoch=epoch, settled=True))
            except Unreachable as error:
                # The routes are no worse for it, and the next view is another chance.
                log.warning("epoch not settled yet", attachment=attachment.name, error=str(error))

    def _known_epochs(self, attachment: Attachment) -> list[int]:
        """The epochs that others are known to hold the attachment with."""
        remotes = self._remotes.get(attachment.vpc)
        return remotes.epochs(attachment.function) if remotes else []

    def _here(self) -> bytes:
        """How the SIDs of this node begin."""
        return srv6.locator(self.prefix).network_address.packed[:8] if self.prefix else b""

    def _remember(self) -> None:
        prefix, filtered = (str(each) if each else "" for each in (self.prefix, self.filtered))
        self._records.put_node(NodeFile(prefix, self._clock.last, filtered))

    def _touch(self, vpc: int) -> None:
        self._dirty.vpcs.add(vpc)
        self.wake.set()

    def _touch_endpoints(self) -> None:
        self.sequence = self._clock.take()
        try:
            self._remember()
        finally:  # what is so is told, whether it can be remembered or not
            self._announce()
            self.wake.set()

    def _announce(self) -> None:
        for event in self._watchers:
            event.set()

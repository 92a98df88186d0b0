"""The desired store: what is attached here, and what the VPCs hosted here reach elsewhere.

Three writers tell of remote routes: the kernel (what was there when we started), MQTT, and Kubernetes. Setting anything
only marks the VPC dirty; ``sync`` applies it, ``registration`` and ``segment`` tell it to others.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network, ip_network
from typing import NamedTuple

import structlog

from galactic import names, srv6
from galactic.errors import Rejected
from galactic.linux.objects import Network
from galactic.messages import Endpoint, NodeEndpoints, Route
from galactic.node.attachment import Attachment, Key
from galactic.node.epoch import Clock
from galactic.node.records import NodeFile, Records

log = structlog.get_logger(__name__)


class Remote(NamedTuple):
    """A network of a VPC that is elsewhere, or that the table says is here."""

    segment: bytes  # packed
    cluster: str
    node: str
    function: int
    epoch: int


def remote(vpc: int, route: Route) -> tuple[Network, Remote]:
    """A route of a table, checked. Raises Rejected: whatever the sender, nothing leads out of the VPC."""
    if len(route.segments) != 1:
        raise Rejected(f"{len(route.segments)} segments, exactly one is understood", field=route.network)
    segment = srv6.parse_sid(route.segments[0])
    if segment.vpc != vpc:
        raise Rejected(f"{segment} is not a SID of VPC {names.vpc_hex(vpc)}", field=route.network)
    try:
        network = ip_network(route.network)
    except ValueError as error:
        raise Rejected(str(error)) from error
    function = names.parse_function(route.function)
    return network, Remote(segment.address.packed, route.cluster, route.node, function, route.epoch)


@dataclass(frozen=True, slots=True)
class View:
    """All of a VPC's routes as one writer knows them."""

    revision: int
    routes: Mapping[Network, Remote]


@dataclass(slots=True)
class _Views:
    adopted: dict[Network, bytes] = field(default_factory=dict)  # found in the kernel at start
    mqtt: View | None = None
    kubernetes: View | None = None
    parsed: dict[Route, tuple[Network, Remote]] = field(default_factory=dict)  # of the MQTT view


class Store:
    """Everything wanted of this node. ``wake`` is set when the kernel may have to change."""

    def __init__(self, cluster: str, records: Records, clock: Clock) -> None:
        self._cluster, self._records, self._clock = cluster, records, clock
        self._views: dict[int, _Views] = {}
        self._watchers: list[asyncio.Event] = []
        self.attachments: dict[Key, Attachment] = {}
        self.prefix: IPv6Network | None = None
        self.filtered: IPv6Network | None = None
        self.sequence = 0
        self.dirty: set[int] = set()
        self.rehost = False  # the plan of the host itself changed
        self.wake = asyncio.Event()

    def restore(self) -> None:
        """What the records remember of an earlier life."""
        node = self._records.node()
        self._clock.observe(node.clock)
        self.prefix = srv6.parse_prefix(node.prefix) if node.prefix else None
        self.filtered = srv6.parse_prefix(node.filtered) if node.filtered else None
        self.attachments = self._records.attachments()
        for attachment in self.attachments.values():
            self._clock.observe(attachment.epoch)
        self._touch_endpoints(*{vpc for vpc, _ in self.attachments})

    def watch(self) -> asyncio.Event:
        """A new event, set whenever endpoints or the prefix change. It is set now."""
        event = asyncio.Event()
        event.set()
        self._watchers.append(event)
        return event

    @property
    def hosted(self) -> set[int]:
        """The VPCs that have an attachment here."""
        return {vpc for vpc, _ in self.attachments}

    def local(self, vpc: int) -> list[Attachment]:
        return [attachment for key, attachment in self.attachments.items() if key[0] == vpc]

    def set_prefix(self, prefix: IPv6Network) -> None:
        """The node's SRv6 prefix. A new one moves every SID."""
        if prefix != self.prefix:
            log.info("the node's prefix", prefix=str(prefix), before=str(self.prefix))
            self.prefix = prefix
            self.rehost = True
            self._touch_endpoints(*self.hosted)
            self._remember()

    def set_filtered(self, prefix: IPv6Network) -> None:
        """The packet filter is in place for a node with that prefix. It outlives us, as the records do."""
        if prefix != self.filtered:
            self.filtered = prefix
            self._remember()

    def replan(self) -> None:
        """Something that all plans depend on changed."""
        self.rehost = True
        self.wake.set()

    def attach(self, attachment: Attachment) -> Attachment:
        """Takes the attachment in, durably, with its epoch. Raises Unreachable when that cannot be written."""
        known = self._known_epochs(attachment)
        settled = self.complete(attachment.vpc)
        attachment = replace(attachment, epoch=self._clock.take(*known), settled=settled)
        self._records.put(attachment)
        self.attachments[attachment.key] = attachment
        self._touch_endpoints(attachment.vpc)
        return attachment

    def amend(self, attachment: Attachment) -> None:
        """The same attachment with other details and the same epoch."""
        self._records.put(attachment)
        self.attachments[attachment.key] = attachment
        self._touch_endpoints(attachment.vpc)

    def detach(self, key: Key) -> None:
        """Forgets the attachment, durably. Forgetting what is not there is fine."""
        self._records.remove(key)
        if self.attachments.pop(key, None):
            if key[0] not in self.hosted:
                self._views.pop(key[0], None)
            self._touch_endpoints(key[0])

    def adopt(self, vpc: int, routes: Mapping[Network, bytes]) -> None:
        """What the kernel had when we started stays until a writer knows the whole table."""
        self._views.setdefault(vpc, _Views()).adopted = dict(routes)
        self._touch(vpc)

    def set_mqtt(self, vpc: int, revision: int, routes: Iterable[Route]) -> None:
        """The whole table of a hosted VPC, as MQTT knows it."""
        if vpc in self.hosted:
            views = self._views.setdefault(vpc, _Views())
            views.parsed = _parsed(vpc, routes, views.parsed)
            views.mqtt = View(revision, dict(views.parsed.values()))
            self._told(vpc)

    def set_kubernetes(self, vpc: int, view: View) -> None:
        """The whole table of a hosted VPC, as the attachments' status has it."""
        if vpc in self.hosted:
            self._views.setdefault(vpc, _Views()).kubernetes = view
            self._told(vpc)

    def complete(self, vpc: int) -> bool:
        """Whether a writer has told of the whole table of the VPC."""
        views = self._views.get(vpc)
        return bool(views and (views.mqtt or views.kubernetes))

    def remote(self, vpc: int) -> dict[Network, bytes]:
        """The networks of the VPC that are elsewhere, with the packed SID that leads there: the newest view's."""
        views = self._views.get(vpc)
        if views is None:
            return {}
        told = [view for view in (views.mqtt, views.kubernetes) if view]
        own = {network for attachment in self.local(vpc) for network in attachment.announces}
        here = (srv6.locator(self.prefix).network_address.packed[:8],) if self.prefix else ()
        if not told:
            routes = views.adopted.items()
        else:
            newest = max(told, key=lambda view: view.revision)
            routes = {network: each.segment for network, each in newest.routes.items()}.items()
        return {network: to for network, to in routes if network not in own and to[:8] not in here}

    def announcement(self) -> NodeEndpoints | None:
        """All endpoints of this node; None before it knows its prefix."""
        if self.prefix is None:
            return None
        prefix = self.prefix
        endpoints = (
            Endpoint(
                vpc=names.vpc_hex(vpc),
                function=names.function_hex(function),
                attachment=attachment.name,
                sid=str(srv6.sid(prefix, vpc, function)),
                networks=tuple(map(str, attachment.announces)),
                epoch=attachment.epoch,
            )
            for (vpc, function), attachment in sorted(self.attachments.items())
        )
        return NodeEndpoints(self.sequence, tuple(endpoints))

    def take_dirty(self) -> tuple[set[int], bool]:
        """The VPCs that changed since the last call, and whether the host's own plan did."""
        dirty, rehost = self.dirty, self.rehost
        self.dirty, self.rehost = set(), False
        self.wake.clear()
        return dirty, rehost

    def _told(self, vpc: int) -> None:
        """A view arrived: an epoch taken without it is compared with it, once."""
        for attachment in self.local(vpc):
            if attachment.settled or not self.complete(vpc):
                continue
            known = self._known_epochs(attachment)
            late = any(epoch >= attachment.epoch for epoch in known)
            epoch = self._clock.take(*known) if late else attachment.epoch
            self.amend(replace(attachment, epoch=epoch, settled=True))
        self._touch(vpc)

    def _known_epochs(self, attachment: Attachment) -> list[int]:
        """The epochs that others are known to hold the attachment with."""
        views = self._views.get(attachment.vpc)
        return [
            each.epoch
            for view in ((views.mqtt, views.kubernetes) if views else ())
            if view
            for each in view.routes.values()
            if each.function == attachment.function
            and each.cluster == self._cluster
            and not self._is_here(each.segment)
        ]

    def _is_here(self, segment: bytes) -> bool:
        return self.prefix is not None and segment[:8] == self.prefix.network_address.packed[:8]

    def _remember(self) -> None:
        prefix, filtered = (str(each) if each else "" for each in (self.prefix, self.filtered))
        self._records.put_node(NodeFile(prefix, self._clock.last, filtered))

    def _touch(self, *vpcs: int) -> None:
        self.dirty.update(vpcs)
        self.wake.set()

    def _touch_endpoints(self, *vpcs: int) -> None:
        self.sequence = self._clock.take()
        self._remember()
        for event in self._watchers:
            event.set()
        self._touch(*vpcs)


def _parsed(
    vpc: int, routes: Iterable[Route], known: Mapping[Route, tuple[Network, Remote]]
) -> dict[Route, tuple[Network, Remote]]:
    """Every usable route, parsed; most of them were so already."""
    parsed = {}
    for route in routes:
        entry = known.get(route)
        if entry is None:
            try:
                entry = remote(vpc, route)
            except Rejected as error:
                log.warning("route ignored", vpc=names.vpc_hex(vpc), network=route.network, error=str(error))
                continue
        parsed[route] = entry
    return parsed

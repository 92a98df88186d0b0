"""The desired store: what two writers (MQTT and Kubernetes) said last, and the tables that follow from it.

Setting something marks it dirty and costs little; ``commit`` brings the tables up to date and returns what changed in
them. It looks only at the attachments and networks that were touched, however large the VPC, and still arrives at
``table.table`` of everything with the tables before it as ``held`` (tests/unit/router/test_store.py proves that).
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from itertools import chain, islice
from sys import intern
from typing import Final

import msgspec

from galactic.diff import Diff
from galactic.messages import Endpoint, Route
from galactic.router.rib.import_policy import OPEN, Policy
from galactic.router.rib.networks import Network
from galactic.router.rib.path import (
    Admission,
    Attachment,
    EndpointPath,
    Holder,
    Identity,
    NodeRef,
    Rejection,
    Segment,
)
from galactic.router.rib.path import admission as admission_of
from galactic.router.rib.prefixes import Prefixes, clash
from galactic.router.rib.table import Conflict, VpcTable
from galactic.router.rib.vpc import Vpc

ALL: Final = 1 << 30
"""Endpoints, attachments and networks that are looked at in one go."""
TURN: Final = 1_000
"""Routes that are taken over in one go."""


@dataclass(slots=True)
class _Node:
    """What one node said last, and what came of it."""

    prefix: IPv6Network | None = None
    sequence: int = -1
    endpoints: tuple[Endpoint, ...] = ()
    admitted: Admission = field(default_factory=Admission)
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit changed: routes by VPC, attachments whose endpoint or conflicts may differ, new rejections.

    ``more``: this is a part of it, and others follow. What the parts say together is what the whole would.
    """

    routes: dict[int, Diff[Network, Route]]
    touched: frozenset[Identity]
    rejections: tuple[Rejection, ...]
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.routes or self.touched or self.rejections)


class Store:
    """Registrations by node, attachments by name, tables by VPC."""

    def __init__(self, *, checked: bool, policy: Policy = OPEN) -> None:
        """``checked``: endpoints are held against attachments (Kubernetes); else there are none (standalone)."""
        self.changed = asyncio.Event()
        """Set whenever a commit is due."""
        self._policy = policy
        self._prefixes = None if checked else Prefixes()  # in Kubernetes the operator has seen to it
        self._attachments: dict[str, Attachment] | None = {} if checked else None
        self._nodes: dict[NodeRef, _Node] = {}
        self._naming: dict[str, set[NodeRef]] = {}  # attachment → nodes that have an endpoint of that name
        self._vpcs: dict[int, Vpc] = {}
        self._dirty_nodes: set[NodeRef] = set()
        self._rejections: list[Rejection] = []  # of nodes that were taken in
        self._absent: set[NodeRef] = set()
        self._turned: set[NodeRef] = set()  # nodes that came or went since
        self._due: set[int] = set()  # VPCs to look at
        self._under_way: set[int] = set()  # those that the commit under way has not done with

    # -- writers -----------------------------------------------------------------------------------------------------

    def registered(self, origin: NodeRef, sequence: int, endpoints: tuple[Endpoint, ...]) -> bool:
        """All endpoints of a node, from either writer. False when something newer is known, or other of that number."""
        node = self._nodes.setdefault(origin, _Node())
        if sequence <= node.sequence:
            return sequence == node.sequence and endpoints == node.endpoints
        endpoints = _shared(node.endpoints, endpoints)
        self._name(origin, node.endpoints, endpoints)
        node.sequence, node.endpoints = sequence, endpoints
        self._mark((origin,))
        return True

    def prefixed(self, origin: NodeRef, prefix: IPv6Network | None) -> None:
        """The SRv6 prefix of a node; None: none that is valid."""
        node = self._nodes.setdefault(origin, _Node())
        if node.prefix != prefix:
            node.prefix = prefix
            if self._prefixes is not None:
                self._prefixes.say(origin, prefix)
            self._mark((origin,))

    def removed(self, origin: NodeRef) -> None:
        """The node is no more: everything it said is forgotten, its sequence included."""
        if (node := self._nodes.get(origin)) is not None:
            self._name(origin, node.endpoints, ())
            node.prefix, node.sequence, node.endpoints = None, -1, ()
            if self._prefixes is not None:
                self._prefixes.say(origin, None)
            self._mark((origin,))

    def attached(self, name: str, attachment: Attachment | None) -> None:
        """A VPCAttachment (``namespace/name``) as it is now; None: it is no more."""
        assert self._attachments is not None
        if self._attachments.get(name) == attachment:
            return
        if attachment is None:
            del self._attachments[name]
        else:
            self._attachments[name] = attachment
        self._mark(self._naming.get(name, ()))

    def admit(self, policy: Policy) -> None:
        """Which clusters may be in which VPC, from now on."""
        self._policy = policy
        self._due |= self._vpcs.keys()
        self.changed.set()

    def hold(self, vpc: int, routes: Mapping[Network, Route]) -> None:
        """The table of a VPC that is in force, from before this process: those who hold a network keep it."""
        found = self._vpcs.setdefault(vpc, Vpc())
        added = {network: route for network, route in routes.items() if network not in found.routes}
        found.force(added)
        if self._prefixes is not None:
            self._prefixes.hold(added.values())
        self._due.add(vpc)
        self.changed.set()

    def resume(self, held: Mapping[int, Mapping[Network, Route]]) -> None:
        """The tables in force are these, whatever this store had computed: what another router told counts.

        The next commit then says what has to change in them.
        """
        for _ in self.resuming(held):
            pass

    def resuming(self, held: Mapping[int, Mapping[Network, Route]]) -> Iterator[None]:
        """``resume`` a part at a time; nothing may be committed before it is over."""
        for vpc in held.keys() | self._vpcs.keys():
            found, routes = self._vpcs.setdefault(vpc, Vpc()), held.get(vpc, {})
            gone = [(network, None) for network in found.routes if network not in routes]
            every = chain[tuple[Network, Route | None]](routes.items(), gone)
            while some := dict(islice(every, TURN)):
                known = found.routes
                found.force({it: route for it, route in some.items() if known.get(it) != route})
                if self._prefixes is not None:
                    self._prefixes.hold(route for route in some.values() if route is not None)
                yield
            self._due.add(vpc)
        self.changed.set()

    def absent(self, origin: NodeRef, absent: bool) -> None:
        """That node is offline; or it is not."""
        if (origin in self._absent) != absent:
            (self._absent.add if absent else self._absent.discard)(origin)
            self._turned.add(origin)
            self.changed.set()

    def silence(self, origin: NodeRef, silent: bool) -> None:
        """What this node said counts no more, until it is heard of again."""
        if (node := self._nodes.get(origin)) is not None and node.silent != silent:
            node.silent = silent
            self._mark((origin,))

    # -- readers -----------------------------------------------------------------------------------------------------

    def heard(self, origin: NodeRef) -> bool:
        """Whether that node's endpoints are known."""
        return (node := self._nodes.get(origin)) is not None and node.sequence >= 0

    def segments(self) -> dict[NodeRef, Segment]:
        """Everything said by the nodes, as ``table.table`` takes it."""
        return {origin: Segment(node.prefix, node.endpoints) for origin, node in self._nodes.items()}

    def clashing(self) -> Mapping[NodeRef, NodeRef]:
        """Nodes that say a prefix which is another's, and whose it is, as of the last commit."""
        return self._prefixes.refused if self._prefixes is not None else {}

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that anything is known of."""
        return frozenset(self._vpcs)

    def rejections(self) -> list[Rejection]:
        """All that is said and not believed, as of the last commit."""
        standing = [refused for node in self._nodes.values() for refused in node.admitted.rejections]
        for found in self._vpcs.values():
            standing += (refused for several in found.rejections.values() for refused in several)
        return standing

    def routes(self, vpc: int) -> Mapping[Network, Route]:
        """The table of one VPC as of the last commit."""
        found = self._vpcs.get(vpc)
        return found.routes if found else {}

    def tables(self) -> dict[int, VpcTable]:
        """All tables as of the last commit, in the form of ``table.table``."""
        return {vpc: found.table() for vpc, found in self._vpcs.items() if found}

    def endpoint(self, identity: Identity) -> EndpointPath | None:
        """Where an attachment is attached."""
        found = self._vpcs.get(identity.vpc)
        return found.endpoints.get(Holder(identity.cluster, identity.function)) if found else None

    def conflicts(self, claim: EndpointPath) -> list[Conflict]:
        """The networks that an attachment's endpoint claims and does not have."""
        found = self._vpcs.get(claim.vpc)
        return [*found.lost(claim)] if found else []

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Nodes, endpoints, routes and contested networks."""
        return (
            len(self._nodes),
            sum(len(found.endpoints) for found in self._vpcs.values()),
            sum(len(found.routes) for found in self._vpcs.values()),
            sum(len(found.conflicts) for found in self._vpcs.values()),
        )

    # -- commit ------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether a commit is due, or under way."""
        return bool(self._dirty_nodes or self._turned or self._due or self._under_way)

    def take_in(self, at_most: int) -> bool:
        """A part of what ``commit`` would have to do first: checks so many endpoints. Whether there are more.

        None are while a commit is under way: what it was begun with decides what comes of it.
        """
        if self._under_way:
            return False
        for origin in self._turned:
            self._turn(origin)
        self._turned.clear()
        if self._prefixes is not None:
            self._dirty_nodes |= self._prefixes.settle() & self._nodes.keys()
        while self._dirty_nodes and at_most > 0:
            origin = self._dirty_nodes.pop()
            at_most -= 1 + len(self._nodes[origin].endpoints)
            self._admit(origin)
        return bool(self._dirty_nodes)

    def commit(self, horizon: int, at_most: int = ALL) -> Commit:
        """Brings the tables up to date with what was set before it began. ``horizon``: see ``table``.

        A part of that, if there is much: looks at so many attachments and networks, and is called again for ``more``.
        """
        if not self._under_way:
            while self.take_in(ALL):
                pass
            self._under_way = self._due | {vpc for vpc, found in self._vpcs.items() if found.future}
            self._due = set()
        rejections, self._rejections = self._rejections, []
        routes: dict[int, Diff[Network, Route]] = {}
        identities: set[Identity] = set()
        while self._under_way and at_most > 0:
            vpc = next(iter(self._under_way))
            found = self._vpcs[vpc]
            part = found.settle(vpc, self._policy, horizon, self._absent, at_most)
            at_most -= 1 + part.looked
            rejections += part.rejections
            if part.changed:
                routes[vpc] = part.changed
            identities |= {Identity(who.cluster, vpc, who.function) for who in part.concerned}
            if part.done:
                self._under_way.discard(vpc)
                if not found:
                    del self._vpcs[vpc]
                    self._due.discard(vpc)
        return Commit(routes, frozenset(identities), tuple(rejections), more=bool(self._under_way))

    def _turn(self, origin: NodeRef) -> None:
        """A node came or went: what others say of the attachments that it says it has may count now, or no more."""
        node = self._nodes.get(origin)
        for claim in node.admitted.claims.values() if node else ():
            if self._vpcs[claim.vpc].contested(claim.holder):
                self._vpcs[claim.vpc].touch(claim.holder)
                self._due.add(claim.vpc)

    def _admit(self, origin: NodeRef) -> None:
        node = self._nodes[origin]
        before = node.admitted
        if node.silent:
            now = Admission()
        elif (other := self.clashing().get(origin)) is not None:
            now = Admission({}, (clash(origin, node.prefix, other),))
        else:
            now = admission_of(origin, Segment(node.prefix, node.endpoints), self._attachments)
        node.admitted = now
        for sid in before.claims.keys() - now.claims.keys():  # before others come: the prefix may be another
            self._claim(origin, before.claims[sid].identity, None)
        for sid, claim in now.claims.items():
            known = before.claims.get(sid)
            if claim == known:
                now.claims[sid] = known  # the one that the tables have: not two of each
            else:
                self._claim(origin, claim.identity, claim)
        if node.prefix is None and node.sequence < 0:
            del self._nodes[origin]
        told = set(before.rejections)
        self._rejections += (rejection for rejection in now.rejections if rejection not in told)

    def _claim(self, origin: NodeRef, whose: Identity, claim: EndpointPath | None) -> None:
        who = Holder(whose.cluster, whose.function)
        self._vpcs.setdefault(whose.vpc, Vpc()).claim(who, origin, claim)
        self._due.add(whose.vpc)

    def _name(self, origin: NodeRef, before: tuple[Endpoint, ...], now: tuple[Endpoint, ...]) -> None:
        if self._attachments is None:
            return
        for name in {endpoint.attachment for endpoint in before} - {endpoint.attachment for endpoint in now}:
            self._naming[name].discard(origin)
            if not self._naming[name]:
                del self._naming[name]
        for endpoint in now:
            self._naming.setdefault(endpoint.attachment, set()).add(origin)

    def _mark(self, origins: Iterable[NodeRef]) -> None:
        self._dirty_nodes.update(origins)
        self.changed.set()


def _shared(known: tuple[Endpoint, ...], said: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The same endpoints; those that were there before are the very objects, whose strings the tables have."""
    there = {endpoint.sid: endpoint for endpoint in known}
    return tuple(
        before
        if (before := there.get(endpoint.sid)) == endpoint
        else msgspec.structs.replace(endpoint, vpc=intern(endpoint.vpc))
        for endpoint in said
    )

"""The tables of all VPCs, brought up to date a part at a time."""

import asyncio
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from galactic.diff import Diff
from galactic.messages import Route
from galactic.router.rib.import_policy import OPEN, Policy
from galactic.router.rib.imports import Imports, is_imported
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Holder, Identity, NodeRef, Rejection
from galactic.router.rib.table import Conflict, VpcTable
from galactic.router.rib.vpc_rib import VpcRib
from galactic.validation.peering import Side

TURN: Final = 1_000
"""Routes that are installed in one go."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Changes of one commit: own routes by VPC, attachments whose best path or conflicts may differ, new rejections.

    ``more``: this is a part of it, and others follow. The parts together are what the whole would be.
    """

    routes: dict[int, Diff[Network, Route]]
    touched: frozenset[Identity]
    rejections: tuple[Rejection, ...]
    more: bool = False
    imported: dict[int, Diff[Network, Route]] = field(default_factory=dict)
    """Changes of imported routes. Where a VPC lost its own route and imports one instead, it is in both."""

    def __bool__(self) -> bool:
        return bool(self.routes or self.touched or self.rejections or self.imported)

    @property
    def tables(self) -> dict[int, Diff[Network, Route]]:
        """Changes of the tables as they are published: of own routes, and of imported ones."""
        tables = dict(self.routes)
        for vpc, imported in self.imported.items():
            own = tables.get(vpc, Diff({}, {}))
            set_ = {**imported.set, **own.set}
            gone = {**imported.delete, **own.delete}
            tables[vpc] = Diff(
                set_, {network: route for network, route in gone.items() if network not in set_}
            )
        return tables


class VpcTables:
    """By VPC. Paths, routes and policy take effect in ``settle``."""

    def __init__(self, changed: asyncio.Event, policy: Policy = OPEN) -> None:
        self._changed, self._policy = changed, policy
        self._vpcs: dict[int, VpcRib] = {}
        self._unsettled: set[int] = set()
        self._under_way: set[int] = set()  # those that the commit under way has not settled
        self._imports = Imports(self._own)
        self._importing = False  # whether the commit under way has imports left to decide

    # -- writers -----------------------------------------------------------------------------------------------------

    def set_path(self, attachment: Identity, node: NodeRef, path: EndpointPath | None) -> None:
        """The path of an attachment by way of that node; None: there is none."""
        rib = self._vpcs.setdefault(attachment.vpc, VpcRib())
        rib.set_path(Holder(attachment.cluster, attachment.function), node, path)
        self._unsettled.add(attachment.vpc)

    def reconsider(self, attachment: Identity) -> None:
        """One of its paths may count more or less than before. Where there is only one, that changes nothing."""
        rib, holder = self._vpcs[attachment.vpc], Holder(attachment.cluster, attachment.function)
        if rib.has_several_paths(holder):
            rib.touch(holder)
            self._unsettled.add(attachment.vpc)

    def set_policy(self, policy: Policy) -> None:
        """Which clusters may be in which VPC, from now on."""
        self._policy = policy
        self._unsettled |= self._vpcs.keys()
        self._changed.set()

    def declare(self, cluster: str, vpc: int, name: str, side: Side[int] | None) -> None:
        """A VPC's networks and peers, as its cluster declares them by namespace/name; None: without peers."""
        if self._imports.declare(cluster, vpc, name, side):
            self._changed.set()

    def install(self, tables: Mapping[int, Mapping[Network, Route]]) -> Iterator[dict[Network, Route | None]]:
        """Puts the tables that another router published in force, in place of the computed ones.

        The next commit holds what has to change in them. A step installs and yields some routes; nothing may be
        committed before the last.
        """
        for vpc in tables.keys() | self._vpcs.keys() | self._imports.vpcs:
            rib, table = self._vpcs.setdefault(vpc, VpcRib()), tables.get(vpc, {})
            foreign = {network: route for network, route in table.items() if is_imported(vpc, route)}
            self._imports.install(vpc, foreign)
            routes = (
                {network: table[network] for network in table if network not in foreign} if foreign else table
            )
            gone = [(network, None) for network in rib.routes if network not in routes]
            remaining = chain[tuple[Network, Route | None]](routes.items(), gone)
            while portion := dict(islice(remaining, TURN)):
                known = rib.routes
                rib.install(
                    {network: route for network, route in portion.items() if known.get(network) != route}
                )
                yield portion
            self._unsettled.add(vpc)
        self._imports.resync()
        self._changed.set()

    # -- readers -----------------------------------------------------------------------------------------------------

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that have paths or routes."""
        return frozenset(self._vpcs) | self._imports.vpcs

    def routes(self, vpc: int) -> Mapping[Network, Route]:
        """The table of one VPC as of the last commit, with what it imports."""
        return self._imports.table(vpc, self._own(vpc))

    def best_path(self, attachment: Identity) -> EndpointPath | None:
        """By which node an attachment is reached."""
        rib = self._vpcs.get(attachment.vpc)
        return rib.best_paths.get(Holder(attachment.cluster, attachment.function)) if rib else None

    def conflicts(self, path: EndpointPath) -> list[Conflict]:
        """The networks that an attachment's best path announces and does not have."""
        rib = self._vpcs.get(path.vpc)
        return [*rib.lost(path)] if rib else []

    def snapshot(self) -> dict[int, VpcTable]:
        """The VPCs' own tables as of the last commit, in the form of ``table.table``."""
        return {vpc: rib.table() for vpc, rib in self._vpcs.items() if rib}

    def rejections(self) -> list[Rejection]:
        """Paths that are in no table, as of the last commit."""
        return [
            rejection
            for rib in self._vpcs.values()
            for rejections in rib.rejections.values()
            for rejection in rejections
        ]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Best paths, routes and contested networks."""
        ribs = self._vpcs.values()
        return (
            sum(len(rib.best_paths) for rib in ribs),
            sum(len(rib.routes) for rib in ribs),
            sum(len(rib.conflicts) for rib in ribs),
        )

    @property
    def imports(self) -> tuple[int, int]:
        """Peerings in force, and routes that VPCs import."""
        return self._imports.counts

    def _own(self, vpc: int) -> Mapping[Network, Route]:
        rib = self._vpcs.get(vpc)
        return rib.routes if rib else {}

    # -- commits -----------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether there is anything to settle that is not under way."""
        return bool(self._unsettled or self._imports)

    @property
    def under_way(self) -> bool:
        """Whether a commit began whose last part is still to come."""
        return bool(self._under_way) or self._importing

    def begin(self) -> None:
        """A commit begins, of what was set by now."""
        self._under_way = self._unsettled | {vpc for vpc, rib in self._vpcs.items() if rib.future}
        self._unsettled = set()

    def settle(self, horizon: int, offline: AbstractSet[NodeRef], at_most: int) -> Commit:
        """A part of the commit that began: decides so many attachments and networks. For the others see ``table``."""
        rejections: list[Rejection] = []
        routes: dict[int, Diff[Network, Route]] = {}
        imported: dict[int, Diff[Network, Route]] = {}
        touched: set[Identity] = set()
        while self._under_way and at_most > 0:
            vpc = next(iter(self._under_way))
            rib = self._vpcs[vpc]
            part = rib.settle(vpc, self._policy, horizon, offline, at_most)
            at_most -= 1 + part.decided
            rejections += part.rejections
            if part.changed:
                routes[vpc] = part.changed
                self._imports.changed(vpc, (*part.changed.set, *part.changed.delete), imported)
            touched |= {Identity(holder.cluster, vpc, holder.function) for holder in part.concerned}
            if part.done:
                self._under_way.discard(vpc)
                if not rib:
                    del self._vpcs[vpc]
                    self._unsettled.discard(vpc)
        if not self._under_way:
            self._imports.settle(at_most, imported)
            self._importing = bool(self._imports)
        return Commit(routes, frozenset(touched), tuple(rejections), self.under_way, imported)

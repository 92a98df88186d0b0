"""The tables of all VPCs, brought up to date a part at a time."""

import asyncio
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from galactic.diff import Diff
from galactic.messages import Route
from galactic.router.rib.import_policy import OPEN, Policy
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Holder, Identity, NodeRef, Rejection
from galactic.router.rib.table import Conflict, VpcTable
from galactic.router.rib.vpc_rib import VpcRib

TURN: Final = 1_000
"""Routes that are installed in one go."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit changed: routes by VPC, attachments whose best path or conflicts may differ, new rejections.

    ``more``: this is a part of it, and others follow. The parts together are what the whole would be.
    """

    routes: dict[int, Diff[Network, Route]]
    touched: frozenset[Identity]
    rejections: tuple[Rejection, ...]
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.routes or self.touched or self.rejections)


class VpcTables:
    """By VPC. Paths, routes and policy take effect in ``settle``."""

    def __init__(self, changed: asyncio.Event, policy: Policy = OPEN) -> None:
        self._changed, self._policy = changed, policy
        self._vpcs: dict[int, VpcRib] = {}
        self._unsettled: set[int] = set()
        self._under_way: set[int] = set()  # those that the commit under way has not settled

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

    def install(self, tables: Mapping[int, Mapping[Network, Route]]) -> Iterator[dict[Network, Route | None]]:
        """Puts the tables that another router published in force, in place of the computed ones.

        The next commit holds what has to change in them. A step installs and yields some routes; nothing may be
        committed before the last.
        """
        for vpc in tables.keys() | self._vpcs.keys():
            rib, routes = self._vpcs.setdefault(vpc, VpcRib()), tables.get(vpc, {})
            gone = [(network, None) for network in rib.routes if network not in routes]
            remaining = chain[tuple[Network, Route | None]](routes.items(), gone)
            while portion := dict(islice(remaining, TURN)):
                known = rib.routes
                rib.install(
                    {network: route for network, route in portion.items() if known.get(network) != route}
                )
                yield portion
            self._unsettled.add(vpc)
        self._changed.set()

    # -- readers -----------------------------------------------------------------------------------------------------

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that have paths or routes."""
        return frozenset(self._vpcs)

    def routes(self, vpc: int) -> Mapping[Network, Route]:
        """The table of one VPC as of the last commit."""
        rib = self._vpcs.get(vpc)
        return rib.routes if rib else {}

    def best_path(self, attachment: Identity) -> EndpointPath | None:
        """By which node an attachment is reached."""
        rib = self._vpcs.get(attachment.vpc)
        return rib.best_paths.get(Holder(attachment.cluster, attachment.function)) if rib else None

    def conflicts(self, path: EndpointPath) -> list[Conflict]:
        """The networks that an attachment's best path announces and does not have."""
        rib = self._vpcs.get(path.vpc)
        return [*rib.lost(path)] if rib else []

    def snapshot(self) -> dict[int, VpcTable]:
        """All tables as of the last commit, in the form of ``table.table``."""
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

    # -- commits -----------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether there is anything to settle that is not under way."""
        return bool(self._unsettled)

    @property
    def under_way(self) -> bool:
        """Whether a commit began whose last part is still to come."""
        return bool(self._under_way)

    def begin(self) -> None:
        """A commit begins, of what was set by now."""
        self._under_way = self._unsettled | {vpc for vpc, rib in self._vpcs.items() if rib.future}
        self._unsettled = set()

    def settle(self, horizon: int, offline: AbstractSet[NodeRef], at_most: int) -> Commit:
        """A part of the commit that began: decides so many attachments and networks. For the others see ``table``."""
        rejections: list[Rejection] = []
        routes: dict[int, Diff[Network, Route]] = {}
        touched: set[Identity] = set()
        while self._under_way and at_most > 0:
            vpc = next(iter(self._under_way))
            rib = self._vpcs[vpc]
            part = rib.settle(vpc, self._policy, horizon, offline, at_most)
            at_most -= 1 + part.decided
            rejections += part.rejections
            if part.changed:
                routes[vpc] = part.changed
            touched |= {Identity(holder.cluster, vpc, holder.function) for holder in part.concerned}
            if part.done:
                self._under_way.discard(vpc)
                if not rib:
                    del self._vpcs[vpc]
                    self._unsettled.discard(vpc)
        return Commit(routes, frozenset(touched), tuple(rejections), more=bool(self._under_way))

"""The RIB: registrations of nodes from two writers (MQTT and Kubernetes), and the tables that follow from them.

Setting something marks it and costs little; ``commit`` brings the tables up to date and returns what changed in them.
It decides only the attachments and networks that were touched, however large the VPC, and still arrives at
``table.table`` of everything with the tables before it as ``installed`` (tests/unit/router/test_store.py proves that).
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from galactic.messages import Route
from galactic.router.rib.import_policy import OPEN, Policy
from galactic.router.rib.networks import Network
from galactic.router.rib.path import Rejection
from galactic.router.rib.registrations import Registrations
from galactic.router.rib.vpc_tables import Commit, VpcTables

ALL: Final = 1 << 30
"""Endpoints that are checked, or attachments and networks that are decided, in one go."""


class Store:
    """``nodes`` register, ``tables`` follow."""

    def __init__(self, *, checked: bool, policy: Policy = OPEN, listed: bool = False) -> None:
        """``checked``: endpoints are checked against attachments (Kubernetes). Standalone they are checked against the
        lists of their clusters; ``listed``: those of a cluster without one are not installed.
        """
        self.changed = asyncio.Event()
        """Set whenever there is something to commit."""
        self.tables = VpcTables(self.changed, policy)
        self.nodes = Registrations(self.tables, self.changed, checked=checked, listed=listed)

    def install(self, tables: Mapping[int, Mapping[Network, Route]]) -> Iterator[None]:
        """Installs the tables in force, a step at a time: see ``VpcTables.install``."""
        for portion in self.tables.install(tables):
            self.nodes.install_prefixes(route for route in portion.values() if route is not None)
            yield

    @property
    def pending(self) -> bool:
        """Whether there is something to commit, or a commit is under way."""
        return self.nodes.unchecked or self.tables.unsettled or self.tables.under_way

    def check(self, at_most: int) -> bool:
        """A part of what ``commit`` would have to do first: checks so many endpoints. Whether there are more.

        None are while a commit is under way: its result depends on what it began with.
        """
        return not self.tables.under_way and self.nodes.check(at_most)

    def commit(self, horizon: int, at_most: int = ALL) -> Commit:
        """Brings the tables up to date with what was set before it began. ``horizon``: see ``table``.

        A part of that, if there is much: decides so many attachments and networks, and is called again for ``more``.
        """
        if not self.tables.under_way:
            while self.check(ALL):
                pass
            self.tables.begin()
        rejections = self.nodes.new_rejections()
        part = self.tables.settle(horizon, self.nodes.offline, at_most)
        return replace(part, rejections=(*rejections, *part.rejections)) if rejections else part

    def rejections(self) -> list[Rejection]:
        """Everything that is rejected, as of the last commit."""
        return self.nodes.rejections() + self.tables.rejections()

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Nodes, best paths, routes and contested networks."""
        return len(self.nodes), *self.tables.counts

"""One VPC's table, and what it is made of: brought up to date for the attachments and networks that were touched.

They may be very many, so that is done a part at a time: first every attachment that was touched gets its best path,
then every network that this concerns its owner. So no network is decided before all who announce it are known, and
the result does not depend on how large the parts are.

There is an entry for each attachment and network, and nearly all attachments have one path and nearly all networks
one announcer. So a path that is alone is kept as such, and an announcer that is alone is not kept at all: the route
names it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice

from galactic.diff import Diff
from galactic.messages import Route
from galactic.router.rib.import_policy import Members, Policy, admitted, allows
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Holder, NodeRef, Rejection
from galactic.router.rib.table import Conflict, VpcTable, best_path, holder_of, network_owner


@dataclass(frozen=True, slots=True)
class Part:
    """The table's changes by one part of ``settle``, and new rejections.

    ``concerned`` are all attachments that it may concern, with the last part (``done``); ``decided`` is how many
    attachments and networks were decided.
    """

    changed: Diff[Network, Route]
    rejections: list[Rejection]
    concerned: set[Holder]
    decided: int
    done: bool


@dataclass(slots=True)
class VpcRib:
    """``routes`` is the table. Paths and installed routes take effect in ``settle``."""

    routes: dict[Network, Route] = field(default_factory=dict)
    best_paths: dict[Holder, EndpointPath] = field(default_factory=dict)
    rejections: dict[Holder, tuple[Rejection, ...]] = field(default_factory=dict)
    conflicts: dict[Network, tuple[Conflict, ...]] = field(default_factory=dict)
    future: set[Holder] = field(default_factory=set)
    """Attachments whose best path may change with time alone: an epoch is too far ahead."""
    _candidates: dict[Holder, EndpointPath | tuple[EndpointPath, ...]] = field(default_factory=dict)
    _announcers: dict[Network, tuple[Holder, ...]] = field(default_factory=dict)
    """Of networks that have several, or whose route does not name the only one; see ``_announcers_of``."""
    _touched: set[Holder] = field(default_factory=set)
    """Attachments to decide."""
    _stale: dict[Network, None] = field(default_factory=dict)
    """Networks to decide, when there are no attachments left."""
    _concerned: set[Holder] = field(default_factory=set)
    _begun: bool = False
    _present: Counter[str] = field(default_factory=Counter)  # attachments with paths, by cluster
    _members: Members = None  # those that may be in it

    def __bool__(self) -> bool:
        """Whether there is anything here."""
        return bool(self._candidates or self.routes)

    # -- writers -----------------------------------------------------------------------------------------------------

    def set_path(self, holder: Holder, node: NodeRef, path: EndpointPath | None) -> None:
        """The path of an attachment by way of that node; None: there is none."""
        before = self._paths(holder)
        now = tuple(other for other in before if other.origin != node) + (() if path is None else (path,))
        if now:
            self._candidates[holder] = now[0] if len(now) == 1 else now
        else:
            self._candidates.pop(holder, None)
        if bool(now) != bool(before):
            self._present[holder.cluster] += 1 if now else -1
            self._present += Counter()  # without those at nought
        self._touched.add(holder)

    def has_several_paths(self, holder: Holder) -> bool:
        """Whether several nodes register that attachment."""
        return len(self._paths(holder)) > 1

    def touch(self, holder: Holder) -> None:
        """Marks the attachment: with the same paths its best path may be another."""
        self._touched.add(holder)

    def install(self, routes: Mapping[Network, Route | None]) -> None:
        """These are in the table now, whatever was there before; None: there is none."""
        for network, route in routes.items():
            announcers = self._announcers_of(network)
            if announcers:
                self._announcers[network] = announcers
            for changed in (self.routes.pop(network, None), route):
                if changed is not None and (holder := holder_of(changed)) in self._candidates:
                    self.future.add(holder)  # the best path depends on what is installed
            if route is not None:
                self.routes[network] = route
            self._stale[network] = None
        self._begun = False  # which clusters may be in it follows from the table in force

    # -- what follows ------------------------------------------------------------------------------------------------

    def settle(
        self, vpc: int, policy: Policy, horizon: int, offline: AbstractSet[NodeRef], at_most: int
    ) -> Part:
        """A part of what it takes for the table to be right: decides so many attachments and networks.

        ``vpc`` is which one this is; for ``horizon`` and ``offline`` see ``table``. Which clusters may be in the VPC is
        decided once, when this begins.
        """
        if not self._begun:
            self._begun = True
            self._touched |= self.future
            self._touched |= self._apply_policy(vpc, policy, horizon)
        left = at_most
        rejections: list[Rejection] = []
        while self._touched and left > 0:
            holder = self._touched.pop()
            self._concerned.add(holder)
            rejections += self._decide_path(holder, horizon, offline)
            left -= 1
        changed: Diff[Network, Route] = Diff({}, {})
        if not self._touched:
            networks = sorted(islice(self._stale, left))
            for network in networks:
                del self._stale[network]
                self._decide_owner(network, changed)
            left -= len(networks)
        if self._touched or self._stale:
            return Part(changed, rejections, set(), at_most - left, done=False)
        concerned, self._concerned, self._begun = self._concerned, set(), False
        return Part(changed, rejections, concerned, at_most - left, done=True)

    def _apply_policy(self, vpc: int, policy: Policy, horizon: int) -> set[Holder]:
        """Decides which clusters may be in it, ``vpc``; returns the attachments that this concerns."""
        all_paths = (path for holder in self._candidates for path in self._paths(holder))
        before = self._members
        self._members = policy.members(vpc, self._present, all_paths, self.routes, horizon)
        if before == self._members:
            return set()
        return {
            holder
            for holder in self._candidates
            if not (allows(before, holder.cluster) and allows(self._members, holder.cluster))
        }

    def _decide_path(self, holder: Holder, horizon: int, offline: AbstractSet[NodeRef]) -> list[Rejection]:
        """Chooses the best path of an attachment; its networks are stale then. Returns new rejections."""
        before = self.best_paths.get(holder)
        paths, refused = admitted(self._paths(holder), self._members, self.routes)
        best, rejected = best_path(paths, self.routes, horizon, offline)
        rejected = [*refused, *rejected]
        known = self.rejections.pop(holder, ())
        if rejected:
            self.rejections[holder] = tuple(rejected)
        future = any(rejection.reason == "EpochInFuture" for rejection in rejected)
        (self.future.add if future else self.future.discard)(holder)
        if best != before:
            left = before.networks if before else ()
            joined = best.networks if best else ()
            for network in dict.fromkeys((*left, *joined)):
                others = tuple(other for other in self._announcers_of(network) if other != holder)
                self._announcers[network] = (*others, holder) if network in joined else others
                self._stale[network] = None
            if best is None:
                del self.best_paths[holder]
            else:
                self.best_paths[holder] = best
        return [rejection for rejection in rejected if rejection not in known]

    def _decide_owner(self, network: Network, changed: Diff[Network, Route]) -> None:
        """Chooses the owner of a network; adds what that changed."""
        before = self.routes.get(network)
        for conflict in self.conflicts.pop(network, ()):
            self._concerned |= {conflict.path.holder, conflict.owner.holder}
        announcers = self._announcers_of(network)
        self._announcers.pop(network, None)
        self._concerned.update(announcers)
        if not announcers:
            if before is not None:
                changed.delete[network] = self.routes.pop(network)
            return
        owner, others = network_owner([self.best_paths[holder] for holder in announcers], before)
        if others:
            self.conflicts[network] = tuple(Conflict(network, path, owner) for path in others)
            self._announcers[network] = announcers
        route = owner.route(network)
        if route != before:
            changed.set[network] = self.routes[network] = route

    # -- readers -----------------------------------------------------------------------------------------------------

    def table(self) -> VpcTable:
        """All of it, as ``table.table`` gives it; a copy."""
        return VpcTable(
            dict(self.routes),
            dict(self.best_paths),
            tuple(rejection for holder in sorted(self.rejections) for rejection in self.rejections[holder]),
            tuple(conflict for network in sorted(self.conflicts) for conflict in self.conflicts[network]),
        )

    def lost(self, path: EndpointPath) -> Iterator[Conflict]:
        """The networks that this path announces and does not have."""
        for network in path.networks:
            for conflict in self.conflicts.get(network, ()):
                if conflict.path.holder == path.holder:
                    yield conflict

    def _paths(self, holder: Holder) -> tuple[EndpointPath, ...]:
        paths = self._candidates.get(holder, ())
        return (paths,) if isinstance(paths, EndpointPath) else paths

    def _announcers_of(self, network: Network) -> tuple[Holder, ...]:
        """The attachments whose best path announces a network."""
        if (known := self._announcers.get(network)) is not None:
            return known
        route = self.routes.get(network)
        holder = None if route is None else holder_of(route)
        path = None if holder is None else self.best_paths.get(holder)
        return (holder,) if holder is not None and path is not None and network in path.networks else ()

"""One VPC's table, and what it is made of: brought up to date for the attachments and networks that were touched.

That may be very many, so it is done a part at a time: first every attachment that was touched finds its endpoint, then
every network that this concerns finds its holder. So no network is decided before all who claim it are known, and what
comes of it does not depend on how large the parts are.

There is an entry for each attachment and network, and nearly all attachments have one candidate and nearly all networks
one claimant. So a candidate that is alone is kept as such, and a claimant that is alone is not kept at all: the route
says who it is.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice

from galactic.diff import Diff
from galactic.messages import Route
from galactic.router.rib.import_policy import Clusters, Policy, admits, refusals
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Holder, NodeRef, Rejection
from galactic.router.rib.table import Conflict, VpcTable, holder, holder_of, winner


@dataclass(frozen=True, slots=True)
class Part:
    """What a part of ``settle`` changed in the table, and what is newly refused.

    ``concerned`` are all whom it may concern, told with the last part (``done``); ``looked`` is how many attachments
    and networks were looked at.
    """

    changed: Diff[Network, Route]
    rejections: list[Rejection]
    concerned: set[Holder]
    looked: int
    done: bool


@dataclass(slots=True)
class Vpc:
    """``routes`` is the table. What is set shows in it after ``settle``."""

    routes: dict[Network, Route] = field(default_factory=dict)
    endpoints: dict[Holder, EndpointPath] = field(default_factory=dict)
    rejections: dict[Holder, tuple[Rejection, ...]] = field(default_factory=dict)
    conflicts: dict[Network, tuple[Conflict, ...]] = field(default_factory=dict)
    future: set[Holder] = field(default_factory=set)
    """With a claim of which something else may be believed later, though nobody says anything new."""
    _candidates: dict[Holder, EndpointPath | tuple[EndpointPath, ...]] = field(default_factory=dict)
    _claimants: dict[Network, tuple[Holder, ...]] = field(default_factory=dict)
    """Of networks that have several, or whose route does not say who it is; see ``_claiming``."""
    _touched: set[Holder] = field(default_factory=set)
    """Attachments to look at."""
    _stale: dict[Network, None] = field(default_factory=dict)
    """Networks to look at, when there are none of those."""
    _concerned: set[Holder] = field(default_factory=set)
    _begun: bool = False
    _present: Counter[str] = field(default_factory=Counter)  # attachments with candidates, by cluster
    _clusters: Clusters = None  # those that may be in it

    def __bool__(self) -> bool:
        """Whether there is anything here."""
        return bool(self._candidates or self.routes)

    # -- what is said ------------------------------------------------------------------------------------------------

    def claim(self, who: Holder, origin: NodeRef, claim: EndpointPath | None) -> None:
        """All that this node says about that attachment."""
        known = self._claims(who)
        now = tuple(each for each in known if each.origin != origin) + (() if claim is None else (claim,))
        if now:
            self._candidates[who] = now[0] if len(now) == 1 else now
        else:
            self._candidates.pop(who, None)
        if bool(now) != bool(known):
            self._present[who.cluster] += 1 if now else -1
            self._present += Counter()  # without those at nought
        self._touched.add(who)

    def contested(self, who: Holder) -> bool:
        """Whether several nodes say that they have that attachment."""
        return len(self._claims(who)) > 1

    def touch(self, who: Holder) -> None:
        """Something else may be believed of that attachment now, though nobody says anything new."""
        self._touched.add(who)

    def force(self, routes: Mapping[Network, Route | None]) -> None:
        """These are in the table now, whatever was there before; None: there is none."""
        for network, route in routes.items():
            claimants = self._claiming(network)
            if claimants:
                self._claimants[network] = claimants
            for one in (self.routes.pop(network, None), route):
                if one is not None and (who := holder_of(one)) in self._candidates:
                    self.future.add(who)  # whether it is in force decides what is believed of it
            if route is not None:
                self.routes[network] = route
            self._stale[network] = None
        self._begun = False  # who may be in it follows from the table in force

    # -- what follows ------------------------------------------------------------------------------------------------

    def settle(
        self, vpc: int, policy: Policy, horizon: int, absent: AbstractSet[NodeRef], at_most: int
    ) -> Part:
        """A part of what it takes for the table to be right: so many attachments and networks are looked at.

        ``vpc`` is which one this is; for ``horizon`` and ``absent`` see ``table``. Who may be in the VPC is decided
        once, when this begins.
        """
        if not self._begun:
            self._begun = True
            self._touched |= self.future
            self._touched |= self._readmit(vpc, policy, horizon)
        left = at_most
        news: list[Rejection] = []
        while self._touched and left > 0:
            who = self._touched.pop()
            self._concerned.add(who)
            news += self._endpoint(who, horizon, absent)
            left -= 1
        changed: Diff[Network, Route] = Diff({}, {})
        if not self._touched:
            some = sorted(islice(self._stale, left))
            for network in some:
                del self._stale[network]
                self._route(network, changed, self._concerned)
            left -= len(some)
        if self._touched or self._stale:
            return Part(changed, news, set(), at_most - left, done=False)
        concerned, self._concerned, self._begun = self._concerned, set(), False
        return Part(changed, news, concerned, at_most - left, done=True)

    def _readmit(self, vpc: int, policy: Policy, horizon: int) -> set[Holder]:
        """Decides which clusters may be in it, ``vpc``; returns the attachments of those whom that concerns."""
        every = (claim for who in self._candidates for claim in self._claims(who))
        before = self._clusters
        self._clusters = policy.clusters(vpc, self._present, every, self.routes, horizon)
        if before == self._clusters:
            return set()
        return {
            who
            for who in self._candidates
            if not (admits(before, who.cluster) and admits(self._clusters, who.cluster))
        }

    def _endpoint(self, who: Holder, horizon: int, absent: AbstractSet[NodeRef]) -> list[Rejection]:
        """Chooses the endpoint of an attachment; the networks that this concerns are stale then."""
        before, claims = self.endpoints.get(who), self._claims(who)
        if admits(self._clusters, who.cluster):
            chosen, refused = winner(claims, self.routes, horizon, absent)
        else:
            chosen, refused = None, refusals(claims, self._clusters)
        known = self.rejections.pop(who, ())
        if refused:
            self.rejections[who] = tuple(refused)
        future = any(rejection.reason == "EpochInFuture" for rejection in refused)
        (self.future.add if future else self.future.discard)(who)
        if chosen != before:
            left = before.networks if before else ()
            joined = chosen.networks if chosen else ()
            for network in dict.fromkeys((*left, *joined)):
                others = tuple(each for each in self._claiming(network) if each != who)
                self._claimants[network] = (*others, who) if network in joined else others
                self._stale[network] = None
            if chosen is None:
                del self.endpoints[who]
            else:
                self.endpoints[who] = chosen
        return [rejection for rejection in refused if rejection not in known]

    def _route(self, network: Network, changed: Diff[Network, Route], concerned: set[Holder]) -> None:
        """Decides who has a network; adds what that changed, and whom it concerns."""
        before = self.routes.get(network)
        for conflict in self.conflicts.pop(network, ()):
            concerned |= {conflict.claim.holder, conflict.holder.holder}
        claimants = self._claiming(network)
        self._claimants.pop(network, None)
        concerned.update(claimants)
        if not claimants:
            if before is not None:
                changed.delete[network] = self.routes.pop(network)
            return
        has, others = holder([self.endpoints[who] for who in claimants], before)
        if others:
            self.conflicts[network] = tuple(Conflict(network, claim, has) for claim in others)
            self._claimants[network] = claimants
        route = has.route(network)
        if route != before:
            changed.set[network] = self.routes[network] = route

    # -- readers -----------------------------------------------------------------------------------------------------

    def table(self) -> VpcTable:
        """All of it, as ``table.table`` gives it; a copy."""
        return VpcTable(
            dict(self.routes),
            dict(self.endpoints),
            tuple(no for key in sorted(self.rejections) for no in self.rejections[key]),
            tuple(conflict for network in sorted(self.conflicts) for conflict in self.conflicts[network]),
        )

    def lost(self, claim: EndpointPath) -> Iterator[Conflict]:
        """The networks that this endpoint claims and does not have."""
        for network in claim.networks:
            for conflict in self.conflicts.get(network, ()):
                if conflict.claim.holder == claim.holder:
                    yield conflict

    def _claims(self, who: Holder) -> tuple[EndpointPath, ...]:
        found = self._candidates.get(who, ())
        return (found,) if isinstance(found, EndpointPath) else found

    def _claiming(self, network: Network) -> tuple[Holder, ...]:
        """The attachments whose endpoint claims a network."""
        if (known := self._claimants.get(network)) is not None:
            return known
        route = self.routes.get(network)
        who = None if route is None else holder_of(route)
        endpoint = None if who is None else self.endpoints.get(who)
        return (who,) if who is not None and endpoint is not None and network in endpoint.networks else ()

"""Routes of peered VPCs in a VPC's table: decided network by network, so that a change costs what it changes.

A VPC's table has its own route to a network, or else the one that it imports: of its peers with an exported route
there, that of the lowest identifier. ``tables_with_imports`` gives all tables as a pure function; ``Imports`` arrives
at them whatever the order of events (tests/unit/router/test_peering.py).
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from socket import AF_INET6, inet_pton

from galactic.diff import Diff
from galactic.messages import Route
from galactic.router.rib.networks import Network
from galactic.router.rib.peerings import Peerings
from galactic.validation.peering import Side

Routes = Mapping[Network, Route]


def vpc_of(route: Route) -> int | None:
    """The VPC of the attachment that a route leads to, as its SID has it; None where that is no address."""
    try:
        return int.from_bytes(inet_pton(AF_INET6, route.segments[0])[8:14], "big")
    except (OSError, ValueError, IndexError):
        return None


def is_imported(vpc: int, route: Route) -> bool:
    """Whether a route of that VPC's table leads to an attachment of another VPC.

    Not where its SID is no address: another program wrote that, and the VPC's own rules drop it.
    """
    return vpc_of(route) not in (None, vpc)


def imported(vpc: int, network: Network, peerings: Peerings, own: Callable[[int], Routes]) -> Route | None:
    """The route that a VPC imports for a network to which it has none of its own."""
    peers = peerings.peers(vpc)
    for peer in sorted(peers):
        route = own(peer).get(network)
        if route and route.cluster in peers[peer] and peerings.exports(route.cluster, peer, network):
            return route
    return None


def tables_with_imports(tables: Mapping[int, Routes], peerings: Peerings) -> dict[int, dict[Network, Route]]:
    """Every VPC's table, from the VPCs' own routes."""

    def own(vpc: int) -> Routes:
        return tables.get(vpc, {})

    result = {vpc: dict(routes) for vpc, routes in tables.items()}
    for vpc in peerings.vpcs:
        for network in {network for peer in peerings.peers(vpc) for network in own(peer)} - own(vpc).keys():
            if (route := imported(vpc, network, peerings, own)) is not None:
                result.setdefault(vpc, {})[network] = route
    return {vpc: routes for vpc, routes in result.items() if routes}


class Imports:
    """``own``: a VPC's own routes, which are those of ``changed`` by the time that it is called."""

    def __init__(self, own: Callable[[int], Routes]) -> None:
        self._own = own
        self._peerings = Peerings()
        self._imported: dict[int, dict[Network, Route]] = {}
        self._stale: dict[int, dict[Network, None]] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self._stale)

    @property
    def counts(self) -> tuple[int, int]:
        """Peerings in force, and routes that are imported."""
        return len(self._peerings), sum(map(len, self._imported.values()))

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that import routes."""
        return frozenset(self._imported)

    def declare(self, cluster: str, vpc: int, name: str, side: Side[int] | None) -> bool:
        """See ``Peerings.declare``. Whether there is anything to decide."""
        for importer, exporter in self._peerings.declare(cluster, vpc, name, side):
            self._mark(importer, (*self._own(exporter), *self._imported.get(importer, ())))
        return bool(self)

    def install(self, vpc: int, routes: Routes) -> None:
        """These imported routes are in the VPC's table in force, and no others. See ``resync``."""
        networks = [*routes, *self._imported.pop(vpc, ())]
        if routes:
            self._imported[vpc] = dict(routes)
        self._mark(vpc, networks)

    def resync(self) -> None:
        """Own routes were installed: everything that could be imported is in doubt."""
        for vpc in self._peerings.vpcs:
            for peer in self._peerings.peers(vpc):
                self._mark(vpc, self._own(peer))

    def table(self, vpc: int, own: Routes) -> Routes:
        """The VPC's table with what it imports."""
        routes = self._imported.get(vpc)
        return {**routes, **own} if routes else own

    def changed(self, vpc: int, networks: Iterable[Network], into: dict[int, Diff[Network, Route]]) -> None:
        """The VPC's own routes to these networks changed: adds what that changes in its table and in its peers'."""
        peers = self._peerings.peers(vpc)
        if not peers and vpc not in self._imported:
            return
        for network in networks:
            for importer in (vpc, *peers):
                self._decide(importer, network, into)

    def settle(self, at_most: int, into: dict[int, Diff[Network, Route]]) -> int:
        """Decides so many of the networks that are in doubt. How many it decided."""
        left = at_most
        while self._stale and left > 0:
            vpc, networks = next(iter(self._stale.items()))
            for network in [*islice(networks, left)]:
                del networks[network]
                self._decide(vpc, network, into)
                left -= 1
            if not networks:
                del self._stale[vpc]
        return at_most - left

    def _mark(self, vpc: int, networks: Iterable[Network]) -> None:
        if marked := dict.fromkeys(networks):
            self._stale.setdefault(vpc, {}).update(marked)

    def _decide(self, vpc: int, network: Network, into: dict[int, Diff[Network, Route]]) -> None:
        routes = self._imported.get(vpc, {})
        before = routes.get(network)
        own = network in self._own(vpc)
        now = None if own else imported(vpc, network, self._peerings, self._own)
        if now == before:
            return
        if now is not None:
            self._imported.setdefault(vpc, routes)[network] = now
            into.setdefault(vpc, Diff({}, {})).set[network] = now
            into[vpc].delete.pop(network, None)
            return
        if before is not None:
            del routes[network]
            if not routes:
                del self._imported[vpc]
        if before is not None and not own:
            changed = into.setdefault(vpc, Diff({}, {}))
            changed.set.pop(network, None)
            changed.delete[network] = before

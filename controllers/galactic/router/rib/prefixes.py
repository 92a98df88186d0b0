"""Which node has which SRv6 prefix, where nobody but the nodes themselves can say it (standalone).

Two nodes with overlapping prefixes would each be believed about the other's SIDs. So a prefix has one node: the one
that has it keeps it, and a later one waits until it is free. Of nodes that come at once, as all do when a router
starts, those with routes in force go first, then by name: so a restart does not give a prefix to somebody else.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network

from galactic.errors import Rejected
from galactic.messages import Route
from galactic.router.rib.path import NodeRef, Rejection
from galactic.srv6 import parse_sid


class Prefixes:
    """What nodes say, and what they are granted. ``settle`` decides."""

    def __init__(self) -> None:
        self._said: dict[NodeRef, IPv6Network] = {}
        self._granted: dict[NodeRef, IPv6Network] = {}
        self._starts: list[
            int
        ] = []  # first addresses of what is granted: disjoint, so their order is that of the ends
        self._at: dict[int, NodeRef] = {}
        self._held: dict[int, NodeRef] = {}
        self._refused: dict[NodeRef, NodeRef] = {}
        self._changed: set[NodeRef] = set()

    def say(self, origin: NodeRef, prefix: IPv6Network | None) -> None:
        """The prefix that a node says it has; None: it has none any more."""
        if self._said.get(origin) == prefix:
            return
        self._changed.add(origin)
        if prefix is None:
            del self._said[origin]
        else:
            self._said[origin] = prefix

    def hold(self, routes: Iterable[Route]) -> None:
        """These are in force, from before this process: their nodes have the locators of their SIDs."""
        known = set(self._held.values())
        for route in routes:
            origin = NodeRef(route.cluster, route.node)
            if origin in known or not route.segments:
                continue
            try:
                self._held.setdefault(parse_sid(route.segments[0]).locator, origin)
            except Rejected:
                continue  # somebody else wrote into the retained table
            known.add(origin)

    @property
    def refused(self) -> Mapping[NodeRef, NodeRef]:
        """Nodes that say a prefix (some of) which is another's, and whose it is."""
        return self._refused

    def settle(self) -> set[NodeRef]:
        """Grants what is free. Returns the nodes that got, lost or were refused something."""
        if not self._changed:
            return set()
        before, affected = dict(self._refused), self._changed
        self._changed = set()
        for origin in affected:
            self._release(origin)
        waiting = {origin for origin in affected | self._refused.keys() if origin in self._said}
        self._refused = {}
        for origin in sorted(waiting, key=self._turn):
            prefix = self._said[origin]
            other = self._overlapping(prefix)
            if other is None:
                self._grant(origin, prefix)
            else:
                self._refused[origin] = other
        return affected | {
            origin
            for origin in before.keys() | self._refused.keys()
            if before.get(origin) != self._refused.get(origin)
        }

    def _turn(self, origin: NodeRef) -> tuple[bool, NodeRef]:
        return self._held.get(int(self._said[origin].network_address) >> 64) != origin, origin

    def _overlapping(self, prefix: IPv6Network) -> NodeRef | None:
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        after = bisect_right(self._starts, last)
        if not after:
            return None
        other = self._at[self._starts[after - 1]]
        return other if int(self._granted[other].broadcast_address) >= first else None

    def _grant(self, origin: NodeRef, prefix: IPv6Network) -> None:
        start = int(prefix.network_address)
        self._granted[origin] = prefix
        self._at[start] = origin
        insort(self._starts, start)

    def _release(self, origin: NodeRef) -> None:
        prefix = self._granted.pop(origin, None)
        if prefix is not None:
            start = int(prefix.network_address)
            del self._at[start]
            del self._starts[bisect_left(self._starts, start)]


def clash(origin: NodeRef, prefix: IPv6Network | None, other: NodeRef) -> Rejection:
    """What a node is told whose prefix is another's."""
    message = f"{prefix} overlaps the prefix of node {other.node} of cluster {other.cluster}"
    return Rejection(origin, "", "PrefixTaken", message)

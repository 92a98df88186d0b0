"""Which node owns which SRv6 prefix, where only the nodes themselves name theirs (standalone).

Two nodes with overlapping prefixes could each register the other's SIDs. So a prefix has one owner: it keeps the
prefix, and a later node waits until the prefix is free. Of nodes that come at once, as all do when a router starts,
those with routes in force go first, then by name: so a restart gives no prefix to another node.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network

from galactic.errors import Rejected
from galactic.messages import Route
from galactic.router.rib.path import NodeRef, Rejection
from galactic.srv6 import parse_sid


class PrefixOwners:
    """The prefixes that nodes name, and those that they own. ``settle`` decides."""

    def __init__(self) -> None:
        self._named: dict[NodeRef, IPv6Network] = {}
        self._owned: dict[NodeRef, IPv6Network] = {}
        self._starts: list[
            int
        ] = []  # first addresses of owned prefixes: disjoint, so their order is that of the ends
        self._at: dict[int, NodeRef] = {}
        self._installed: dict[int, NodeRef] = {}
        self._conflicts: dict[NodeRef, NodeRef] = {}
        self._changed: set[NodeRef] = set()

    def name(self, node: NodeRef, prefix: IPv6Network | None) -> None:
        """The prefix that a node names; None: it names none any more."""
        if self._named.get(node) == prefix:
            return
        self._changed.add(node)
        if prefix is None:
            del self._named[node]
        else:
            self._named[node] = prefix

    def install(self, routes: Iterable[Route]) -> None:
        """These are in force, from before this process: their nodes have the locators of their SIDs."""
        known = set(self._installed.values())
        for route in routes:
            node = NodeRef(route.cluster, route.node)
            if node in known or not route.segments:
                continue
            try:
                self._installed.setdefault(parse_sid(route.segments[0]).locator, node)
            except Rejected:
                continue  # another program wrote into the retained table
            known.add(node)

    @property
    def conflicts(self) -> Mapping[NodeRef, NodeRef]:
        """Nodes whose prefix overlaps another's, and that node."""
        return self._conflicts

    def settle(self) -> set[NodeRef]:
        """Gives owners to free prefixes. Returns the nodes that got, lost or were refused one."""
        if not self._changed:
            return set()
        before, affected = dict(self._conflicts), self._changed
        self._changed = set()
        for node in affected:
            self._release(node)
        waiting = {node for node in affected | self._conflicts.keys() if node in self._named}
        self._conflicts = {}
        for node in sorted(waiting, key=self._rank):
            prefix = self._named[node]
            other = self._overlapping(prefix)
            if other is None:
                self._own(node, prefix)
            else:
                self._conflicts[node] = other
        return affected | {
            node
            for node in before.keys() | self._conflicts.keys()
            if before.get(node) != self._conflicts.get(node)
        }

    def _rank(self, node: NodeRef) -> tuple[bool, NodeRef]:
        return self._installed.get(int(self._named[node].network_address) >> 64) != node, node

    def _overlapping(self, prefix: IPv6Network) -> NodeRef | None:
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        after = bisect_right(self._starts, last)
        if not after:
            return None
        other = self._at[self._starts[after - 1]]
        return other if int(self._owned[other].broadcast_address) >= first else None

    def _own(self, node: NodeRef, prefix: IPv6Network) -> None:
        start = int(prefix.network_address)
        self._owned[node] = prefix
        self._at[start] = node
        insort(self._starts, start)

    def _release(self, node: NodeRef) -> None:
        prefix = self._owned.pop(node, None)
        if prefix is not None:
            start = int(prefix.network_address)
            del self._at[start]
            del self._starts[bisect_left(self._starts, start)]


def prefix_taken(node: NodeRef, prefix: IPv6Network | None, other: NodeRef) -> Rejection:
    """The rejection of all endpoints of a node whose prefix is another's."""
    message = f"prefix {prefix} overlaps the prefix of node {other.node} of cluster {other.cluster}"
    return Rejection(node, "", "PrefixTaken", message)

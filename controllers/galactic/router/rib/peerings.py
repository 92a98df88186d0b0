"""The peerings in force, by VPC identifier and cluster, from the VPCs that clusters declare. Pure.

A peering concerns the clusters that declare it: in each of them both VPCs name each other. Paths of other clusters are
not exported, whatever those declare (docs/design/peering.md).
"""

from collections.abc import Iterable, Mapping
from functools import partial
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from galactic.router.rib.networks import Network
from galactic.validation import peering
from galactic.validation.networks import Network as ParsedNetwork
from galactic.validation.peering import Side

Pair = tuple[int, int]
"""(the VPC that imports, the VPC whose routes it imports)."""


class _Range(NamedTuple):
    """A network as numbers."""

    family: int
    first: int
    mask: int


class Peerings:
    """``declare`` changes one VPC of one cluster, and costs what depends on it: its peers, and theirs."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, int], dict[str, Side[int]]] = {}
        self._declared: dict[str, dict[int, Side[int]]] = {}
        self._ranges: dict[tuple[str, int], tuple[_Range, ...]] = {}
        self._in_force: dict[tuple[str, int], frozenset[int]] = {}
        self._clusters: dict[int, dict[int, frozenset[str]]] = {}  # VPC → peer → clusters

    def __len__(self) -> int:
        """The number of peerings in force in any cluster."""
        return sum(map(len, self._clusters.values())) // 2

    def declare(self, cluster: str, vpc: int, name: str, side: Side[int] | None) -> set[Pair]:
        """A VPC as the cluster declares it now; None: without peers. The pairs to import again.

        Of several VPCs with one identifier, which only a restored API server has, the first by ``name`` counts.
        """
        named = self._named.setdefault((cluster, vpc), {})
        named.pop(name, None)
        if side is not None:
            named[name] = side
        if not named:
            del self._named[cluster, vpc]
        return self._set(cluster, vpc, named[min(named)] if named else None)

    def _set(self, cluster: str, vpc: int, side: Side[int] | None) -> set[Pair]:
        declared = self._declared.setdefault(cluster, {})
        before = declared.get(vpc)
        if before == side:
            if not declared:
                del self._declared[cluster]
            return set()
        if side is None:
            declared.pop(vpc, None)
            self._ranges.pop((cluster, vpc), None)
        else:
            declared[vpc] = side
            self._ranges[cluster, vpc] = tuple(map(_range, side.networks))
        near = {peer for one in (before, side) if one for peer in one.peers} & declared.keys()
        far = {peer for one in near for peer in declared[one].peers} & declared.keys()
        changed = {
            (peer, vpc) for peer in self._in_force.get((cluster, vpc), ())
        }  # its networks may be others
        for one in {vpc} | near | far:
            changed |= self._decide(cluster, one)
        if not declared:
            del self._declared[cluster]
        return changed

    @property
    def vpcs(self) -> frozenset[int]:
        """Those with peers."""
        return frozenset(self._clusters)

    def peers(self, vpc: int) -> Mapping[int, frozenset[str]]:
        """The VPCs that it is peered with, and the clusters in which it is."""
        return self._clusters.get(vpc, {})

    def exports(self, cluster: str, vpc: int, network: Network) -> bool:
        """Whether peers get a route of that cluster to that network: it lies inside the VPC's own networks."""
        return _inside(network, self._ranges.get((cluster, vpc), ()))

    def _decide(self, cluster: str, vpc: int) -> set[Pair]:
        """Takes over the peers of a VPC that are in force. The pairs that changed."""
        lookup = self._declared[cluster].get
        before = self._in_force.pop((cluster, vpc), frozenset())
        after = frozenset(peering.in_force(vpc, partial(lookup)))
        if after:
            self._in_force[cluster, vpc] = after
        changed = before ^ after
        for peer in changed:
            self._put(cluster, vpc, peer, peer in after)
        return {(vpc, peer) for peer in changed}

    def _put(self, cluster: str, vpc: int, peer: int, in_force: bool) -> None:
        peers = self._clusters.setdefault(vpc, {})
        clusters = peers.pop(peer, frozenset())
        if clusters := clusters | {cluster} if in_force else clusters - {cluster}:
            peers[peer] = clusters
        if not peers:
            del self._clusters[vpc]


def _range(network: ParsedNetwork) -> _Range:
    family = AF_INET if network.version == 4 else AF_INET6
    return _Range(family, int(network.network_address), int(network.netmask))


def _inside(network: Network, ranges: Iterable[_Range]) -> bool:
    address, _, length = network.partition("/")
    family, bits = (AF_INET6, 128) if ":" in address else (AF_INET, 32)
    first = int.from_bytes(inet_pton(family, address), "big")
    mask = ((1 << int(length)) - 1) << (bits - int(length))
    return any(
        one.family == family and one.mask & mask == one.mask and first & one.mask == one.first
        for one in ranges
    )

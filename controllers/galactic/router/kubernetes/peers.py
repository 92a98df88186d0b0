"""VPCs as the API server has them: networks and peers, by identifier."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from galactic.crds.model import parse
from galactic.crds.vpc import Vpc
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.names import parse_vpc
from galactic.validation.networks import Network, parse_networks
from galactic.validation.peering import Side


@dataclass(frozen=True, slots=True)
class PeeringVpc:
    """A VPC that can be peered: it has an identifier and usable networks, and is not being deleted."""

    identifier: int
    networks: tuple[Network, ...]
    peers: tuple[Key, ...]


class Declarations(Protocol):
    """Where VPCs with peers go; ``rib.vpc_tables.VpcTables``."""

    def declare(self, cluster: str, vpc: int, name: str, side: Side[int] | None) -> object: ...


class PeerIndex:
    """Of one cluster. Declares each VPC with peers to the tables; a change concerns the VPC and those that name it."""

    def __init__(self, cluster: str, tables: Declarations) -> None:
        self._cluster, self._tables = cluster, tables
        self._vpcs: dict[Key, PeeringVpc] = {}
        self._naming: dict[Key, set[Key]] = {}

    def set_vpc(self, key: Key, new: Object | None) -> None:
        """A VPC as it is now; None: it is deleted. One that does not fit its model has no peers."""
        vpc = None
        with suppress(Rejected):
            vpc = None if new is None else parse(Vpc, new)
        self.put(key, vpc)

    def put(self, key: Key, vpc: Vpc | None) -> None:
        """The same for a VPC that was parsed."""
        before = self._vpcs.pop(key, None)
        after = None if vpc is None else peering_vpc(vpc)
        if after is not None:
            self._vpcs[key] = after
        if before == after:
            return
        for peer in before.peers if before else ():
            self._naming[peer].discard(key)
            if not self._naming[peer]:
                del self._naming[peer]
        for peer in after.peers if after else ():
            self._naming.setdefault(peer, set()).add(key)
        identifiers = before and before.identifier, after and after.identifier
        if before is not None and identifiers[0] != identifiers[1]:
            self._tables.declare(self._cluster, before.identifier, "/".join(key), None)
        touched = {key} | (self._naming.get(key, set()) if identifiers[0] != identifiers[1] else set())
        for one in sorted(touched & self._vpcs.keys()):
            self._declare(one, self._vpcs[one])

    def _declare(self, key: Key, vpc: PeeringVpc) -> None:
        known = (self._vpcs[peer].identifier for peer in vpc.peers if peer in self._vpcs)
        peers = tuple(dict.fromkeys(peer for peer in known if peer != vpc.identifier))
        side = Side(vpc.networks, peers) if peers else None
        self._tables.declare(self._cluster, vpc.identifier, "/".join(key), side)


def peering_vpc(vpc: Vpc) -> PeeringVpc | None:
    """The VPC as peerings depend on it; None for one that cannot be peered."""
    with suppress(Rejected):
        if vpc.status.identifier and vpc.metadata.deletion_timestamp is None:
            networks = parse_networks(vpc.spec.networks, None)
            own = vpc.metadata.namespace
            peers = dict.fromkeys((peer.namespace or own, peer.name) for peer in vpc.spec.peers)
            return PeeringVpc(parse_vpc(vpc.status.identifier), networks, tuple(peers))
    return None

"""Which VPCs are peered: a pure function of the networks of all VPCs and the peers that they name.

A peering is in force while both VPCs name each other and their networks share no address. Where two peers of a VPC that
name it back share addresses, neither of the two peerings is in force: otherwise the owner of one could take the other's
traffic by a change of networks. See docs/design/peering.md.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, NamedTuple, TypeVar

from galactic.validation.networks import Network, overlaps

K = TypeVar("K", bound=Hashable)
PAIRS: Final = 4096
"""Pairs of lists of networks whose overlap is remembered."""


@dataclass(frozen=True, slots=True)
class Side(Generic[K]):
    """A VPC as far as peerings depend on it. ``peers``: those that it names, each once, itself excluded."""

    networks: tuple[Network, ...]
    peers: tuple[K, ...]


Lookup = Callable[[K], Side[K] | None]
"""The VPC of that key; None for one that cannot be peered: it does not exist, or is being deleted."""


class Overlap(NamedTuple):
    """Two networks that share addresses: the first of one VPC, the second of the other."""

    first: Network
    second: Network


def consenting(key: K, lookup: Lookup[K]) -> Iterator[K]:
    """The peers that the VPC names, and that name it back, in its order."""
    side = lookup(key)
    for peer in side.peers if side else ():
        other = lookup(peer)
        if peer != key and other is not None and key in other.peers:
            yield peer


def candidates(key: K, lookup: Lookup[K]) -> tuple[K, ...]:
    """Those of them whose networks share no address with the VPC's own."""
    side = lookup(key)
    return tuple(
        peer
        for peer in consenting(key, lookup)
        if side and (other := lookup(peer)) and overlap(side.networks, other.networks) is None
    )


def contested(key: K, peer: K, lookup: Lookup[K]) -> tuple[K, Overlap] | None:
    """Another candidate of the VPC ``key`` whose networks share addresses with those of its candidate ``peer``."""
    side = lookup(peer)
    for rival in candidates(key, lookup) if side else ():
        other = lookup(rival)
        if rival != peer and side and other and (shared := overlap(side.networks, other.networks)):
            return rival, shared
    return None


def in_force(key: K, lookup: Lookup[K]) -> tuple[K, ...]:
    """The peers of the VPC with which its peering is in force, in its order."""
    return tuple(
        peer
        for peer in candidates(key, lookup)
        if contested(key, peer, lookup) is None and contested(peer, key, lookup) is None
    )


@lru_cache(maxsize=PAIRS)
def overlap(first: tuple[Network, ...], second: tuple[Network, ...]) -> Overlap | None:
    """The first two networks that share an address."""
    for network in first:
        for other in second:
            if overlaps(network, other):
                return Overlap(network, other)
    return None

"""The peers of VPCs: which peerings are in force, and what the others lack (docs/design/peering.md).

What a VPC's status reports of a VPC of another namespace is what both owners agreed to: while that one does not name
the VPC back, the text is the same as for a VPC that does not exist.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from galactic.crds.vpc import MAX_PEERS, PeerStatus, Vpc
from galactic.crds.vpcattachment import ConfiguredPeer
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import State
from galactic.operator.objects import Invalid
from galactic.operator.state import Caches
from galactic.validation.networks import Network
from galactic.validation.peering import Side, contested, in_force, overlap

IN_FORCE: Final = "InForce"
REQUESTED: Final = "Requested"
NAMED: Final = 3
"""Peers that the condition describes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer whose peering is in force."""

    identifier: str
    networks: tuple[Network, ...]

    @property
    def configured(self) -> ConfiguredPeer:
        """As nodes get it."""
        return ConfiguredPeer(vpc=self.identifier, networks=tuple(map(str, self.networks)))


class Peers:
    """``networks``: of a VPC; raises Rejected."""

    def __init__(self, caches: Caches, networks: Callable[[Key, Vpc], tuple[Network, ...]]) -> None:
        self._caches, self._networks = caches, networks
        self._naming: dict[Key, set[Key]] = {}

    def changed(self, key: Key, old: Vpc | Invalid | None, new: Vpc | Invalid | None) -> set[Key]:
        """A VPC changed: the VPCs whose peerings may be others now, itself aside."""
        if peering_view(old) == peering_view(new):
            return set()
        before, after = set(named(key, old)), set(named(key, new))
        for peer in before - after:
            self._naming[peer].discard(key)
            if not self._naming[peer]:
                del self._naming[peer]
        for peer in after - before:
            self._naming.setdefault(peer, set()).add(key)
        near = before | after
        far = {one for peer in near for one in named(peer, self._caches.vpcs.get(peer))}
        return (near | far | self._naming.get(key, set())) - {key}

    def in_force(self, key: Key) -> tuple[Peer, ...]:
        """The peers of a VPC with which its peering is in force."""
        return tuple(self._peer(peer) for peer in in_force(key, self._side))

    def statuses(self, key: Key) -> tuple[list[dict[str, Any]], State | None]:
        """``status.peers`` of a VPC, and its condition Peered."""
        vpc = self._caches.vpcs.get(key)
        if not isinstance(vpc, Vpc):
            return [], None
        statuses = [self._status(key, index, peer) for index, peer in enumerate(named(key, vpc))]
        requests = [*self._requests(key, vpc)]
        return (
            [status.model_dump(by_alias=True, mode="json") for status in (*statuses, *requests)],
            _state(statuses, requests),
        )

    def _side(self, key: Key) -> Side[Key] | None:
        vpc = self._caches.vpcs.get(key)
        if (
            not isinstance(vpc, Vpc)
            or not vpc.status.identifier
            or vpc.metadata.deletion_timestamp is not None
        ):
            return None
        try:
            return Side(self._networks(key, vpc), tuple(named(key, vpc)))
        except Rejected:
            return None

    def _peer(self, key: Key) -> Peer:
        vpc, side = self._caches.vpcs.get(key), self._side(key)
        assert isinstance(vpc, Vpc)
        assert side is not None
        return Peer(vpc.status.identifier or "", side.networks)

    def _status(self, key: Key, index: int, peer: Key) -> PeerStatus:
        """A peer that the VPC names."""
        try:
            networks = self._checked(key, index, peer)
        except Rejected as problem:
            return PeerStatus(namespace=peer[0], name=peer[1], reason=problem.reason, message=str(problem))
        message = f"attachments of {'/'.join(key)} and {'/'.join(peer)} reach each other"
        return PeerStatus(
            namespace=peer[0],
            name=peer[1],
            in_force=True,
            networks=networks,
            reason=IN_FORCE,
            message=message,
        )

    def _checked(self, key: Key, index: int, peer: Key) -> tuple[str, ...]:
        """The peer's networks. Raises Rejected with what a peering in force lacks."""
        other, theirs = "/".join(peer), self._caches.vpcs.get(peer)
        if peer == key:
            raise Rejected(
                f"spec.peers[{index}]: {other} is this VPC itself; remove it", reason="PeerIsItself"
            )
        if key not in named(peer, theirs):
            raise _not_named(key, index, peer, exists=theirs is not None)
        own, side = self._side(key), self._side(peer)
        if own is None:
            raise Rejected("this VPC is not ready, or is being deleted", reason="NotReady")
        if side is None:
            raise Rejected(f"VPC {other} is not ready, or is being deleted", reason="PeerNotReady")
        if shared := overlap(own.networks, side.networks):
            raise Rejected(
                f"networks overlap: {shared.first} (spec.networks[{own.networks.index(shared.first)}]) and "
                f"{shared.second} of VPC {other}; change one of them",
                reason="NetworksOverlap",
            )
        if rival := contested(key, peer, self._side):
            name, (first, second) = rival
            raise Rejected(
                f"networks of two peers overlap: {first} of VPC {other} and {second} of VPC {'/'.join(name)}; remove "
                "one of the two from spec.peers",
                reason="PeersOverlap",
            )
        if contested(peer, key, self._side):
            raise Rejected(
                f"networks of this VPC overlap those of another peer of VPC {other}, whose owner can remove one",
                reason="PeersOverlap",
            )
        return tuple(map(str, side.networks))

    def _requests(self, key: Key, vpc: Vpc) -> Iterator[PeerStatus]:
        """The VPCs that name this one and that it does not name. They disclosed that themselves."""
        for peer in sorted(self._naming.get(key, set()) - set(named(key, vpc)))[:MAX_PEERS]:
            message = (
                f"VPC {'/'.join(peer)} names this VPC; to peer with it, add {_entry(peer)} to spec.peers"
            )
            yield PeerStatus(namespace=peer[0], name=peer[1], reason=REQUESTED, message=message)


def _not_named(key: Key, index: int, peer: Key, *, exists: bool) -> Rejected:
    """Of another namespace the same, whether the peer exists or not."""
    own, other = "/".join(key), "/".join(peer)
    if peer[0] != key[0]:
        return Rejected(
            f"VPC {other} does not exist, or does not name {own} back; its owner can add {_entry(key)} to its "
            "spec.peers",
            reason="NotNamedBack",
        )
    if not exists:
        return Rejected(
            f"VPC {other} does not exist; make it, or remove spec.peers[{index}]", reason="PeerNotFound"
        )
    return Rejected(
        f"VPC {other} does not name {own} back; add {_entry(key)} to its spec.peers", reason="NotNamedBack"
    )


def _entry(key: Key) -> str:
    """As an owner writes it."""
    return f"{{namespace: {key[0]}, name: {key[1]}}}"


def named(key: Key, vpc: Vpc | Invalid | None) -> tuple[Key, ...]:
    """The peers that a VPC names, each once."""
    if not isinstance(vpc, Vpc):
        return ()
    return tuple(dict.fromkeys((peer.namespace or key[0], peer.name) for peer in vpc.spec.peers))


def _state(statuses: Sequence[PeerStatus], requests: Sequence[PeerStatus]) -> State | None:
    """The condition Peered; None where the VPC names none and none names it."""
    lacking = [status for status in statuses if not status.in_force]
    if lacking:
        rest = f"; and {len(lacking) - NAMED} more, see status.peers" if len(lacking) > NAMED else ""
        message = "; ".join(
            f"{status.namespace}/{status.name}: {status.message}" for status in lacking[:NAMED]
        )
        return State("False", lacking[0].reason, message + rest)
    if statuses:
        peers = ", ".join(f"{status.namespace}/{status.name}" for status in statuses)
        return State("True", IN_FORCE, f"peered with {peers}")
    if requests:
        rest = f"; and {len(requests) - NAMED} more, see status.peers" if len(requests) > NAMED else ""
        return State("False", REQUESTED, "; ".join(one.message for one in requests[:NAMED]) + rest)
    return None


def peering_view(vpc: Vpc | Invalid | None) -> object:
    """The part of a VPC that peerings depend on."""
    if not isinstance(vpc, Vpc):
        return None
    deleting = vpc.metadata.deletion_timestamp is not None
    return vpc.spec.peers, vpc.spec.networks, vpc.status.identifier, deleting

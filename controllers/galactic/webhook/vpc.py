"""VPCs: checks networks, the identifier, peers, and that a removed network is not in use."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from itertools import islice
from typing import Final

from galactic.crds.vpc import AllowedNamespaces, AttachingNamespaces, Vpc
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.names import parse_vpc
from galactic.validation.grants import selects
from galactic.validation.holders import named
from galactic.validation.networks import Address, Network, overlaps, parse_network, parse_networks, within
from galactic.webhook.review import Answer

NAMED: Final = 3
"""Holders and overlaps that a message names."""


@dataclass(frozen=True, slots=True)
class Range:
    """A network of the cluster's own. ``owner``, for people: 'the pods of node-1'."""

    network: Network
    owner: str


@dataclass(frozen=True, slots=True)
class Used:
    """An address that an attachment of the VPC has."""

    attachment: Key
    address: Address


Known = Callable[[Key], Vpc | None]
"""VPCs by namespace and name."""


def _unknown(_: Key) -> Vpc | None:
    return None


def created(
    vpc: Vpc,
    srv6_block: IPv6Network | None,
    ranges: Sequence[Range],
    holder: Key | None = None,
    known: Known = _unknown,
) -> Answer:
    """The answer to a new VPC. ``holder``: of the identifier that it requests. Raises Rejected."""
    networks = parse_networks(vpc.spec.networks, srv6_block)
    _identifier(vpc)
    _grants(vpc.spec.allowed_namespaces, "spec.allowedNamespaces.selector")
    _grants(vpc.spec.allowed_terminations, "spec.allowedTerminations.selector")
    _peers(vpc)
    warnings = (
        *shadowed(networks, ranges),
        *_identifier_taken(vpc, holder),
        *overlapping(vpc, networks, known),
    )
    return Answer(warnings=warnings)


def updated(  # noqa: PLR0917
    old: Vpc,
    new: Vpc,
    srv6_block: IPv6Network | None,
    ranges: Sequence[Range],
    used: Iterable[Used],
    known: Known = _unknown,
) -> Answer:
    """The answer to a change; unchanged fields are not checked. Raises Rejected."""
    warnings: tuple[str, ...] = ()
    present = old.status.identifier or old.spec.identifier
    if new.spec.identifier != old.spec.identifier:
        if present and new.spec.identifier != present:
            raise Rejected(
                f"{new.spec.identifier or 'leaving it out'} cannot replace {present}: immutable; set it back, or make "
                "another VPC",
                reason="Immutable",
                field="spec.identifier",
            )
        _identifier(new)
    if new.spec.allowed_namespaces != old.spec.allowed_namespaces:
        _grants(new.spec.allowed_namespaces, "spec.allowedNamespaces.selector")
        warnings += _detaching(new.spec.allowed_namespaces)
    if new.spec.allowed_terminations != old.spec.allowed_terminations:
        _grants(new.spec.allowed_terminations, "spec.allowedTerminations.selector")
    if new.spec.peers != old.spec.peers:
        _peers(new)
    if new.spec.networks == old.spec.networks:
        if new.spec.peers != old.spec.peers:
            warnings += overlapping(new, _readable(new.spec.networks), known)
        return Answer(warnings=warnings)
    networks = parse_networks(new.spec.networks, srv6_block)
    warnings += overlapping(new, networks, known)
    stored = _readable(old.spec.networks)
    if problem := removed(stored, networks, used):
        raise problem
    warnings += shadowed([network for network in networks if network not in stored], ranges)
    return Answer(warnings=warnings)


def removed(before: Sequence[Network], after: Sequence[Network], used: Iterable[Used]) -> Rejected | None:
    """The refusal to remove networks in which attachments have addresses: each network with its own addresses."""
    stranded: dict[Network, list[Used]] = {}
    for address in sorted(used, key=_order):
        if within(address.address, before) and not within(address.address, after):
            network = next(network for network in before if address.address in network)
            stranded.setdefault(network, []).append(address)
    if not stranded:
        return None
    listed = [
        f"{network} cannot be removed or shrink while addresses in it are in use: {_holders(stranded[network])}"
        for network in before
        if network in stranded
    ]
    return Rejected(
        f"{_first(listed, '; ')}; delete those VPCAttachments or change their addresses first",
        reason="NetworkInUse",
        field="spec.networks",
    )


def _holders(addresses: Iterable[Used]) -> str:
    texts = dict.fromkeys(f"{address.address} ({'/'.join(address.attachment)})" for address in addresses)
    return _first([*texts], ", ")


def _first(texts: Sequence[str], separator: str) -> str:
    rest = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f"{separator.join(texts[:NAMED])}{rest}"


def shadowed(networks: Iterable[Network], ranges: Sequence[Range]) -> tuple[str, ...]:
    """Warnings of cluster networks that pods in the VPC will no longer reach."""
    result = [
        f"spec.networks: {network} overlaps {range_.network}, {range_.owner}: pods in the VPC will no longer reach them"
        for network in networks
        for range_ in ranges
        if network.prefixlen and overlaps(network, range_.network)
    ]
    rest = len(result) - NAMED
    return (*result[:NAMED], *([f"spec.networks: {rest} more such overlaps"] if rest > 0 else []))


def _peers(vpc: Vpc) -> None:
    """Raises Rejected for a peer that is the VPC itself, or that is there twice."""
    own, seen = vpc.metadata.namespace, dict[Key, int]()
    for index, peer in enumerate(vpc.spec.peers):
        field, key = f"spec.peers[{index}]", (peer.namespace or own, peer.name)
        if key == (own, vpc.metadata.name):
            raise Rejected(
                f"{'/'.join(key)} is this VPC itself; remove it", reason="PeerIsItself", field=field
            )
        if key in seen:
            raise Rejected(
                f"{'/'.join(key)} is there twice (spec.peers[{seen[key]}]); remove one of them",
                reason="DuplicatePeer",
                field=field,
            )
        seen[key] = index


def overlapping(vpc: Vpc, networks: Sequence[Network], known: Known) -> tuple[str, ...]:
    """Warnings of peers whose networks share addresses with the VPC's own, or with those of another of its peers.

    Of VPCs of other namespaces only those that name this one back: nothing is disclosed of the others.
    """
    own = vpc.metadata.namespace, vpc.metadata.name
    places = [("spec.networks", networks)]
    warnings: list[str] = []
    for index, peer in enumerate(vpc.spec.peers):
        key = peer.namespace or own[0], peer.name
        other = known(key)
        if other is None or (key[0] != own[0] and own not in _named(key, other)):
            continue
        theirs = _readable(other.spec.networks)
        shared = (
            f"spec.peers[{index}]: {second} of VPC {'/'.join(key)} overlaps {first} of {place}; the peering is not in "
            "force until one of them is changed"
            for place, present in places
            for first in present
            for second in theirs
            if overlaps(first, second)
        )
        warnings += islice(shared, 1)
        places.append((f"VPC {'/'.join(key)} (spec.peers[{index}])", theirs))
    return tuple(warnings)


def _named(key: Key, vpc: Vpc) -> set[Key]:
    return {(peer.namespace or key[0], peer.name) for peer in vpc.spec.peers}


def _order(used: Used) -> tuple[int, int, Key]:
    return used.address.version, int(used.address), used.attachment


def _identifier(vpc: Vpc) -> None:
    if vpc.spec.identifier:
        try:
            parse_vpc(vpc.spec.identifier)
        except Rejected as error:
            raise Rejected(str(error), reason="InvalidIdentifier", field="spec.identifier") from error


def _identifier_taken(vpc: Vpc, holder: Key | None) -> tuple[str, ...]:
    if holder is None:
        return ()
    other = named("VPC", holder, vpc.metadata.namespace)
    text = f"spec.identifier: {vpc.spec.identifier} belongs to {other}; this VPC is not ready while that one exists"
    return (text,)


def _grants(allowed: AllowedNamespaces | None, field: str) -> None:
    """Raises Rejected for a malformed or ineffective selector."""
    if allowed is None:
        return
    if allowed.from_ == "Selector":
        if allowed.selector is None:
            raise Rejected(
                "from: Selector needs a selector; add one, or write from: All",
                reason="InvalidSelector",
                field=field,
            )
        selects(allowed.selector, {}, field)
    elif allowed.selector is not None:
        raise Rejected(
            f"has no effect with from: {allowed.from_}; remove it, or write from: Selector",
            reason="InvalidSelector",
            field=field,
        )


def _detaching(allowed: AttachingNamespaces | None) -> tuple[str, ...]:
    if allowed is None or allowed.when_revoked != "Detach" or allowed.from_ == "All":
        return ()
    text = (
        "spec.allowedNamespaces.whenRevoked: Detach: running pods of namespaces that are not admitted any more are "
        "detached after 60 s"
    )
    return (text,)


def _readable(texts: Sequence[str]) -> tuple[Network, ...]:
    """The well-formed ones of stored networks."""
    result = []
    for text in texts:
        try:
            result.append(parse_network(text, "spec.networks"))
        except Rejected:
            continue
    return tuple(result)

"""VPCs: networks that could not work, identifiers that cannot change, networks that are still needed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.crds.vpc import AllowedNamespaces, Vpc
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.names import parse_vpc
from galactic.validation.grants import selects
from galactic.validation.networks import Address, Network, overlaps, parse_network, parse_networks, within
from galactic.webhook.review import Answer

NAMED: Final = 3
"""How many holders a message names."""


@dataclass(frozen=True, slots=True)
class Range:
    """A network of the cluster's own. ``what`` says whose, for people: 'the pods of node-1'."""

    network: Network
    what: str


@dataclass(frozen=True, slots=True)
class Used:
    """An address that an attachment of the VPC has."""

    attachment: Key
    address: Address


def created(
    vpc: Vpc, srv6_block: IPv6Network | None, ranges: Sequence[Range], taken: Key | None = None
) -> Answer:
    """``taken``: who has the identifier that the VPC asks for. Raises Rejected."""
    networks = parse_networks(vpc.spec.networks, srv6_block)
    _identifier(vpc)
    _grants(vpc.spec.allowed_namespaces)
    return Answer(warnings=(*shadowed(networks, ranges), *_taken(vpc, taken)))


def updated(
    old: Vpc, new: Vpc, srv6_block: IPv6Network | None, ranges: Sequence[Range], used: Iterable[Used]
) -> Answer:
    """What was not touched is not judged. Raises Rejected."""
    has = old.status.identifier or old.spec.identifier
    if new.spec.identifier != old.spec.identifier:
        if has and new.spec.identifier != has:
            raise Rejected(
                f"{new.spec.identifier or 'leaving it out'} cannot replace {has}: immutable; set it back, or make "
                "another VPC",
                reason="Immutable",
                field="spec.identifier",
            )
        _identifier(new)
    if new.spec.allowed_namespaces != old.spec.allowed_namespaces:
        _grants(new.spec.allowed_namespaces)
    if new.spec.networks == old.spec.networks:
        return Answer()
    networks = parse_networks(new.spec.networks, srv6_block)
    before = _readable(old.spec.networks)
    if problem := removed(before, networks, used):
        raise problem
    return Answer(warnings=shadowed([network for network in networks if network not in before], ranges))


def removed(before: Sequence[Network], after: Sequence[Network], used: Iterable[Used]) -> Rejected | None:
    """The refusal to take away a network in which attachments have addresses."""
    lost = [one for one in used if within(one.address, before) and not within(one.address, after)]
    if not lost:
        return None
    network = next(network for network in before if lost[0].address in network)
    holders = list(
        dict.fromkeys(f"{one.address} ({'/'.join(one.attachment)})" for one in sorted(lost, key=_order))
    )
    more = f" and {len(holders) - NAMED} more" if len(holders) > NAMED else ""
    return Rejected(
        f"{network} cannot go or shrink while addresses in it are in use: {', '.join(holders[:NAMED])}{more}; delete "
        "those VPCAttachments or change their addresses first",
        reason="NetworkInUse",
        field="spec.networks",
    )


def shadowed(networks: Iterable[Network], ranges: Sequence[Range]) -> tuple[str, ...]:
    """Warnings of what pods in the VPC will no longer reach, at most one a network and range."""
    result = [
        f"spec.networks: {network} overlaps {one.network}, {one.what}: pods in the VPC will no longer reach them"
        for network in networks
        for one in ranges
        if network.prefixlen and overlaps(network, one.network)
    ]
    more = len(result) - NAMED
    return (*result[:NAMED], *([f"spec.networks: {more} more such overlaps"] if more > 0 else []))


def _order(one: Used) -> tuple[int, int, Key]:
    return one.address.version, int(one.address), one.attachment


def _identifier(vpc: Vpc) -> None:
    if vpc.spec.identifier:
        try:
            parse_vpc(vpc.spec.identifier)
        except Rejected as error:
            raise Rejected(str(error), reason="InvalidIdentifier", field="spec.identifier") from error


def _taken(vpc: Vpc, holder: Key | None) -> tuple[str, ...]:
    if holder is None:
        return ()
    there = "/".join(holder)
    return (
        f"spec.identifier: {vpc.spec.identifier} is VPC {there}'s; this one is not ready while that is there",
    )


def _grants(allowed: AllowedNamespaces | None) -> None:
    """Raises Rejected for a selector that could select nothing because of how it is written."""
    if allowed is None:
        return
    if allowed.from_ == "Selector":
        if allowed.selector is None:
            raise Rejected(
                "from: Selector needs a selector; add one, or say from: All",
                reason="InvalidSelector",
                field="spec.allowedNamespaces.selector",
            )
        selects(allowed.selector, {})
    elif allowed.selector is not None:
        raise Rejected(
            f"has no effect with from: {allowed.from_}; remove it, or say from: Selector",
            reason="InvalidSelector",
            field="spec.allowedNamespaces.selector",
        )


def _readable(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks that were stored once, as far as they can be read."""
    result = []
    for text in texts:
        try:
            result.append(parse_network(text, "spec.networks"))
        except Rejected:
            continue
    return tuple(result)

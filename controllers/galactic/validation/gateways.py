"""Checks a VPCGateway: its addresses, families and published ports, and that it takes nothing of the cluster's own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.crds.vpcgateway import PublishEntry, VpcGateway
from galactic.errors import Rejected
from galactic.validation.networks import (
    Address,
    Network,
    host,
    overlaps,
    parse_address,
    refuse_reserved,
    within,
)
from galactic.validation.policies import Selector, canonical
from galactic.validation.references import check_kind, referenced

FAMILIES: Final = {"IPv4": 4, "IPv6": 6}
ADDRESSES: Final = "spec.snat.addresses"
PUBLISH: Final = "spec.publish"


@dataclass(frozen=True, slots=True)
class Publish:
    """A published port, and the port of the pods that it leads to."""

    name: str
    address: Address
    port: int
    protocol: str
    selector: Selector
    target: int


@dataclass(frozen=True, slots=True)
class ParsedGateway:
    """``vpc``: namespace and name. ``families``: empty for those of the VPC's networks. ``addresses``: for SNAT."""

    vpc: tuple[str, str]
    families: tuple[int, ...]
    snat: bool
    addresses: tuple[Address, ...]
    publish: tuple[Publish, ...] = ()

    @property
    def further(self) -> tuple[Address, ...]:
        """Published addresses that no packet of the VPC's own leaves with."""
        further = (one.address for one in self.publish if one.address not in self.addresses)
        return tuple(dict.fromkeys(further))

    @property
    def fields(self) -> dict[Address, str]:
        """All addresses, each with its first field."""
        fields = {one.address: f"{PUBLISH}[{index}].address" for index, one in enumerate(self.publish)}
        return fields | {address: f"{ADDRESSES}[{index}]" for index, address in enumerate(self.addresses)}


@dataclass(frozen=True, slots=True)
class Owned:
    """A network of the cluster, and its owner in words."""

    network: Network
    owner: str


def parse_gateway(
    gateway: VpcGateway, pool: Sequence[Network], srv6_block: IPv6Network | None
) -> ParsedGateway:
    """The gateway. Raises Rejected with field, value and remedy. ``pool``: addresses that gateways may have; empty:
    any.
    """
    spec, namespace = gateway.spec, gateway.metadata.namespace
    check_kind(spec.vpc, "spec.vpc")
    vpc = referenced(spec.vpc, namespace)
    if vpc[0] != namespace:
        raise Rejected(
            f"{'/'.join(vpc)} is in another namespace: a VPC is led out by its owner; make the VPCGateway there",
            reason="NotGranted",
            field="spec.vpc",
        )
    if len(set(spec.families)) != len(spec.families):
        raise Rejected(
            f"{spec.families[0]} is there twice; remove it", reason="DuplicateFamily", field="spec.families"
        )
    families = tuple(sorted(FAMILIES[family] for family in spec.families))
    addresses: list[Address] = []
    for index, text in enumerate(spec.snat.addresses):
        address = _address(text, f"{ADDRESSES}[{index}]", pool, srv6_block)
        if address in addresses:
            raise Rejected(
                f"{text} is there twice; remove it",
                reason="DuplicateAddress",
                field=f"{ADDRESSES}[{index}]",
            )
        if families and address.version not in families:
            raise Rejected(
                f"{text} is of a family that spec.families lacks; remove it, or add IPv{address.version}",
                reason="FamilyMismatch",
                field=f"{ADDRESSES}[{index}]",
            )
        addresses.append(address)
    if not spec.snat.enabled and addresses:
        raise Rejected(
            f"{addresses[0]} has no effect with enabled: false; remove it, or write enabled: true",
            reason="SnatDisabled",
            field=ADDRESSES,
        )
    if spec.snat.enabled and not addresses:
        raise Rejected(
            "empty: packets outside need a source; give addresses that the network outside routes to the gateway's "
            "nodes, or write enabled: false where it routes the VPC's own",
            reason="AddressesMissing",
            field=ADDRESSES,
        )
    publish = tuple(
        _published(entry, f"{PUBLISH}[{index}]", families, pool, srv6_block)
        for index, entry in enumerate(spec.publish)
    )
    if publish and not spec.snat.enabled:
        raise Rejected(
            f"{publish[0].name} has no effect with snat.enabled: false; remove it, or write enabled: true",
            reason="SnatDisabled",
            field=PUBLISH,
        )
    _distinct(publish)
    return ParsedGateway(vpc, families, spec.snat.enabled, tuple(addresses), publish)


def _published(
    entry: PublishEntry,
    field: str,
    families: Sequence[int],
    pool: Sequence[Network],
    srv6_block: IPv6Network | None,
) -> Publish:
    address = _address(entry.address, f"{field}.address", pool, srv6_block)
    if families and address.version not in families:
        raise Rejected(
            f"{entry.address} is of a family that spec.families lacks; give another, or add IPv{address.version}",
            reason="FamilyMismatch",
            field=f"{field}.address",
        )
    selector = canonical(entry.to.attachment_selector, f"{field}.to.attachmentSelector")
    target = entry.to.port or entry.port
    return Publish(entry.name, address, entry.port, entry.protocol, selector, target)


def _distinct(publish: Sequence[Publish]) -> None:
    names: set[str] = set()
    ports: dict[tuple[Address, int, str], str] = {}
    for index, one in enumerate(publish):
        if one.name in names:
            raise Rejected(
                f"{one.name} is there twice; give each entry a name of its own",
                reason="DuplicateName",
                field=f"{PUBLISH}[{index}].name",
            )
        names.add(one.name)
        first = ports.setdefault((one.address, one.port, one.protocol), one.name)
        if first != one.name:
            raise Rejected(
                f"{one.port}/{one.protocol} of {one.address} is published by {first} already; give another port or "
                "address, or remove one of the two",
                reason="DuplicatePort",
                field=f"{PUBLISH}[{index}].port",
            )


def _address(text: str, field: str, pool: Sequence[Network], srv6_block: IPv6Network | None) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise Rejected(
            f"{text!r}: {error}; write an address without a length, such as 203.0.113.1",
            reason="InvalidAddress",
            field=field,
        ) from error
    refuse_reserved(host(address), srv6_block, field)
    if pool and not within(address, pool):
        raise Rejected(
            f"{address} is none of the addresses that gateways may have ({', '.join(map(str, pool))}); give one of "
            "them, or ask an administrator to extend the chart's value gateways.addresses",
            reason="AddressNotAllowed",
            field=field,
        )
    return address


def disjoint(addresses: Mapping[Address, str], owned: Iterable[Owned]) -> None:
    """Raises Rejected when an address is one of the cluster's own: packets to it would go into the VPC. ``addresses``:
    each with its field.
    """
    owned = tuple(owned)
    for address, field in addresses.items():
        for one in owned:
            if address in one.network:
                raise Rejected(
                    f"{address} is in {one.network}, {one.owner}; give an address that nothing else has",
                    reason="AddressInUse",
                    field=field,
                )


def routable(networks: Iterable[Network], pool: Sequence[Network], owned: Iterable[Owned]) -> None:
    """Raises Rejected unless the networks can be routed to from outside: for a gateway without SNAT."""
    owned = tuple(owned)
    for network in networks:
        if pool and not any(
            network.version == allowed.version and network.subnet_of(allowed)  # type: ignore[arg-type]
            for allowed in pool
        ):
            raise Rejected(
                f"false, and the VPC's network {network} is none that gateways may have "
                f"({', '.join(map(str, pool))}); give addresses with enabled: true, or ask an administrator to extend "
                "the chart's value gateways.addresses",
                reason="NetworkNotAllowed",
                field="spec.snat.enabled",
            )
        for one in owned:
            if overlaps(network, one.network):
                raise Rejected(
                    f"false, and the VPC's network {network} overlaps {one.network}, {one.owner}; give addresses with "
                    "enabled: true",
                    reason="NetworkInUse",
                    field="spec.snat.enabled",
                )

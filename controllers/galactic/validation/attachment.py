"""Parses and checks an attachment's specification: addresses, interface name, terminations, routes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.crds.vpcattachment import (
    INTERFACE_CHARACTERS,
    RESERVED_NAMES,
    AttachmentRoute,
    VpcAttachment,
)
from galactic.errors import Rejected
from galactic.validation.networks import (
    Address,
    Interface,
    Network,
    host,
    parse_address,
    parse_interface,
    parse_network,
    refuse_reserved,
    refuse_translated,
    within,
)
from galactic.validation.references import check_kind, referenced

INTERFACE_LENGTH: Final = 15
"""The kernel's IFNAMSIZ, without the zero byte at its end."""


@dataclass(frozen=True, slots=True)
class Route:
    """A destination beyond the VPC's networks. ``via`` None: the VPC's own routes lead there."""

    destination: Network
    via: Address | None


@dataclass(frozen=True, slots=True)
class Termination:
    """A network that the VPC reaches through this pod, at its own address ``via``."""

    network: Network
    via: Address


@dataclass(frozen=True, slots=True)
class ParsedAttachment:
    """An attachment's specification as values. ``addresses`` is empty where they are to be allocated."""

    vpc: tuple[str, str]
    interface: str
    addresses: tuple[Interface, ...]
    routes: tuple[Route, ...]
    accepted: tuple[Network, ...] | None = None  # spec.acceptedNetworks

    def terminations(self, addresses: Sequence[Interface]) -> tuple[Termination, ...]:
        """The routes whose ``via`` is one of the attachment's own addresses."""
        own = {address.ip for address in addresses}
        return tuple(
            Termination(route.destination, route.via)
            for route in self.routes
            if route.via is not None and route.via in own
        )

    def onward(self, addresses: Sequence[Interface]) -> tuple[Route, ...]:
        """The other routes: destinations that the pod sends into the VPC."""
        own = {address.ip for address in addresses}
        return tuple(route for route in self.routes if route.via is None or route.via not in own)

    def holds(self, addresses: Sequence[Interface]) -> tuple[Network, ...]:
        """Every network that leads to the attachment: its addresses and its terminations."""
        return (
            *(host(address.ip) for address in addresses),
            *(termination.network for termination in self.terminations(addresses)),
        )


def parse_attachment(attachment: VpcAttachment, srv6_block: IPv6Network | None) -> ParsedAttachment:
    """The specification, checked by itself. Raises Rejected with field, value and remedy."""
    spec = attachment.spec
    check_kind(spec.vpc, "spec.vpc")
    interface_name(spec.interface.name)
    addresses = tuple(
        _interface(text, f"spec.interface.addresses[{index}]", srv6_block)
        for index, text in enumerate(spec.interface.addresses)
    )
    _refuse_repeated((address.ip for address in addresses), "spec.interface.addresses")
    routes = tuple(
        _route(route, f"spec.routes[{index}]", srv6_block) for index, route in enumerate(spec.routes)
    )
    _refuse_repeated((route.destination for route in routes), "spec.routes")
    accepted = spec.accepted_networks
    if accepted is not None:
        limits = tuple(
            parse_network(text, f"spec.acceptedNetworks[{index}]") for index, text in enumerate(accepted)
        )
        _refuse_repeated(limits, "spec.acceptedNetworks")
    return ParsedAttachment(
        accepted=limits if accepted is not None else None,
        vpc=referenced(spec.vpc, attachment.metadata.namespace),
        interface=spec.interface.name,
        addresses=addresses,
        routes=routes,
    )


def interface_name(name: str, field: str = "spec.interface.name") -> None:
    """Raises Rejected unless kernel, CNI and Multus all take the name, and no pod has such an interface already."""
    problem = ""
    if not 1 <= len(name) <= INTERFACE_LENGTH:
        problem = f"has to have 1 to {INTERFACE_LENGTH} characters"
    elif not re.fullmatch(INTERFACE_CHARACTERS, name):
        problem = (
            "has other characters than letters, digits, '_', '-' and '.', or begins with one of the last two"
        )
    elif name in RESERVED_NAMES:
        problem = "is in use in every pod"
    if problem:
        raise Rejected(
            f"{name!r} {problem}; give a name such as galactic0", reason="InvalidInterfaceName", field=field
        )


def outside(spec: ParsedAttachment, addresses: Sequence[Interface], networks: Sequence[Network]) -> str:
    """A sentence with the addresses outside the VPC's networks; empty if there are none."""
    foreign = [str(address.ip) for address in addresses if not within(address.ip, networks)]
    foreign += [
        str(route.via)
        for route in spec.onward(addresses)
        if route.via is not None and not within(route.via, networks)
    ]
    if not foreign:
        return ""
    verb = "lies" if len(foreign) == 1 else "lie"
    return f"{', '.join(foreign)} {verb} outside the VPC's networks ({', '.join(map(str, networks))})"


def _interface(text: str, field: str, srv6_block: IPv6Network | None) -> Interface:
    address = parse_interface(text, field)
    refuse_reserved(host(address.ip), srv6_block, field)
    refuse_translated(host(address.ip), field)
    last = address.network.num_addresses - 1
    offset = int(address.ip) - int(address.network.network_address)
    if address.max_prefixlen - address.network.prefixlen > 1 and (
        offset == 0 or (address.version == 4 and offset == last)
    ):
        role = "network" if offset == 0 else "broadcast"
        raise Rejected(
            f"{text} is the {role} address of {address.network}; give another",
            reason="InvalidAddress",
            field=field,
        )
    return address


def _route(route: AttachmentRoute, field: str, srv6_block: IPv6Network | None) -> Route:
    destination = parse_network(route.destination, f"{field}.destination")
    refuse_reserved(destination, srv6_block, f"{field}.destination")
    if not route.via:
        return Route(destination, None)
    try:
        via = parse_address(route.via)
    except ValueError as error:
        raise Rejected(
            f"{route.via!r}: {error}; give an address without length, such as 10.1.1.1",
            reason="InvalidAddress",
            field=f"{field}.via",
        ) from error
    if via.version != destination.version:
        raise Rejected(
            f"{via} is IPv{via.version}, {destination} is IPv{destination.version}; give an address of the same family",
            reason="WrongFamily",
            field=f"{field}.via",
        )
    return Route(destination, via)


def _refuse_repeated(values: Iterable[Address | Network], field: str) -> None:
    earlier: set[Address | Network] = set()
    for index, value in enumerate(values):
        if value in earlier:
            raise Rejected(
                f"{value} is there twice; remove it", reason="Duplicate", field=f"{field}[{index}]"
            )
        earlier.add(value)

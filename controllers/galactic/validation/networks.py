"""Parses and checks a VPC's networks."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final

from galactic.errors import Rejected

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
PackedNetwork = bytes
"""A network's prefix length (a byte) and address: a tenth of the size, where there are many."""

RESERVED: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "this network, RFC 791 §3.2"),
        ("127.0.0.0/8", "loopback, RFC 1122 §3.2.1.3"),
        ("169.254.0.0/16", "link-local, RFC 3927"),
        ("224.0.0.0/4", "multicast, RFC 5771"),
        ("240.0.0.0/4", "reserved, RFC 1112 §4"),
        ("::/96", "unspecified, loopback and IPv4-compatible, RFC 4291 §2.5"),
        ("::ffff:0:0/96", "IPv4-mapped, never in a packet, RFC 4291 §2.5.5.2"),
        ("100::/64", "discard-only, RFC 6666"),
        ("fe80::/10", "link-local, RFC 4291 §2.5.6"),
        ("fec0::/10", "site-local, deprecated, RFC 3879"),
        ("ff00::/8", "multicast, RFC 4291 §2.7"),
    )
)
"""Networks that no VPC can carry: addresses that stay on a host or belong to none, each with its source."""
TRANSLATED: Final = ip_network("64:ff9b::/96")
"""IPv4 hosts behind a translator (RFC 6052 §2.1). A pod that translates can terminate them; none has such addresses."""
_MASK: Final = re.compile(r"/.*[.:]|%")
"""A mask in place of a length, or a zone: forms that ipaddress takes, and the kernel's interfaces do not."""


def parse_network(text: str, field: str) -> Network:
    """The network. Raises Rejected when it is malformed or has host bits set."""
    try:
        _refuse_forms(text)
        return ip_network(text)
    except ValueError as error:
        try:
            remedy = f"; write {ip_network(text.partition('%')[0] if '%' in text else text, strict=False)}"
        except ValueError:
            remedy = "; write an address, a slash and a length, such as 10.1.1.0/24 or 2001:db8:1::/64"
        raise Rejected(f"{text!r}: {error}{remedy}", reason="InvalidNetwork", field=field) from error


def parse_networks(texts: Sequence[str], srv6_block: IPv6Network | None) -> tuple[Network, ...]:
    """A VPC's ``spec.networks``. Raises Rejected for the first that is malformed, reserved, repeated or overlaps."""
    networks: list[Network] = []
    for index, text in enumerate(texts):
        field = f"spec.networks[{index}]"
        network = parse_network(text, field)
        if not network.prefixlen:
            raise Rejected(
                f"{text} is every address; give the VPC's own networks. For a pod that sends all else into the VPC, "
                "give its VPCAttachment a route",
                reason="DefaultRoute",
                field=field,
            )
        refuse_reserved(network, srv6_block, field)
        refuse_translated(network, field)
        for position, earlier in enumerate(networks):
            if network == earlier:
                raise Rejected(f"{text} is there twice; remove it", reason="DuplicateNetwork", field=field)
            if overlaps(network, earlier):
                raise Rejected(
                    f"{text} overlaps {earlier} (spec.networks[{position}]); keep one of them",
                    reason="OverlappingNetworks",
                    field=field,
                )
        networks.append(network)
    return tuple(networks)


def refuse_reserved(network: Network, srv6_block: IPv6Network | None, field: str) -> None:
    """Raises Rejected when the network overlaps one that a VPC cannot carry."""
    for reserved, reason in RESERVED:
        # A default route covers all of them, but more specific routes win.
        if network.prefixlen and overlaps(network, reserved):
            raise Rejected(
                f"{network} overlaps {reserved} ({reason}); give a unicast network",
                reason="ReservedNetwork",
                field=field,
            )
    if srv6_block and network.prefixlen and overlaps(network, srv6_block):
        raise Rejected(
            f"{network} overlaps the SRv6 block {srv6_block}; give another network",
            reason="ReservedNetwork",
            field=field,
        )


def refuse_translated(network: Network, field: str) -> None:
    """Raises Rejected when pods would have addresses that stand for IPv4 hosts behind a translator."""
    if overlaps(network, TRANSLATED):
        raise Rejected(
            f"{network} overlaps {TRANSLATED} (IPv4 hosts behind a translator, RFC 6052 §2.1); give a network of the "
            "VPC's own, and terminate this one behind the pod that translates (spec.routes of its VPCAttachment)",
            reason="ReservedNetwork",
            field=field,
        )


def parse_interface(text: str, field: str) -> Interface:
    """An address with the length of its network. Raises Rejected when it is malformed."""
    try:
        _refuse_forms(text)
        return ip_interface(text)
    except ValueError as error:
        raise Rejected(
            f"{text!r}: {error}; write an address, a slash and the network's length, such as 10.1.1.1/24",
            reason="InvalidAddress",
            field=field,
        ) from error


def parse_address(text: str) -> Address:
    """The address. Raises ValueError when it is malformed or has a zone (RFC 4007 §11)."""
    _refuse_forms(text)
    return ip_address(text)


def _refuse_forms(text: str) -> None:
    if _MASK.search(text):
        raise ValueError("a mask or a zone has no meaning here")


def overlaps(first: Network, second: Network) -> bool:
    """Whether they share an address. Networks of different families never do."""
    return first.version == second.version and first.overlaps(second)


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks)


def host(address: Address) -> Network:
    """The address as a network of its own, /32 or /128."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def packed(network: Network) -> PackedNetwork:
    """The network in bytes."""
    return bytes((network.prefixlen,)) + network.network_address.packed


def unpacked(network: PackedNetwork) -> Network:
    """The network that was packed."""
    return ip_network((network[1:], network[0]))

"""Networks as canonical text.

A table holds one entry per network, and messages, digests and shards need it as text; an ``IPv4Network`` costs some 500
bytes, its text 60. So a network is parsed once, here, and from then on is a ``Network``: text that is known to be one.
"""

from collections.abc import Iterable
from ipaddress import ip_interface, ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, NewType

from galactic.errors import Rejected

Network = NewType("Network", str)
"""A network in the one text form that ``ipaddress`` gives it: ``10.1.0.0/16``, ``fd00::1/128``."""

_CLOSE: Final = {AF_INET: frozenset((0, 127, 169, *range(224, 256))), AF_INET6: frozenset((0, 254, 255))}
"""First bytes of networks that are never routed, or that can be written in two ways."""
_LONGEST: Final = 43  # 39 characters of an IPv6 address, and "/128"


def network(text: str) -> Network:
    """The network that ``text`` is. Raises Rejected: InvalidNetwork or HostBits.

    Addresses without a prefix length, netmasks, zones, and what is never routed (loopback, link-local, multicast,
    unspecified) are not networks of a VPC. A default route is one: what an attachment terminates for all else.
    """
    quick = _quick(text)
    return _checked(text) if quick is None else quick


def _quick(text: str) -> Network | None:
    """The network where a quick check passes; None: ``_checked`` decides.

    ``ipaddress`` takes ten times as long, and a router that starts reads hundreds of thousands of networks.
    """
    address, _, length = text.partition("/")
    family, bits, least = (AF_INET6, 128, 16) if ":" in address else (AF_INET, 32, 8)
    if (
        not (length.isascii() and length.isdigit() and least <= int(length[:4]) <= bits)
        or len(text) > _LONGEST
    ):
        return None
    try:
        packed = inet_pton(family, address)
    except (OSError, ValueError):  # ValueError: a NUL, or what UTF-8 has no bytes for
        return None
    first, host = packed[0], (1 << (bits - int(length))) - 1
    if int.from_bytes(packed, "big") & host:
        return None
    if first in _CLOSE[family]:
        return None
    canonical = f"{inet_ntop(family, packed)}/{int(length)}"
    return Network(text if canonical == text else canonical)  # the same object: a table has very many


def _checked(text: str) -> Network:
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address or len(text) > _LONGEST:
        raise Rejected(f"{text[:_LONGEST]!r} is not a network: write ADDRESS/LENGTH", reason="InvalidNetwork")
    try:
        parsed = ip_network(text, strict=False)
    except ValueError as error:
        raise Rejected(f"{text!r} is not a network: {error}", reason="InvalidNetwork") from error
    if parsed.is_loopback or parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified:
        raise Rejected(
            f"{text!r} is never routed: loopback, link-local, multicast or unspecified",
            reason="InvalidNetwork",
        )
    if ip_interface(text).ip != parsed.network_address:
        raise Rejected(f"{text!r} has host bits set: write {parsed}", reason="HostBits")
    return Network(str(parsed))


def host_route(address: str) -> Network:
    """The /32 or /128 of an address that is written with or without a prefix length. Raises Rejected."""
    try:
        ip = ip_interface(address).ip
    except ValueError as error:
        raise Rejected(f"{address!r} is not an address: {error}", reason="InvalidAddress") from error
    return network(f"{ip}/{ip.max_prefixlen}")


def entitled(addresses: Iterable[str], routes: Iterable[tuple[str, str | None]]) -> frozenset[Network]:
    """Networks that an attachment may announce: its addresses as host routes, and destinations via one of them.

    ``routes`` are (destination, via); a destination without a length is a host. What is invalid is left out.
    """
    own: dict[str, Network] = {}
    for address in addresses:
        try:
            own[str(ip_interface(address).ip)] = host_route(address)
        except (Rejected, ValueError):
            continue
    networks = set(own.values())
    for destination, via in routes:
        try:
            if via is not None and str(ip_interface(via).ip) in own:
                networks.add(network(destination) if "/" in destination else host_route(destination))
        except (Rejected, ValueError):
            continue
    return frozenset(networks)

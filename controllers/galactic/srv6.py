"""SRv6 numbering: an address contains node, VPC and attachment, so that no look-up is needed.

     0        32    40    48    56    64                     112            128
     | parent | fn  | PoP | node| ver |   VPC identifier      | VPC function  |

A node's *prefix* (/48 to /64) is the user's choice; its *locator* is the prefix's first /64. A *SID* (RFC 8986 §3.1)
is locator + 48-bit VPC identifier + 16-bit function. All-ones in both is the node's SRv6 loopback.
"""

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, IPv6Network, NetmaskValueError
from typing import Final

from galactic.errors import Rejected
from galactic.names import FUNCTION_BITS, FUNCTION_MAX, VPC_MAX

_HOST_MASK: Final = (1 << 64) - 1
LONGEST_PREFIX: Final = 64
SHORTEST_PREFIX: Final = 48


@dataclass(frozen=True, slots=True, order=True)
class Sid:
    """The segment identifier of one attachment on one node (behaviour End.DT46, RFC 8986 §4.8)."""

    locator: int  # the upper 64 bits
    vpc: int  # 48 bits
    function: int  # 16 bits

    @property
    def address(self) -> IPv6Address:
        return IPv6Address(self.locator << 64 | self.vpc << FUNCTION_BITS | self.function)

    def __str__(self) -> str:
        return str(self.address)


def sid(prefix: IPv6Network, vpc: int, function: int) -> Sid:
    """The SID of (vpc, function) on the node with that prefix. Raises ValueError on reserved or too large numbers."""
    if not 0 < vpc < VPC_MAX:
        raise ValueError(f"VPC identifier {vpc:#x} is reserved or longer than 48 bits")
    if not 0 < function < FUNCTION_MAX:
        raise ValueError(f"attachment identifier {function:#x} is reserved or longer than 16 bits")
    return Sid(int(prefix.network_address) >> 64, vpc, function)


def parse_sid(text: str) -> Sid:
    """The parts of a SID. Raises Rejected on anything that is not an IPv6 address or has a reserved field."""
    try:
        number = int(IPv6Address(text))
    except (AddressValueError, ValueError) as error:
        raise Rejected(f"{text!r} is not a SID: {error}") from error
    vpc, function = (number & _HOST_MASK) >> FUNCTION_BITS, number & FUNCTION_MAX
    if vpc in (0, VPC_MAX) or function in (0, FUNCTION_MAX):
        raise Rejected(f"{text!r} is not a SID: its VPC or function field is reserved")
    return Sid(number >> 64, vpc, function)


def parse_prefix(text: str) -> IPv6Network:
    """A node's SRv6 prefix. Raises Rejected unless it is an IPv6 network of /48 to /64 without host bits."""
    try:
        prefix = IPv6Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise Rejected(f"{text!r} is not an IPv6 prefix: {error}", field="spec.prefix") from error
    if not SHORTEST_PREFIX <= prefix.prefixlen <= LONGEST_PREFIX:
        raise Rejected(
            f"{text!r} has length /{prefix.prefixlen}: give a prefix of /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}",
            field="spec.prefix",
        )
    return prefix


def locator(prefix: IPv6Network) -> IPv6Network:
    """The prefix's first /64, which all of the node's SIDs share."""
    return IPv6Network((int(prefix.network_address), 64))


def loopback(prefix: IPv6Network) -> IPv6Address:
    """The node's SRv6 loopback, the source of the packets it encapsulates."""
    return IPv6Address(int(prefix.network_address) | _HOST_MASK)


def owns(prefix: IPv6Network, segment: Sid) -> bool:
    """Whether the SID belongs to the node with that prefix."""
    return int(prefix.network_address) >> 64 == segment.locator

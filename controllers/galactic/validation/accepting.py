"""Which of a VPC's networks an attachment accepts: pure functions.

The owner of a shared VPC may add a network at any time. In a pod of another namespace its route, longer than the
default route, would take packets from the default network: those to the cluster's Services, for example.
"""

from collections.abc import Iterable, Sequence
from ipaddress import collapse_addresses

from galactic.validation.networks import Network, overlaps


def accepted(networks: Iterable[Network], within: Sequence[Network]) -> tuple[Network, ...]:
    """The parts of ``networks`` that lie inside ``within``, in the order of ``networks``; equal ones once.

    Of two networks that overlap one contains the other, so each part is one of the two.
    """
    distinct = _collapsed(within)
    parts = (
        network if network.prefixlen >= limit.prefixlen else limit
        for network in networks
        for limit in distinct
        if overlaps(network, limit)
    )
    return tuple(dict.fromkeys(parts))


def declined(networks: Iterable[Network], within: Sequence[Network]) -> tuple[Network, ...]:
    """The networks that do not lie inside ``within`` as a whole."""
    distinct = _collapsed(within)
    return tuple(
        network
        for network in networks
        if not any(overlaps(network, limit) and network.prefixlen >= limit.prefixlen for limit in distinct)
    )


def _collapsed(networks: Sequence[Network]) -> list[Network]:
    """Without those that lie inside another one; adjacent halves are one network."""
    return [
        *collapse_addresses(network for network in networks if network.version == 4),
        *collapse_addresses(network for network in networks if network.version == 6),
    ]

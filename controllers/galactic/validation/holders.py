"""How a refusal names the holder of an address or an identifier, and which networks are another namespace's."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from galactic.errors import Rejected
from galactic.validation.attachment import ParsedAttachment
from galactic.validation.networks import Interface, Network, host, within

NESTED: Final = "Nested"
"""The reason of ``unnested``."""


GATEWAY: Final = "gateway/"
"""Before the name of a gateway among the holders of a VPC's identifiers and addresses: no attachment has a slash in its
name.
"""


def named(kind: str, holder: tuple[str, str], asker: str, owner: str = "") -> str:
    """Kind and name of the holder, if the namespace ``asker`` is the holder's own or the VPC's (``owner``).

    Other namespaces do not learn each other's names.
    """
    if holder[1].startswith(GATEWAY):
        kind, holder = "VPCGateway", (holder[0], holder[1].removeprefix(GATEWAY))
    if asker in (holder[0], owner):
        return f"{kind} {holder[0]}/{holder[1]}"
    return f"a {kind} of another namespace"


def remedy(holder: tuple[str, str], asker: str, owner: str = "") -> str:
    """The remedy of the same refusal."""
    if asker in (holder[0], owner):
        return "choose another, or delete that one first"
    return "choose another"


class Lengths:
    """The prefix lengths of terminations that are held: few, so an enclosing one is found without a search.

    A default route counts for none: it is for what has no route of its own.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int]] = Counter()

    def add(self, network: Network, number: int = 1) -> None:
        """``number`` -1: the network is not held any more."""
        if network.prefixlen in (0, network.max_prefixlen):
            return
        key = network.version, network.prefixlen
        self._counts[key] += number
        if self._counts[key] <= 0:
            del self._counts[key]

    def enclosing(self, network: Network) -> Iterable[Network]:
        """The networks of those lengths that enclose the network, the longest first."""
        lengths = sorted(
            (length for version, length in self._counts if version == network.version), reverse=True
        )
        for length in lengths:
            if length < network.prefixlen:
                yield network.supernet(new_prefix=length)


def unnested(
    spec: ParsedAttachment,
    addresses: Iterable[Interface],
    networks: Iterable[Network],
    enclosing: Callable[[Network], tuple[str, str] | None],
    asker: str,
) -> None:
    """Raises Rejected when a network lies inside one that another namespace terminates: it would take traffic of that.

    The VPC's own namespace may. Addresses inside the VPC's ``networks`` are everyone's. ``enclosing``: the holder of an
    enclosing network in another namespace.
    """
    if asker == spec.vpc[0]:
        return
    addresses, networks = tuple(addresses), tuple(networks)
    foreign = [host(address.ip) for address in addresses if not within(address.ip, networks)]
    wanted = [(network, "spec.interface.addresses") for network in foreign]
    wanted += [(termination.network, "spec.routes") for termination in spec.terminations(addresses)]
    for network, field in wanted:
        if (holder := enclosing(network)) is not None:
            other = named("VPCAttachment", holder, asker, spec.vpc[0])
            raise Rejected(
                f"{network} lies inside a network that {other} terminates; choose one outside it",
                reason=NESTED,
                field=field,
            )

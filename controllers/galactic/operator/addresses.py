"""The holders of a VPC's networks, and its free addresses: one ``Addresses`` a VPC.

An attachment holds its addresses, as /32 and /128, and its terminations. A network has one holder.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address, ip_interface
from typing import Final

from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key
from galactic.validation.holders import Lengths, named, remedy
from galactic.validation.networks import Address, Interface, Network, host

FURTHEST: Final = 1 << 16
"""The largest offset in a network at which allocation begins."""
POINT_TO_POINT: Final = 1
"""Host bits up to which a network has no network, broadcast or gateway address (RFC 3021, RFC 6164)."""


class Held(Rejected):
    """Another attachment holds that network. Tried again when it is released."""


class _Free:
    """The free addresses of one network, in amortised constant time.

    Allocation goes from the middle upwards, in large networks from offset 65,536, and takes the lower addresses last:
    users who give addresses begin at the low end, and may do so after others were allocated.

    Addresses beyond the mark were never allocated. Released ones before it wait in a queue, so that an address rests
    while there are fresh ones. Addresses that a specification gives are skipped.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        first, last, start = 0, network.num_addresses - 1, 0
        if network.max_prefixlen - network.prefixlen > POINT_TO_POINT:
            # Neither network, nor the first host (a gateway's place), nor broadcast.
            first, last, start = 2, last - 1, min(network.num_addresses // 2, FURTHEST)
        self._first, self._count = int(network.network_address) + first, last - first + 1
        self._start = start % self._count
        self._mark = 0
        self._returned: deque[int] = deque()

    def allocate(self, unavailable: Callable[[Network], bool]) -> Interface | None:
        """A free address with the network's length, None when there is none."""
        while self._mark < self._count:
            index, self._mark = self._mark, self._mark + 1
            if not unavailable(host(address := self._address(index))):
                return self._interface(address)
        for _ in range(len(self._returned)):
            if not unavailable(host(address := self._address(self._returned.popleft()))):
                return self._interface(address)
        return None

    def release(self, address: Address) -> None:
        offset = int(address) - self._first
        if 0 <= offset < self._count and (index := (offset - self._start) % self._count) < self._mark:
            self._returned.append(index)

    def _address(self, index: int) -> Address:
        number = self._first + (self._start + index) % self._count
        return ip_address(number.to_bytes(self.network.max_prefixlen // 8, "big"))

    def _interface(self, address: Address) -> Interface:
        return ip_interface(f"{address}/{self.network.prefixlen}")


def capacity(network: Network) -> int:
    """The number of addresses of a network that can be allocated."""
    reserved = 3 if network.max_prefixlen - network.prefixlen > POINT_TO_POINT else 0
    return network.num_addresses - reserved


class Addresses:
    """The networks held in one VPC. ``owner``: the VPC's namespace, for messages."""

    def __init__(self, owner: str = "") -> None:
        self._owner = owner
        self._holders: dict[Network, Key] = {}
        self._networks: dict[Key, frozenset[Network]] = {}
        self._free: dict[Network, _Free] = {}
        self._named: Counter[Network] = Counter()
        self._hosts: Counter[int] = Counter()  # single addresses held, by IP version
        self._lengths = Lengths()
        self._namespaces: Counter[str] = Counter()  # networks held, by the holder's namespace

    def hosts(self, version: int) -> int:
        """The number of single addresses of a family that are held."""
        return self._hosts[version]

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, network: Network) -> Key | None:
        return self._holders.get(network)

    def namespaces(self) -> dict[str, int]:
        """The number of networks that the attachments of each namespace hold."""
        return dict(self._namespaces)

    def in_namespace(self, namespace: str) -> int:
        """The number of networks that the attachments of a namespace hold."""
        return self._namespaces[namespace]

    def enclosing(self, network: Network, namespace: str) -> Key | None:
        """The holder, in another namespace, of the longest network that encloses this one."""
        holders = (self._holders.get(candidate) for candidate in self._lengths.enclosing(network))
        return next((holder for holder in holders if holder is not None and holder[0] != namespace), None)

    def held_by(self, holder: Key) -> frozenset[Network]:
        return self._networks.get(holder, frozenset())

    @property
    def named(self) -> bool:
        """Whether any specification gives an address here."""
        return bool(self._named)

    def name(self, networks: Collection[Network]) -> None:
        """Reserves the addresses that a specification names: others are not allocated them, even if it is refused."""
        self._named.update(networks)

    def unname(self, networks: Collection[Network]) -> None:
        """The opposite of ``name``."""
        for network in networks:
            self._named[network] -= 1
            if self._named[network] <= 0:
                del self._named[network]
                if network not in self._holders:
                    self._release(network)

    def claim(self, holder: Key, networks: Collection[Network]) -> bool:
        """The holder gets exactly those networks; raises Held, and changes nothing, if another holds one of them.

        True if it released one, which another may wait for.
        """
        for network in networks:
            present = self._holders.get(network)
            if present is not None and present != holder:
                text = network.network_address if network.prefixlen == network.max_prefixlen else network
                raise Held(
                    f"{text} is held by {named('VPCAttachment', present, holder[0], self._owner)}; "
                    f"{remedy(present, holder[0], self._owner)}",
                    reason="Conflict",
                )
        before, after = self.held_by(holder), frozenset(networks)
        for network in after - before:
            self._holders[network] = holder
            self._hosts[network.version] += network.prefixlen == network.max_prefixlen
            self._lengths.add(network)
        for network in before - after:
            self._drop(network)
        self._namespaces[holder[0]] += len(after) - len(before)
        if not self._namespaces[holder[0]]:
            del self._namespaces[holder[0]]
        if after:
            self._networks[holder] = after
        else:
            self._networks.pop(holder, None)
        return bool(before - after)

    def release(self, holder: Key) -> bool:
        """Releases all of the holder's networks. True if it had any."""
        return self.claim(holder, ())

    def allocate(
        self, networks: Sequence[Network], versions: Collection[int] = (4, 6)
    ) -> tuple[Interface, ...]:
        """A free address for each of those families that the networks have, not yet claimed.

        Raises NotYet when a family has none left.
        """
        for network in [network for network in self._free if network not in networks]:
            del self._free[network]
        result = []
        for version in sorted({network.version for network in networks}.intersection(versions)):
            family = [network for network in networks if network.version == version]
            for network in family:
                free = self._free.setdefault(network, _Free(network))
                if (address := free.allocate(self._unavailable)) is not None:
                    result.append(address)
                    break
            else:
                for address in result:
                    self._release(host(address.ip))
                raise NotYet(
                    f"no free IPv{version} address in {', '.join(map(str, family))}; add a network to the VPC's "
                    "spec.networks, or delete attachments",
                    reason="AddressesExhausted",
                )
        return tuple(result)

    def _unavailable(self, network: Network) -> bool:
        return network in self._holders or network in self._named

    def _drop(self, network: Network) -> None:
        del self._holders[network]
        self._lengths.add(network, -1)
        self._hosts[network.version] -= network.prefixlen == network.max_prefixlen
        self._release(network)

    def _release(self, network: Network) -> None:
        if network.prefixlen == network.max_prefixlen:
            for free in self._free.values():
                if network.version == free.network.version and network.network_address in free.network:
                    free.release(network.network_address)

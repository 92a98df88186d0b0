"""Which attachments of one VPC lead to a network."""

from galactic.kube.api import Key
from galactic.validation.holders import Lengths
from galactic.validation.networks import Network, PackedNetwork, packed, unpacked


class Holders:
    """Networks with their attachments, nearly always one. ``lengths``: the prefix lengths of the networks."""

    def __init__(self) -> None:
        self._one: dict[PackedNetwork, Key] = {}
        self._further: dict[PackedNetwork, frozenset[Key]] = {}
        self.lengths = Lengths()

    def __len__(self) -> int:
        """The number of networks."""
        return len(self._one)

    def of(self, network: Network) -> frozenset[Key]:
        """The attachments that lead to it."""
        place = packed(network)
        one = self._one.get(place)
        return frozenset() if one is None else self._further.get(place, frozenset()) | {one}

    def add(self, place: PackedNetwork, key: Key) -> None:
        """The attachment leads to the network, which it did not."""
        if place in self._one:
            self._further[place] = self._further.get(place, frozenset()) | {key}
        else:
            self._one[place] = key
        self.lengths.add(unpacked(place))

    def remove(self, place: PackedNetwork, key: Key) -> None:
        """The attachment does not lead to the network any more."""
        left = (self._further.pop(place, frozenset()) | {self._one.pop(place)}) - {key}
        if left:
            self._one[place], *further = left
            if further:
                self._further[place] = frozenset(further)
        self.lengths.add(unpacked(place), -1)

"""Changes by other programs to objects of ours: their number, and the first of them in words for the log."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from galactic.diff import Diff
from galactic.linux.objects import Change, PackedNetwork, route_of, unpacked

NAMED: Final = 5
GONE: Final = "gone or changed"
ADDED: Final = "added"


class Drift:
    """Objects that differ from what was last written. There may be 100,000: only the first are put in words."""

    def __init__(self) -> None:
        self.objects = 0
        self.first: list[str] = []

    def add(self, difference: Change) -> None:
        """``difference`` turns the actual objects into those last written."""
        self.objects += len(difference)
        described = chain(
            (f"{what} {GONE}" for what in words(difference)),
            (f"{what} {ADDED}" for what in words(_turned(difference))),
        )
        self.first += islice(described, max(0, NAMED - len(self.first)))

    def add_route(self, table: int, network: PackedNetwork, what: str) -> None:
        """A route to another node is GONE or ADDED."""
        self.objects += 1
        if len(self.first) < NAMED:
            self.first.append(f"route {unpacked(network)} in table {table} {what}")


def words(difference: Change) -> Iterator[str]:
    """The objects to set, in words."""
    for name in difference.links.set:
        yield f"link {name}"
    for device, address in difference.addresses.set:
        yield f"address {address} on {device}"
    for key in difference.routes.set:
        yield "route {1} in table {0}".format(*route_of(key))
    for rule in difference.rules.set:
        yield f"rule {rule.priority}"
    for family in difference.lookups.set:
        yield f"order of the IPv{family} policy rules"
    for device, neighbour in difference.neighbours.set:
        yield f"neighbour {neighbour} on {device}"
    for name in difference.sysctls.set:
        yield f"sysctl {name}"


def _turned(difference: Change) -> Change:
    """With the objects to delete as those to set."""
    return Change(
        links=Diff(difference.links.delete, {}),
        addresses=Diff(difference.addresses.delete, {}),
        routes=Diff(difference.routes.delete, {}),
        rules=Diff(difference.rules.delete, {}),
        sysctls=Diff({}, {}),
        lookups=Diff({}, {}),
        neighbours=Diff(difference.neighbours.delete, {}),
    )

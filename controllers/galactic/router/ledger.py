"""What one VPC's subscribers were told, and what they are to be told next. No I/O.

A change goes ``put`` → ``changes`` (messages chained by ``previous``) → ``pack`` (retained shards, then the head). What
``changes`` returned counts as told: it must be published, in order, until confirmed; repeating it does no harm.

Revisions are hybrid: ``max(previous + 1, now in ms)``, so that they rise even if a router starts with nothing to go by.
A table that became empty is wiped from the broker; the next change then has ``previous`` 0, the revision of nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from galactic.diff import Diff
from galactic.messages import MAX_PAYLOAD, Changes, Head, Route, Shard, digest_of
from galactic.names import vpc_hex
from galactic.router.networks import Network
from galactic.router.retained import RetainedTable
from galactic.router.shards import Shards

_ENVELOPE: Final = 256  # bytes of a message around its routes, more than enough


@dataclass(frozen=True, slots=True)
class Pack:
    """Retained messages in the order in which they must be published: shards, head, and what is to be cleared."""

    revision: int
    shards: dict[int, Shard]
    head: Head | None  # None: the table is empty, clear the head, before the shards
    clear: frozenset[int]


class Ledger:
    """One VPC."""

    def __init__(self, vpc: int, retained: RetainedTable | None = None) -> None:
        self.vpc = vpc_hex(vpc)
        self.revision = 0
        self._shards = Shards()
        self._due: dict[Network, Route | None] = {}
        self._packed: int | None = None  # the revision that the broker's head is at; None: it has none
        self._there: set[int] = set()  # shards in the broker
        if retained is not None:
            self._adopt(retained)

    @property
    def packed(self) -> bool:
        """Whether what the broker retains is what subscribers were told."""
        if not self._shards.count:
            return self._packed is None and not self._there
        return (
            self._packed == self.revision and not self._shards.dirty and len(self._there) == len(self._shards)
        )

    @property
    def retained(self) -> bool:
        """Whether the broker has a table of this VPC, be it an older one."""
        return self._packed is not None

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to tell, now or packed."""
        return not self._due and self.packed

    @property
    def count(self) -> int:
        return self._shards.count

    def routes(self) -> dict[Network, Route]:
        """The table as subscribers were told."""
        return {network: route for network in self._shards if (route := self._shards.get(network))}

    def put(self, changed: Diff[Network, Route]) -> None:
        """What is to be told. What is due for the same network already is replaced."""
        self._due.update(changed.set)
        self._due.update(dict.fromkeys(changed.delete))

    def changes(self, now: int) -> list[Changes]:
        """Messages for everything due, none larger than a payload may be; what is told already is left out.

        ``now`` in ms. Sets come before deletes: make before break.
        """
        sets: list[Route] = []
        deletes: list[Network] = []
        for network, route in self._due.items():
            told = self._shards.get(network)
            if route is not None and route != told:
                sets.append(route)
            elif route is None and told is not None:
                deletes.append(network)
        self._due.clear()
        messages = []
        for some_sets, some_deletes in _portions(sets, deletes):
            previous, self.revision = self.revision, max(self.revision + 1, now)
            messages.append(Changes(self.revision, previous, some_sets, some_deletes))
            for route in some_sets:
                self._shards.put(route)
            for gone in some_deletes:
                self._shards.remove(gone)
        return messages

    def pack(self) -> Pack | None:
        """What has to be published for the broker to retain the table as told; None: nothing. ``confirmed`` follows."""
        if self.packed:
            return None
        self._shards.tidy()
        of = len(self._shards)
        wanted = self._shards.dirty | {number for number in range(of) if number not in self._there}
        shards = {number: Shard(self.revision, of, self._shards.shard(number)) for number in sorted(wanted)}
        self._shards.dirty = set()
        head = Head(self.revision, self.count, digest_of(self._shards.total), of) if self.count else None
        return Pack(
            self.revision,
            shards if head else {},
            head,
            frozenset(self._there - set(range(of if head else 0))),
        )

    def confirmed(self, pack: Pack) -> None:
        """Everything of that pack was published."""
        self._there = (self._there | pack.shards.keys()) - pack.clear
        self._packed = pack.revision if pack.head else None
        if pack.head is None and not self.count:
            self._shards = Shards()
            self.revision = 0

    def compare(self, retained: RetainedTable | None) -> None:
        """What a broker that came back retains: whatever differs from what was told is to be packed again."""
        retained = retained or RetainedTable()
        self._there = set(retained.shards)
        of = len(self._shards)
        for number in range(of):
            shard = retained.shards.get(number)
            if shard is None or shard.of != of or set(shard.routes) != set(self._shards.shard(number)):
                self._shards.dirty.add(number)
        head = Head(self.revision, self.count, digest_of(self._shards.total), of)
        self._packed = (
            self.revision if retained.head == head else (retained.head.revision if retained.head else None)
        )
        if retained.revision > self.revision:  # somebody else's: what we publish must be later
            self.revision = retained.revision + 1

    def _adopt(self, retained: RetainedTable) -> None:
        self.revision = retained.revision
        routes = retained.routes()
        shards: dict[int, list[Route]] = {number: [] for number in range(retained.of)}
        for number, shard in retained.shards.items():
            if shard and number < retained.of:
                shards[number] = [
                    route for route in shard.routes if routes.get(Network(route.network)) == route
                ]
        self._shards.adopt(shards, retained.of)
        self.compare(retained)


def _portions(
    sets: Iterable[Route], deletes: Iterable[Network]
) -> Iterator[tuple[tuple[Route, ...], tuple[Network, ...]]]:
    """Cuts a change into parts whose messages fit into a payload."""
    some_sets: list[Route] = []
    some_deletes: list[Network] = []
    room = MAX_PAYLOAD - _ENVELOPE
    items: list[Route | Network] = [*sets, *deletes]
    for item in items:
        size = len(_encoder.encode(item)) + 1
        if size > room:
            yield tuple(some_sets), tuple(some_deletes)
            some_sets, some_deletes, room = [], [], MAX_PAYLOAD - _ENVELOPE
        room -= size
        if isinstance(item, Route):
            some_sets.append(item)
        else:
            some_deletes.append(item)
    if some_sets or some_deletes:
        yield tuple(some_sets), tuple(some_deletes)


_encoder: Final = msgspec.json.Encoder()

"""What one VPC's subscribers were told, and what they are to be told next. No I/O.

A change goes ``put`` → ``changes`` (messages chained by ``previous``) → ``pack`` (retained shards, then the head). What
``changes`` returned counts as told: it must be published, in order, until confirmed; repeating it does no harm.

Revisions are hybrid: ``max(previous + 1, now in ms)``, so that they rise even if a router starts with nothing to go by.
A table that became empty is wiped from the broker; the next change then has ``previous`` 0, the revision of nothing,
and a revision above all that there were, whatever the clock says by then.

Another writer may have published on the same topics: a leader that did not know yet that it was deposed, or a person.
A subscriber is then either at the revision that this Adj-RIB-Out has for it, or on a *branch*, at the other writer's
revision. Both are led to the same next revision, each by a message that continues its own, so that no subscriber has
to read the table again.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from galactic.diff import Diff
from galactic.messages import MAX_PAYLOAD, Changes, Head, Route, Shard, digest_of
from galactic.names import vpc_hex
from galactic.router.egress.retained import RetainedTable
from galactic.router.egress.shards import Shards
from galactic.router.rib.networks import Network

REVISION_MAX: Final = 1 << 62
"""What is beyond was not said by any router."""
_BRANCHES: Final = 16
_RECENT: Final = 64
_STRAY: Final = -1  # in place of a revision: a head that somebody else wrote
_ENVELOPE: Final = 256  # bytes of a message around its routes, more than enough


@dataclass(frozen=True, slots=True)
class Pack:
    """Retained messages in the order in which they must be published: shards, head, and what is to be cleared."""

    revision: int
    shards: dict[int, Shard]
    head: Head | None  # None: the table is empty, clear the head, before the shards
    clear: frozenset[int]


class AdjRibOut:
    """One VPC."""

    def __init__(self, vpc: int, retained: RetainedTable | None = None, *, floor: int = 0) -> None:
        """``floor``: a revision that was told once, though nothing in the broker speaks of it any more."""
        self.vpc = vpc_hex(vpc)
        self.floor = floor
        self.revision = 0
        self._shards = Shards()
        self._due: dict[Network, Route | None] = {}
        self._packed: int | None = None  # the revision that the broker's head is at; None: it has none
        self._there: set[int] = set()  # shards in the broker
        self._disturbed = False  # what is being packed may not be what the broker has in the end
        self._reserved = 0  # the revision at which what is due will be told
        self._above = 0  # the latest revision that somebody else told of
        self._branches: dict[int, set[Network]] = {}  # by revision: what may differ there
        self._recent: deque[tuple[int, set[Network]]] = deque(maxlen=_RECENT)  # previous, and what changed
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
        return not self.untold and self.packed

    @property
    def untold(self) -> bool:
        """Whether there is something to tell now."""
        return bool(self._due or self._branches or self._above > self.revision)

    @property
    def revision_due(self) -> int:
        """The revision at which everything that was ``put`` is told, or was."""
        return max(self._reserved, self._least) if self._reserved else self.revision

    @property
    def count(self) -> int:
        return self._shards.count

    def routes(self) -> dict[Network, Route]:
        """The table as subscribers were told."""
        return {network: route for network in self._shards if (route := self._shards.get(network))}

    def put(self, changed: Diff[Network, Route], now: int = 0) -> None:
        """What is to be told. What is due for the same network already is replaced. ``now`` in ms."""
        self._due.update(changed.set)
        self._due.update(dict.fromkeys(changed.delete))
        if now and not self._reserved:
            self._reserved = max(self._least, now)

    def changes(self, now: int) -> list[Changes]:
        """Messages for everything due, none larger than a payload may be; what is told already is left out.

        ``now`` in ms. Sets come before deletes: make before break. Messages for those on branches come last.
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
        portions = list(_portions(sets, deletes))
        if not portions and (self._branches or self._above > self.revision):
            portions = [((), ())]
        # Each of them is above what others told: at a revision of theirs nobody may take our next message for theirs.
        last = max(self._least + len(portions) - 1, self._reserved or now)
        self._reserved = 0
        messages = []
        touched: set[Network] = set()
        for left, (some_sets, some_deletes) in zip(range(len(portions) - 1, -1, -1), portions, strict=True):
            previous, self.revision = self.revision, last - left
            messages.append(Changes(self.revision, previous, some_sets, some_deletes))
            for route in some_sets:
                self._shards.put(route)
            for gone in some_deletes:
                self._shards.remove(gone)
            concerned = {Network(route.network) for route in some_sets} | {*map(Network, some_deletes)}
            self._recent.append((previous, concerned))
            touched |= concerned
        branches, self._branches = self._branches, {}
        return messages + [
            message
            for revision, differing in branches.items()
            if (message := self._joining(revision, differing | touched)) is not None
        ]

    def replay(self, told: Mapping[int, Changes]) -> None:
        """What subscribers were told on top of the retained table, by the revision it continues. Before any ``put``."""
        at = max(self._packed or 0, 0)
        while (change := told.get(at)) is not None and at < change.revision <= REVISION_MAX:
            for route in change.set:
                self._shards.put(route)
            for gone in change.delete:
                if self._shards.get(Network(gone)) is not None:
                    self._shards.remove(Network(gone))
            at = change.revision
        self.revision = max(self.revision, at)

    def strayed(self, stray: Changes) -> None:
        """Somebody else told this change: those who took it over are on a branch."""
        if not 0 < stray.revision <= REVISION_MAX:
            return
        differing = {Network(route.network) for route in stray.set} | {*map(Network, stray.delete)}
        known = stray.previous == self.revision
        for previous, concerned in reversed(self._recent):
            if known:
                break
            differing |= concerned
            known = previous == stray.previous
        if known and len(self._branches) < _BRANCHES:
            self._branches[stray.revision] = differing
        if known or stray.revision > self.revision:
            self._above = max(self._above, stray.revision)

    def overwritten(self, number: int | None, revision: int, *, cleared: bool) -> None:
        """Somebody else wrote this shard, or the head (None), or cleared it."""
        self._disturbed = True
        if number is None:
            self._packed = None if cleared else _STRAY
        else:
            (self._there.discard if cleared else self._there.add)(number)
            if number < len(self._shards):
                self._shards.dirty.add(number)
        if revision <= REVISION_MAX:
            self._above = max(self._above, revision)

    def pack(self) -> Pack | None:
        """What has to be published for the broker to retain the table as told; None: nothing. ``confirmed`` follows."""
        if self.packed:
            return None
        self._disturbed = False
        self._shards.tidy()
        of = len(self._shards)
        wanted = self._shards.dirty | {number for number in range(of) if number not in self._there}
        shards = {number: Shard(self.revision, of, self._shards.shard(number)) for number in sorted(wanted)}
        self._shards.dirty = set()
        head = self._head() if self.count else None
        return Pack(
            self.revision,
            shards if head else {},
            head,
            frozenset(self._there - set(range(of if head else 0))),
        )

    def confirmed(self, pack: Pack) -> None:
        """Everything of that pack was published. What others wrote meanwhile may have come after it: all again."""
        self._there |= pack.shards.keys()
        if self._disturbed:
            self._there |= pack.clear
            self._packed = _STRAY
            return
        self._there -= pack.clear
        self._packed = pack.revision if pack.head else None
        if pack.head is None and not self.count:
            self._shards = Shards()
            self.floor, self.revision, self._above = self._least - 1, 0, 0

    def compare(self, retained: RetainedTable | None) -> None:
        """What a broker that came back retains: whatever differs from what was told is to be packed again."""
        retained = retained or RetainedTable()
        self._disturbed = True
        self._there = set(retained.shards)
        of = len(self._shards)
        for number in range(of):
            shard = retained.shards.get(number)
            if shard is None or shard.of != of or set(shard.routes) != set(self._shards.shard(number)):
                self._shards.dirty.add(number)
        if retained.head is not None:
            self._packed = retained.head.revision if retained.head != self._head() else self.revision
        else:
            self._packed = _STRAY if retained.refused else None
        if (
            self.revision < retained.revision <= REVISION_MAX
        ):  # somebody else's: what we publish must be later
            self._above = max(self._above, retained.revision)
            if retained.head is not None and retained.whole:
                theirs, ours = retained.routes(), self.routes()
                differing = {it for it in theirs.keys() | ours.keys() if theirs.get(it) != ours.get(it)}
                self._branches[retained.head.revision] = differing

    @property
    def _least(self) -> int:
        """The lowest revision that nobody has used."""
        return max(self.revision, self._above, self.floor) + 1

    def _head(self) -> Head:
        return Head(self.revision, self.count, digest_of(self._shards.total), len(self._shards))

    def _joining(self, revision: int, differing: Iterable[Network]) -> Changes | None:
        """Leads from a branch to the table as told; None where that is too large: they will read the table."""
        routes = {network: self._shards.get(network) for network in sorted(differing)}
        sets = tuple(route for route in routes.values() if route is not None)
        deletes = tuple(network for network, route in routes.items() if route is None)
        portions = list(_portions(sets, deletes)) or [((), ())]
        return Changes(self.revision, revision, *portions[0]) if len(portions) == 1 else None

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

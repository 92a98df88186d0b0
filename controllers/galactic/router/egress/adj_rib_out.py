"""The Adj-RIB-Out of one VPC: the table as advertised to its subscribers, and pending changes. No I/O.

A change goes ``put`` → ``changes`` (messages chained by ``previous``) → ``pack`` (retained shards, then the head). What
``changes`` returned counts as advertised: it must be published, in order, until confirmed; repeating it does no harm.

Revisions are hybrid: ``max(previous + 1, now in ms)``, so that they rise even if a router starts without any. A table
that became empty is cleared from the broker; the next change then has ``previous`` 0, the revision of an empty table,
and a revision above all earlier ones, even if the clock went back.

Another writer may have published on the same topics: a leader that did not know yet that it was deposed, or a person.
A subscriber is then either at the revision that this Adj-RIB-Out has for it, or on a *branch*, at the other writer's
revision. Two messages, one continuing each, lead both to the same next revision, so that no subscriber has to read the
table again.
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
"""No router publishes a higher one."""
_BRANCHES: Final = 16
_RECENT: Final = 64
_FOREIGN: Final = -1  # in place of a revision: another writer's head
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
        """``floor``: a revision that was advertised once, though the broker retains nothing of it any more."""
        self.vpc = vpc_hex(vpc)
        self.floor = floor
        self.revision = 0
        self._shards = Shards()
        self._pending: dict[Network, Route | None] = {}
        self._packed: int | None = None  # the revision that the broker's head is at; None: it has none
        self._retained: set[int] = set()  # shards in the broker
        self._disturbed = False  # the broker may end up with something else than what is being packed
        self._reserved = 0  # the revision of the pending changes
        self._foreign = 0  # the latest revision of another writer
        self._branches: dict[int, set[Network]] = {}  # by revision: networks that may differ there
        self._recent: deque[tuple[int, set[Network]]] = deque(
            maxlen=_RECENT
        )  # previous revision, and the networks that changed
        if retained is not None:
            self._adopt(retained)

    @property
    def packed(self) -> bool:
        """Whether the broker retains the table as advertised."""
        if not self._shards.count:
            return self._packed is None and not self._retained
        return (
            self._packed == self.revision
            and not self._shards.dirty
            and len(self._retained) == len(self._shards)
        )

    @property
    def retained(self) -> bool:
        """Whether the broker retains a table of this VPC, perhaps an older one."""
        return self._packed is not None

    @property
    def idle(self) -> bool:
        """Whether everything is advertised and packed."""
        return not self.pending and self.packed

    @property
    def pending(self) -> bool:
        """Whether there are changes to advertise."""
        return bool(self._pending or self._branches or self._foreign > self.revision)

    @property
    def pending_revision(self) -> int:
        """The revision at which everything that was ``put`` is advertised, or was."""
        return max(self._reserved, self._next) if self._reserved else self.revision

    @property
    def count(self) -> int:
        return self._shards.count

    def routes(self) -> dict[Network, Route]:
        """The table as advertised."""
        return {network: route for network in self._shards if (route := self._shards.get(network))}

    def put(self, changed: Diff[Network, Route], now: int = 0) -> None:
        """Changes to advertise. They replace pending ones of the same networks. ``now`` in ms."""
        self._pending.update(changed.set)
        self._pending.update(dict.fromkeys(changed.delete))
        if now and not self._reserved:
            self._reserved = max(self._next, now)

    def changes(self, now: int, largest: int = MAX_PAYLOAD) -> list[Changes]:
        """Messages for all pending changes, none larger than a payload may be; advertised routes are left out.

        ``now`` in ms, ``largest`` in bytes. Sets come before deletes: make before break. Messages for those on branches
        come last.
        """
        sets: list[Route] = []
        deletes: list[Network] = []
        for network, route in self._pending.items():
            advertised = self._shards.get(network)
            if route is not None and route != advertised:
                sets.append(route)
            elif route is None and advertised is not None:
                deletes.append(network)
        self._pending.clear()
        portions = list(_portions(sets, deletes, largest))
        if not portions and (self._branches or self._foreign > self.revision):
            portions = [((), ())]
        # All are above other writers' revisions: at one of those no subscriber may take our next message for theirs.
        last = max(self._next + len(portions) - 1, self._reserved or now)
        self._reserved = 0
        messages = []
        touched: set[Network] = set()
        for left, (portion_sets, portion_deletes) in zip(
            range(len(portions) - 1, -1, -1), portions, strict=True
        ):
            previous, self.revision = self.revision, last - left
            messages.append(Changes(self.revision, previous, portion_sets, portion_deletes))
            for route in portion_sets:
                self._shards.put(route)
            for gone in portion_deletes:
                self._shards.remove(gone)
            concerned = {Network(route.network) for route in portion_sets} | {*map(Network, portion_deletes)}
            self._recent.append((previous, concerned))
            touched |= concerned
        branches, self._branches = self._branches, {}
        return messages + [
            message
            for revision, differing in branches.items()
            if (message := self._rejoining(revision, differing | touched, largest)) is not None
        ]

    def replay(self, changes: Mapping[int, Changes]) -> None:
        """Changes advertised on top of the retained table, by the revision each continues. Before any ``put``."""
        at = max(self._packed or 0, 0)
        while (change := changes.get(at)) is not None and at < change.revision <= REVISION_MAX:
            for route in change.set:
                self._shards.put(route)
            for gone in change.delete:
                if self._shards.get(Network(gone)) is not None:
                    self._shards.remove(Network(gone))
            at = change.revision
        self.revision = max(self.revision, at)

    def foreign_change(self, change: Changes) -> None:
        """Another writer published this change: subscribers that applied it are on a branch."""
        if not 0 < change.revision <= REVISION_MAX:
            return
        differing = {Network(route.network) for route in change.set} | {*map(Network, change.delete)}
        known = change.previous == self.revision
        for previous, concerned in reversed(self._recent):
            if known:
                break
            differing |= concerned
            known = previous == change.previous
        if known and len(self._branches) < _BRANCHES:
            self._branches[change.revision] = differing
        if known or change.revision > self.revision:
            self._foreign = max(self._foreign, change.revision)

    def overwritten(self, number: int | None, revision: int, *, cleared: bool) -> None:
        """Another writer wrote this shard, or the head (None), or cleared it."""
        self._disturbed = True
        if number is None:
            self._packed = None if cleared else _FOREIGN
        else:
            (self._retained.discard if cleared else self._retained.add)(number)
            if number < len(self._shards):
                self._shards.dirty.add(number)
        if revision <= REVISION_MAX:
            self._foreign = max(self._foreign, revision)

    def pack(self, largest: int = MAX_PAYLOAD) -> Pack | None:
        """The retained messages that the broker lacks of the advertised table; None: it has all. ``confirmed``
        follows. ``largest``: bytes of a payload that the broker takes.
        """
        if self.packed:
            return None
        self._disturbed = False
        self._shards.limit(largest)
        self._shards.tidy()
        of = len(self._shards)
        wanted = self._shards.dirty | {number for number in range(of) if number not in self._retained}
        shards = {number: Shard(self.revision, of, self._shards.shard(number)) for number in sorted(wanted)}
        self._shards.dirty = set()
        head = self._head() if self.count else None
        return Pack(
            self.revision,
            shards if head else {},
            head,
            frozenset(self._retained - set(range(of if head else 0))),
        )

    def confirmed(self, pack: Pack) -> None:
        """Everything of that pack was published. What other writers published meanwhile may have come after it."""
        self._retained |= pack.shards.keys()
        if self._disturbed:
            self._retained |= pack.clear
            self._packed = _FOREIGN
            return
        self._retained -= pack.clear
        self._packed = pack.revision if pack.head else None
        if pack.head is None and not self.count:
            self._shards = Shards()
            self.floor, self.revision, self._foreign = self._next - 1, 0, 0

    def compare(self, retained: RetainedTable | None) -> None:
        """Compares with a broker that came back: shards that differ from the advertised table are packed again."""
        retained = retained or RetainedTable()
        self._disturbed = True
        self._retained = set(retained.shards)
        of = len(self._shards)
        for number in range(of):
            shard = retained.shards.get(number)
            if shard is None or shard.of != of or set(shard.routes) != set(self._shards.shard(number)):
                self._shards.dirty.add(number)
        if retained.head is not None:
            self._packed = retained.head.revision if retained.head != self._head() else self.revision
        else:
            self._packed = _FOREIGN if retained.refused else None
        if self.revision < retained.revision <= REVISION_MAX:  # another writer's: ours must be later
            self._foreign = max(self._foreign, retained.revision)
            if retained.head is not None and retained.whole:
                theirs, ours = retained.routes(), self.routes()
                networks = theirs.keys() | ours.keys()
                differing = {network for network in networks if theirs.get(network) != ours.get(network)}
                self._branches[retained.head.revision] = differing

    @property
    def _next(self) -> int:
        """The lowest revision that no writer has used."""
        return max(self.revision, self._foreign, self.floor) + 1

    def _head(self) -> Head:
        return Head(self.revision, self.count, digest_of(self._shards.total), len(self._shards))

    def _rejoining(self, revision: int, differing: Iterable[Network], largest: int) -> Changes | None:
        """Leads from a branch to the table as advertised; None if too large: its subscribers read the table then."""
        routes = {network: self._shards.get(network) for network in sorted(differing)}
        sets = tuple(route for route in routes.values() if route is not None)
        deletes = tuple(network for network, route in routes.items() if route is None)
        portions = list(_portions(sets, deletes, largest)) or [((), ())]
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
    sets: Iterable[Route], deletes: Iterable[Network], largest: int
) -> Iterator[tuple[tuple[Route, ...], tuple[Network, ...]]]:
    """Cuts a change into parts whose messages fit into a payload."""
    portion_sets: list[Route] = []
    portion_deletes: list[Network] = []
    room = largest - _ENVELOPE
    items: list[Route | Network] = [*sets, *deletes]
    for item in items:
        size = len(_encoder.encode(item)) + 1
        if size > room:
            yield tuple(portion_sets), tuple(portion_deletes)
            portion_sets, portion_deletes, room = [], [], largest - _ENVELOPE
        room -= size
        if isinstance(item, Route):
            portion_sets.append(item)
        else:
            portion_deletes.append(item)
    if portion_sets or portion_deletes:
        yield tuple(portion_sets), tuple(portion_deletes)


_encoder: Final = msgspec.json.Encoder()

"""The route table of one VPC as MQTT has it: a log of changes and a packed, retained snapshot.

A pure state machine. Messages may be lost, repeated and reordered; ``routes`` is always a table that the router
published (that of ``revision``), because a change is applied only to the revision it was computed from, and a snapshot
only whole and with the digest in its head. A contradiction that lasts ``PATIENCE`` seconds makes ``overdue`` true: then
``reread`` names what has to be requested. That is only what is missing: the head, or some shards, or everything.

A reading may take longer than that. Each shard that it lacked and each head that confirms the table extends it, so that
a slow broker is not asked for more meanwhile. Shards that did not change may have an older revision than their head:
their digests have to add up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from galactic import names
from galactic.errors import Rejected
from galactic.linux.objects import PackedNetwork
from galactic.messages import Changes, Head, Route, Shard, digest_of, weight
from galactic.node.state.remote import Entry, entry, pack, weight_of

log = structlog.get_logger(__name__)

PATIENCE: Final = 3.0
LONGEST_PATIENCE: Final = 60.0
IDLE_PATIENCE: Final = 3600.0
"""The longest pause while each reading brings the same messages: a router that mends the table publishes."""
FORGOTTEN: Final = 2
LONGEST_LOG: Final = 4096
"""Changes kept until the snapshot arrives that they continue."""
PORTION: Final = 100
"""Shards that are requested by name at once: Mosquitto queues 1,000 messages for a client by default."""
MENDING_SECONDS: Final = 15.0
"""In which a table mostly comes, or comes out of doubt, by itself. After them another source serves better."""
SPREAD_SECONDS: Final = 2.0
"""Clients that a broker's restart has made read begin within this time."""


@dataclass(slots=True)
class _Packed:
    """Valid routes, packed, and the weights of invalid ones, by the network's text."""

    revision: int = 0
    routes: dict[PackedNetwork, Entry] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    total: int = 0  # of the weights of all

    def __len__(self) -> int:
        return len(self.routes) + len(self.refused)


class TableReplica:
    """``routes`` of one VPC, of ``revision``; None before the first whole snapshot. ``cluster`` is the node's own.

    The mapping is changed in place by changes, and replaced by a snapshot; see ``drain_before``. ``jitter``: a number
    between 0 and 1, another one each time, by which clients spread their readings.
    """

    def __init__(self, vpc: int, cluster: str, now: float, jitter: Callable[[], float] = lambda: 0.0) -> None:
        self._vpc, self._cluster, self._jitter = vpc, cluster, jitter
        self.revision: int | None = None
        self._packed = _Packed()
        self._head: Head | None = None
        self._shards: dict[int, _Packed] = {}
        self._log: dict[int, Changes] = {}  # by the revision they continue
        self._confirmable: dict[int, tuple[int, int]] = {}  # by revision from the head's on: total and count
        self._patience = PATIENCE
        self._deadline: float | None = None  # of a contradiction
        self._extend(now)
        self._agreed = now  # the last time that it was consistent, or the beginning
        self._requested: set[int] = set()  # shards that were requested by name and did not arrive yet
        self._resumed = False  # a session began, and no head has arrived in it yet
        self.reading = True
        """Whether shards are needed: the caller subscribes to them only for so long."""
        self._rereads = 0  # in a row
        self._read: tuple[Head | None, dict[int, tuple[int, int]]] = None, {}  # of the last reading
        self._stray = False  # a head arrived that is older than the present one
        self._wiped = False  # the head was cleared when the table had become empty
        self._cleared = False  # the head was cleared, and there are routes
        self._before: dict[PackedNetwork, Entry | None] | None = None

    @property
    def routes(self) -> Mapping[PackedNetwork, Entry]:
        return self._packed.routes

    def drain_before(self) -> Mapping[PackedNetwork, Entry | None] | None:
        """The entries before, of all networks that changed in ``routes`` since the last call; None: another mapping."""
        before, self._before = self._before, {}
        return before

    @property
    def settled(self) -> bool:
        """Whether there is a whole table and everything that has arrived agrees with it."""
        return self.complete and self._deadline is None

    @property
    def consistent(self) -> bool:
        """Whether there is a whole table that nothing contradicts: the head's, or what changes have made of it since.

        While a VPC changes all the time its head is always behind, and the table hardly ever settled.
        """
        if self.settled:
            return True
        head = self._head
        return self._rereads == 0 and not self._contradicted() and head is not None and self._passed(head)

    @property
    def complete(self) -> bool:
        """Whether ``routes`` is a whole table."""
        return self.revision is not None

    def mending(self, now: float) -> bool:
        """Whether it is not consistent, and has not been so for long."""
        return not self.consistent and now < self._agreed + MENDING_SECONDS

    def overdue(self, now: float) -> bool:
        """Whether a contradiction has lasted so long that the retained table must be read again."""
        return self._deadline is not None and now >= self._deadline

    def reread(self, now: float) -> tuple[int, ...] | None:
        """The shards that the caller has to request besides the head; None: all of them, which all arrive again.

        Each attempt waits twice as long.
        """
        read = self._head, {number: (shard.revision, shard.total) for number, shard in self._shards.items()}
        # Not before the table was read often enough to adopt an older one.
        same = self._rereads > FORGOTTEN and read == self._read
        self._read = read
        self._rereads += 1
        self._patience = min(self._patience * 2, IDLE_PATIENCE if same else LONGEST_PATIENCE)
        self._extend(now)
        if self._head is None and not self._wiped:  # no table is adopted without a head
            return ()
        missing = self._missing() if self.reading and self._shards and not self._stray else []
        if not missing:
            self._forget()
            self.reading = True
            return None
        self._requested = {*missing[:PORTION]}
        return tuple(missing[:PORTION])

    def restart(self, now: float) -> None:
        """A new session began: the head follows, and the shards while ``reading``. Changes may have been missed."""
        self._agree(now)
        self._read = (
            self._head,
            {number: (shard.revision, shard.total) for number, shard in self._shards.items()},
        )
        self._forget()
        self._log.clear()
        self._cleared = False
        self._patience, self._rereads, self._resumed = PATIENCE, 0, True
        self._extend(now)

    def end_reading(self) -> None:
        """The table is whole: the caller gets no more shards."""
        self.reading = False
        self._shards.clear()
        self._requested.clear()

    def _forget(self) -> None:
        self._shards.clear()
        self._requested.clear()
        self._head, self._stray, self._wiped = None, False, False

    def _missing(self) -> list[int]:
        """The shards that the head names and that have not arrived."""
        return [
            number for number in range(self._head.shards if self._head else 0) if number not in self._shards
        ]

    def _agree(self, now: float) -> None:
        """A message comes that may bring doubt."""
        if self.consistent:
            self._agreed = now

    def _extend(self, now: float) -> None:
        """There is progress, or another attempt: the time for what is missing begins again."""
        deadline = now + self._patience * (1 + self._jitter() / 2)
        self._deadline = max(self._deadline or 0.0, deadline)

    def receive_head(self, head: Head | None, now: float) -> bool:
        """Whether ``routes`` changed. None: the head was cleared, as that of an empty table is."""
        self._agree(now)
        if head is None:
            # With routes here, another program cleared it, or the change that took the last of them was lost or is
            # late: no route is withdrawn for it, but the table is in doubt until the router publishes again.
            self._cleared = len(self._packed) > 0
            if not self._cleared:
                self._head, self._stray, self._wiped = None, False, True
            return self._settle(now)
        self._wiped = self._cleared = False
        if head != self._read[0]:
            self._stir(now)
        self._stray = bool(self._head and head.revision < self._head.revision)
        if self._head is None and self._deadline is not None:
            self._extend(now)
        if not self._stray:
            self._head = head
        if self._passed(head):
            self._confirm(head, now)
        changed, resumed = self._settle(now), self._resumed
        self._resumed = False
        if resumed and not self.reading and self._deadline is not None:
            self._deadline = now + self._jitter() * SPREAD_SECONDS
        return changed

    def _confirm(self, head: Head, now: float) -> None:
        """The head is that of a table which changes have led through."""
        left_behind = [revision for revision in self._confirmable if revision < head.revision]
        if left_behind:  # it follows the changes
            self._patience, self._rereads = PATIENCE, 0
        if self._deadline is not None:
            self._extend(now)
        for revision in left_behind:
            del self._confirmable[revision]

    def receive_shard(self, number: int, shard: Shard, now: float) -> bool:
        """Whether ``routes`` changed."""
        self._agree(now)
        known = self._shards.get(number)
        if known and shard.revision < known.revision:
            return False
        if known is None and self._deadline is not None:
            self._extend(now)
        packed = self._shards[number] = _Packed(shard.revision)
        for route in shard.routes:
            self._put(packed, route)
        changed = self._settle(now)
        if number in self._requested:
            self._requested.discard(number)
            if not self._requested and self._deadline is not None and self._missing():
                self._deadline = now  # for the next portion
        return changed

    def receive_changes(self, changes: Changes, now: float) -> bool:
        """Whether ``routes`` changed."""
        if self.revision is not None and changes.revision <= self.revision:
            return False
        self._agree(now)
        self._stir(now)
        known = self._log.get(changes.previous)
        if known is None or changes.revision > known.revision:
            self._log[changes.previous] = changes
        while len(self._log) > LONGEST_LOG:
            del self._log[min(self._log)]
        return self._settle(now)

    def _stir(self, now: float) -> None:
        """A router publishes again: reading is worth a new try."""
        if self._patience > LONGEST_PATIENCE:
            self._patience, self._deadline = PATIENCE, None
            self._extend(now)

    def _settle(self, now: float) -> bool:
        before = self.revision
        taken = self._adopt_snapshot()
        self._apply_log()
        if self._cleared and not len(self._packed):
            self._head, self._stray, self._wiped, self._cleared = None, False, True, False
        if not self._doubtful():
            self._deadline, self._patience, self._rereads = None, PATIENCE, 0
            # Newer ones wait for their head; the others are not needed any more.
            self._shards = {
                number: shard
                for number, shard in self._shards.items()
                if self.revision is not None and shard.revision > self.revision
            }
        elif self._deadline is None:
            self._extend(now)
        return taken or self.revision != before

    def _doubtful(self) -> bool:
        head = self._head
        if self._contradicted():
            return True
        if head is None:
            return not self._wiped or len(self._packed) > 0
        if head.revision != self.revision:  # behind, it follows the changes within a second or so
            return True
        return (head.digest, head.count) != (digest_of(self._packed.total), len(self._packed))

    def _contradicted(self) -> bool:
        """Whether there is no whole table, or messages that do not fit it."""
        return bool(self.revision is None or self._log or self._stray or self._cleared)

    def _passed(self, head: Head) -> bool:
        """Whether changes have led through the head's table."""
        passed = self._confirmable.get(head.revision)
        return passed is not None and (digest_of(passed[0]), passed[1]) == (head.digest, head.count)

    def _adopt_snapshot(self) -> bool:
        head = self._head
        if head is None or any(number not in self._shards for number in range(head.shards)):
            return False
        if self.revision is not None:
            same = head.revision == self.revision and head.digest == digest_of(self._packed.total)
            # Older than ours, and still so when read for the second time: the router has lost its revisions.
            older = head.revision < self.revision and self._rereads < FORGOTTEN
            if same or older:
                return False
        parts = [self._shards[number] for number in range(head.shards)]
        if digest_of(sum(part.total for part in parts)) != head.digest:
            return False
        whole = _Packed(head.revision, total=sum(part.total for part in parts))
        for part in parts:
            whole.routes |= part.routes
            whole.refused |= part.refused
        if len(whole) != head.count:
            return False
        self._packed, self.revision, self._before = whole, head.revision, None
        self._confirmable = {head.revision: (whole.total, len(whole))}
        return True

    def _apply_log(self) -> None:
        if self.revision is None:
            return
        # A change that continues revision 0 begins a table: for an empty replica, at any revision.
        if not len(self._packed) and self._log.get(0) and self._log[0].revision > self.revision:
            self.revision = 0
        while changes := self._log.pop(self.revision, None):
            for network in changes.delete:
                self._drop(network)
            for route in changes.set:
                self._drop(route.network)
                if packed := self._put(self._packed, route):
                    self._note(packed, None)
            self.revision = changes.revision
            self._confirmable[self.revision] = self._packed.total, len(self._packed)
            if len(self._confirmable) > LONGEST_LOG:
                del self._confirmable[next(iter(self._confirmable))]
        for previous in [
            previous for previous, changes in self._log.items() if changes.revision <= self.revision
        ]:
            del self._log[previous]

    def _put(self, into: _Packed, route: Route) -> PackedNetwork | None:
        """The route's network; None where the route is not valid."""
        try:
            network, packed = entry(self._vpc, self._cluster, route)
        except Rejected as error:
            log.warning(
                "route ignored", vpc=names.vpc_hex(self._vpc), network=route.network, error=str(error)
            )
            into.refused[route.network] = weight(route)
            into.total += into.refused[route.network]
            return None
        into.routes[network] = packed
        into.total += weight_of(packed)
        return network

    def _drop(self, text: str) -> None:
        if text in self._packed.refused:
            self._packed.total -= self._packed.refused.pop(text)
            return
        try:
            network = pack(text)
        except Rejected:
            return
        if old := self._packed.routes.pop(network, None):
            self._packed.total -= weight_of(old)
            self._note(network, old)

    def _note(self, network: PackedNetwork, known: Entry | None) -> None:
        if self._before is not None:
            self._before.setdefault(network, known)

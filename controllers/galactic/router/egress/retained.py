"""The router's own topics as the broker retains them and replays them after a subscription."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from galactic.errors import Rejected
from galactic.messages import Changes, Head, Leader, Route, Shard, decode, digest_of, weight
from galactic.names import parse_vpc
from galactic.router.egress.revisions import plausible
from galactic.router.rib.networks import Network

SHARDS_MAX: Final = 1 << 16
"""Shards of one table: 16 million routes."""
TableMessage = TypeVar("TableMessage", Changes, Head, Shard)


def decoded(kind: type[TableMessage], payload: bytes) -> TableMessage:
    """A message about a table. Raises Rejected, also (RevisionInvalid) one of a revision that no router can be at."""
    message = decode(kind, payload)
    if not plausible(message.revision):
        raise Rejected(f"revision {message.revision} is ahead of every clock", reason="RevisionInvalid")
    return message


@dataclass(slots=True)
class RetainedTable:
    """One VPC. A shard that cannot be decoded is there as None."""

    head: Head | None = None
    refused: bool = False  # there is a head that cannot be decoded
    shards: dict[int, Shard | None] = field(default_factory=dict)

    @property
    def of(self) -> int:
        """How many shards there should be."""
        return self.head.shards if self.head else max(self.shards, default=-1) + 1

    @property
    def revision(self) -> int:
        """The latest revision of its messages."""
        revisions = [shard.revision for shard in self.shards.values() if shard]
        return max(revisions + ([self.head.revision] if self.head else []), default=0)

    def routes(self) -> dict[Network, Route]:
        """All routes; of two to one network the one in the later shard."""
        routes: dict[Network, Route] = {}
        shards = [
            (shard.revision, number) for number, shard in self.shards.items() if shard and number < self.of
        ]
        for _, number in sorted(shards):
            shard = self.shards[number]
            routes.update({Network(route.network): route for route in shard.routes} if shard else {})
        return routes

    @property
    def whole(self) -> bool:
        """Whether its routes match the head's count and digest."""
        routes = self.routes()
        return (
            self.head is not None
            and self.head.count == len(routes)
            and self.head.digest == digest_of(sum(map(weight, routes.values())))
        )


@dataclass(slots=True)
class Retained:
    """Everything under ``vpcs`` and ``router/leader``. ``stray`` are retained topics that no table has."""

    tables: dict[int, RetainedTable] = field(default_factory=dict)
    leader: Leader | None = None
    stray: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, parts: tuple[str, ...], payload: bytes) -> None:
        """One message; ``parts`` are its topic's levels below the base. Raises Rejected."""
        match parts:
            case ("router", "leader"):
                self._lead(payload)
            case ("vpcs", vpc, "head"):
                self._head(self._table(parts, vpc), payload)
            case ("vpcs", vpc, "table", number):
                self._shard(parts, vpc, number, payload)
            case _:
                raise Rejected("/".join(parts), reason="UnknownTopic")

    def missing(self) -> Iterator[tuple[int, int | None]]:
        """(VPC, shard) that must exist and were not delivered, as by a full queue. Shard None is the head."""
        for vpc, table in self.tables.items():
            if table.head is None and table.shards and not table.refused:
                yield vpc, None
            for number in range(table.of):
                if number not in table.shards:
                    yield vpc, number

    def _table(self, parts: tuple[str, ...], vpc: str) -> RetainedTable:
        try:
            return self.tables.setdefault(parse_vpc(vpc), RetainedTable())
        except Rejected:
            self.stray.add(parts)
            raise

    def _lead(self, payload: bytes) -> None:
        self.leader = None
        leader = decode(Leader, payload) if payload else None
        if leader is not None and not plausible(leader.term):
            raise Rejected(f"term {leader.term} is ahead of every clock", reason="TermInvalid")
        self.leader = leader

    @staticmethod
    def _head(table: RetainedTable, payload: bytes) -> None:
        table.head, table.refused = None, bool(payload)
        head = decoded(Head, payload) if payload else None
        if head is not None and not 0 <= head.shards <= SHARDS_MAX:
            raise Rejected(f"a head of {head.shards} shards", reason="Undecodable")
        table.head, table.refused = head, False

    def _shard(self, parts: tuple[str, ...], vpc: str, level: str, payload: bytes) -> None:
        table = self._table(parts, vpc)
        number = shard_number(level)
        if number is None:
            self.stray.add(parts)
            raise Rejected(f"{level!r} is not a shard", reason="UnknownTopic")
        if not payload:
            table.shards.pop(number, None)
            return
        table.shards[number] = None
        table.shards[number] = decoded(Shard, payload)


def shard_number(level: str) -> int | None:
    """The number of the shard that a topic ends with; None: it is not a shard's."""
    good = len(level) <= 5 and level.isascii() and level.isdigit() and level == str(int(level))
    return int(level) if good and int(level) < SHARDS_MAX else None

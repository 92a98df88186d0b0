"""Traffic of attachments, from nodes' messages to the database, while this router leads.

``arrived`` keeps the latest message of each node, shard and day, and returns; ``run`` writes them. Sums replace each
other, so that nothing else needs keeping while the database is away. Nothing on the way of a route waits for it.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Rejected
from galactic.messages import MIN_PAYLOAD, USAGE_SHARDS, NodeUsage, UsageEntry, decode
from galactic.names import parse_function, parse_vpc
from galactic.router.database.history_writer import HistorySettings
from galactic.router.database.metrics import UsageMetrics
from galactic.router.database.migration import migrate
from galactic.router.database.retention import delete_old_usage
from galactic.router.database.session import Session, session
from galactic.router.database.transactions import Deposed, Leader, Outdated
from galactic.router.database.usage_transactions import LARGEST, Sample, add
from galactic.router.egress.retained import shard_number
from galactic.router.ingress.decoder import node_ref
from galactic.router.rib.path import NodeRef
from galactic.router.rib.vpc_tables import Commit

log = structlog.get_logger(__name__)
WRITE_SECONDS: Final = 5.0
"""Between two rounds."""
DAYS: Final = 3
"""Days of which messages are kept while the database is away; of a longer time the first days go to a later one."""
LIMIT: Final = 20_000
"""Messages kept, at most."""
RETENTION_SECONDS: Final = 3600.0
Place = tuple[NodeRef, int, date]
"""A node, its shard and the day (UTC) on which the router received the message."""


class UsageMessages:
    """The messages that are not written yet, by node, shard and day. No I/O."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._waiting: dict[Place, bytes] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, place: Place, payload: bytes) -> None:
        """The latest one of a place. Raises Rejected where there is room for no more."""
        node, shard, day = place
        if place not in self._waiting:
            if len(self._waiting) >= self._limit:
                raise Rejected(f"{self._limit} messages wait for the database", reason="RateLimited")
            days = sorted(d for other, number, d in self._waiting if (other, number) == (node, shard))
            if len(days) >= DAYS and day > days[0]:
                del self._waiting[node, shard, days[0]]
        self._waiting[place] = payload

    def first(self) -> tuple[Place, bytes] | None:
        """The earliest day's first: sums of a later day have those of an earlier one in them."""
        if not self._waiting:
            return None
        place = min(self._waiting, key=lambda place: place[2])
        return place, self._waiting[place]

    def done(self, place: Place, payload: bytes) -> None:
        """The message is written, or of no use. One that came meanwhile stays."""
        if self._waiting.get(place) is payload:
            del self._waiting[place]


class UsageWriter:
    """One router's. ``vpc_name`` of (cluster, attachment, identifier): the VPC's namespace/name; empty: unknown."""

    def __init__(
        self,
        settings: HistorySettings,
        metrics: UsageMetrics,
        vpc_name: Callable[[str, str, int], str],
        is_known: Callable[[NodeRef], bool],
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._vpc_name, self._is_known = vpc_name, is_known
        self._messages = UsageMessages()
        self._backoff = Backoff(*settings.backoff)
        self._leader: Leader | None = None
        self._retention_at = 0.0
        metrics.waiting(lambda: len(self._messages))

    # -- calls of the router -----------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """The router leads from now on, in that term."""
        self._leader = Leader(term, self._settings.replica)

    def resign(self) -> None:
        """The router leads no more. Its messages stay: a later leader has written what they have, and adds nothing."""
        self._leader = None

    def committed(self, commit: Commit) -> None:
        """Routes changed, which is of no concern here."""

    def arrived(self, cluster: str, node: str, level: str, payload: bytes) -> None:
        """A message on ``nodes/<cluster>/<node>/usage/<level>``. Raises Rejected."""
        ref, shard = node_ref(cluster, node), shard_number(level)
        if shard is None or shard >= USAGE_SHARDS:
            raise Rejected(f"{level!r} is no shard of usage", reason="UnknownTopic")
        if len(payload) > MIN_PAYLOAD:
            raise Rejected(f"{len(payload)} bytes, {MIN_PAYLOAD} at the most", reason="Oversized")
        if payload and self._is_known(ref):
            self._messages.put((ref, shard, datetime.now(UTC).date()), payload)

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            leader = self._leader
            if leader is None or not (len(self._messages) or time.monotonic() >= self._retention_at):
                continue
            try:
                async with session(self._settings.url, self._settings.transaction) as database:
                    await migrate(database)
                    await self._write(database, leader)
                    await self._retire(database)
                    self._backoff.succeeded()
            except (GalacticError, Outdated) as error:
                self._metrics.failures.labels(type(error).__name__).inc()
                log.warning("usage not written, trying again", error=str(error))
                await asyncio.sleep(self._backoff.pause())

    async def _write(self, database: Session, leader: Leader) -> None:
        while self._leader == leader and (waiting := self._messages.first()) is not None:
            place, payload = waiting
            node, _, day = place
            try:
                samples = self._samples(node, payload)
            except Rejected as error:
                self._metrics.rejected.labels(error.reason).inc()
                log.warning("usage message dropped", cluster=node.cluster, node=node.node, error=str(error))
            else:
                try:
                    accepted = await database.do(add(database.connection, leader, day, samples))
                except Deposed:
                    return  # this router is about to learn it, and the leader has the same messages
                self._metrics.samples.inc(accepted)
                if len(samples) > accepted:
                    self._metrics.rejected.labels("NotRecorded").inc(len(samples) - accepted)
            self._messages.done(place, payload)

    def _samples(self, node: NodeRef, payload: bytes) -> list[Sample]:
        """Raises Rejected."""
        usage = decode(NodeUsage, payload)
        if not usage.ledger or len(usage.ledger) > 64 or not usage.ledger.isalnum():
            raise Rejected("the ledger is no identifier", reason="Undecodable")
        return [self._sample(node, usage.ledger, entry) for entry in usage.entries]

    def _sample(self, node: NodeRef, ledger: str, entry: UsageEntry) -> Sample:
        counters = (
            entry.seconds,
            entry.sent_bytes,
            entry.sent_packets,
            entry.received_bytes,
            entry.received_packets,
        )
        if not all(0 <= value <= LARGEST for value in (*counters, entry.epoch)):
            raise Rejected(f"a number of {entry.attachment} is not between 0 and 2^62", reason="Undecodable")
        vpc, function = parse_vpc(entry.vpc), parse_function(entry.function)
        name = self._vpc_name(node.cluster, entry.attachment, vpc)
        return Sample(node.cluster, node.node, ledger, vpc, function, entry.epoch, name, *counters)

    async def _retire(self, database: Session) -> None:
        if time.monotonic() < self._retention_at:
            return
        await database.do(delete_old_usage(database.connection, self._settings.usage_days))
        self._retention_at = time.monotonic() + RETENTION_SECONDS

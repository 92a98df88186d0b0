"""Publishes the traffic of this node's attachments, from which a router with a database makes the usage by month.

Messages have sums and are not retained: the next one has all that a lost one had. Nothing waits for them. An attachment
that ended is in every message for AGAIN_SECONDS, then in every tenth, for a day.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
import structlog

from galactic import names
from galactic.bus import Bus
from galactic.errors import GalacticError
from galactic.messages import MIN_PAYLOAD, USAGE_SHARDS, NodeUsage, UsageEntry, encode
from galactic.node.mqtt.session import NodeTopics
from galactic.node.state.usage import Instance, UsageCounters, UsageRecord

log = structlog.get_logger(__name__)
AGAIN_SECONDS: Final = 600.0
TENTH: Final = 10
SHARD_BYTES: Final = MIN_PAYLOAD * 2 // 3
LAST_SECONDS: Final = 1.0
"""For the last message, when the node controller ends."""


class UsagePublisher:
    """``interval``: seconds between two messages; ``now``: seconds since the host started."""

    def __init__(
        self, bus: Bus, own: NodeTopics, usage: UsageCounters, interval: float, now: Callable[[], float]
    ) -> None:
        self._bus, self._own, self._ledger, self._interval, self._now = bus, own, usage, interval, now
        self._round = 0
        self.problem: str | None = None

    async def run(self) -> None:
        """For ever; publishes once more when cancelled. With the interval 0 nothing is published."""
        if not self._interval:
            return
        try:
            while True:
                # The nodes' messages are spread, also after a start of all of them at once.
                await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))
                await self.publish()
        finally:
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self.publish()
            except TimeoutError:
                log.info("last usage not published")

    async def publish(self) -> None:
        """One message, or several where one cannot have all."""
        if not self._bus.connected:
            return
        self._round += 1
        entries = (
            entry(instance, record)
            for instance, record in self._ledger.records.items()
            if record.name and self._is_due(record)
        )
        problem = None
        for number, message in enumerate(divided(self._ledger.id, entries)):
            try:
                await self._bus.publish(self._own.usage(number), message)
            except GalacticError as error:
                problem = str(error)
                break
        if problem and problem != self.problem:
            log.warning("usage not published", error=problem)
        self.problem = problem

    def _is_due(self, record: UsageRecord) -> bool:
        recent = record.ended is None or self._now() - record.ended < AGAIN_SECONDS
        return recent or self._round % TENTH == 1


def entry(instance: Instance, record: UsageRecord) -> UsageEntry:
    counters = record.counters
    return UsageEntry(
        names.vpc_hex(instance.vpc),
        names.function_hex(instance.function),
        record.name,
        instance.epoch,
        int(record.seconds),
        counters.sent_bytes,
        counters.sent_packets,
        counters.received_bytes,
        counters.received_packets,
    )


def divided(usage: str, entries: Iterable[UsageEntry]) -> Iterator[bytes]:
    """The payloads of as many messages as are needed, USAGE_SHARDS at most: what has no place waits for a later one."""
    part: list[UsageEntry] = []
    size = count = 0
    for one in entries:
        more = len(msgspec.json.encode(one)) + 1
        if part and size + more > SHARD_BYTES:
            yield encode(NodeUsage(usage, tuple(part)))
            part, size, count = [], 0, count + 1
            if count == USAGE_SHARDS:
                return
        part.append(one)
        size += more
    if part:
        yield encode(NodeUsage(usage, tuple(part)))

"""Follows the route tables of the VPCs hosted here: subscribes, reads, and reads again what does not add up."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic import names
from galactic.bus import Bus, Delivery
from galactic.errors import Rejected
from galactic.messages import Changes, Head, Shard, Topics, decode
from galactic.node.metrics import Metrics
from galactic.node.mqtt.replica import Table
from galactic.node.state.remote import Source
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = 1.0


class Subscriptions:
    """The tables of the hosted VPCs. Everything here is called from one task."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        store: Store,
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._topics, self._store, self._metrics, self._now = bus, topics, store, metrics, now
        self._tables: dict[int, Table] = {}

    def choose(self) -> None:
        """Follows exactly the VPCs that are hosted by now. One whose pod gave way to another at once, so that we
        did not see it go, is told again.
        """
        hosted = self._store.attachments.hosted
        for vpc in self._tables.keys() - hosted:
            del self._tables[vpc]
            self._bus.unsubscribe(*self._filters(vpc))
        for vpc, table in self._tables.items():
            if table.revision is not None and self._store.tables.view(vpc, Source.MQTT) is None:
                self._store.set_table(vpc, Source.MQTT, table.revision, table.routes)
        for vpc in hosted - self._tables.keys():
            self._tables[vpc] = Table(vpc, self._store.cluster, self._now())
            self._bus.subscribe(*self._filters(vpc))

    @property
    def revisions(self) -> dict[int, int]:
        """The revision of each table that is followed; 0 before there is one."""
        return {vpc: table.revision or 0 for vpc, table in self._tables.items()}

    def settled(self, vpc: int) -> bool:
        """Whether the VPC's table is there and nothing about it is in doubt."""
        table = self._tables.get(vpc)
        return table is not None and table.settled

    def restart(self) -> None:
        """A new session: everything retained arrives again."""
        for table in self._tables.values():
            table.restart(self._now())

    def check(self) -> None:
        """Reads again what has been incomplete or contradictory for too long."""
        now = self._now()
        for vpc, table in self._tables.items():
            if not table.overdue(now) or not self._bus.connected:
                continue
            level = log.warning if table.complete else log.info
            level("reading the route table again", vpc=names.vpc_hex(vpc), revision=table.revision)
            self._metrics.rereads.inc()
            table.reread(now)
            head, shards, _ = self._filters(vpc)
            self._bus.unsubscribe(head, shards)
            self._bus.subscribe(head, shards)

    def take(self, parts: tuple[str, ...], delivery: Delivery) -> None:
        """One message below ``vpcs/``. Raises Rejected on one that is not understood."""
        vpc = names.parse_vpc(parts[1])
        table = self._tables.get(vpc)
        if table is None or not (delivery.payload or parts[2:] == ("head",)):
            return
        now = self._now()
        match parts[2:]:
            case ("head",):
                head = decode(Head, delivery.payload) if delivery.payload else None
                changed = table.take_head(head, now)
            case ("changes",):
                changed = table.take_changes(decode(Changes, delivery.payload), now)
            case ("table", number) if number.isascii() and number.isdigit():
                changed = table.take_shard(int(number), decode(Shard, delivery.payload), now)
            case _:
                raise Rejected(f"unknown topic {delivery.topic}", reason="UnknownTopic")
        if changed and table.revision is not None:
            self._store.set_table(vpc, Source.MQTT, table.revision, table.routes, table.take_before())

    def _filters(self, vpc: int) -> tuple[str, str, str]:
        text = names.vpc_hex(vpc)
        return self._topics.head(text), self._topics.table(text, "+"), self._topics.changes(text)

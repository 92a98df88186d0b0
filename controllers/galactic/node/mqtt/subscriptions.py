"""The route tables of the VPCs hosted here: subscribes to them, and reads again what does not add up.

Heads and changes are subscribed to all the time, shards only while a table is read. A node that follows the changes
needs no shards, and after a restart of the broker a head that matches the table is all that it reads.
"""

import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic import names
from galactic.bus import Bus, Delivery
from galactic.errors import Rejected
from galactic.messages import Changes, Head, Shard, Topics, decode
from galactic.node.metrics import Metrics
from galactic.node.mqtt.replica import TableReplica
from galactic.node.state.remote import Source
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = 1.0


class Subscriptions:
    """A table replica for each hosted VPC. Everything here is called from one task."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        store: Store,
        metrics: Metrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._topics, self._store, self._metrics, self._now = bus, topics, store, metrics, now
        self._replicas: dict[int, TableReplica] = {}
        self._requested: dict[int, tuple[str, ...]] = {}  # shards by name, as long as a table is read

    def update(self) -> None:
        """Subscribes to exactly the VPCs that are hosted now. The store gets the table again of one that was not hosted
        for a moment, because its last pod made way for another at once.
        """
        hosted = self._store.attachments.hosted
        for vpc in self._replicas.keys() - hosted:
            del self._replicas[vpc]
            self._bus.unsubscribe(*self._filters(vpc), *self._requested.pop(vpc, ()))
        for vpc, replica in self._replicas.items():
            if replica.revision is not None and self._store.tables.view(vpc, Source.MQTT) is None:
                self._store.set_table(vpc, Source.MQTT, replica.revision, replica.routes)
        for vpc in hosted - self._replicas.keys():
            self._replicas[vpc] = TableReplica(vpc, self._store.cluster, self._now(), random.random)
            self._bus.subscribe(*self._filters(vpc))

    @property
    def revisions(self) -> dict[int, int]:
        """The revision of each replica; 0 before it has a table."""
        return {vpc: replica.revision or 0 for vpc, replica in self._replicas.items()}

    def consistent(self, vpc: int) -> bool:
        """Whether the VPC's replica has a whole table, and nothing contradicts it."""
        replica = self._replicas.get(vpc)
        return replica is not None and replica.consistent

    def mending(self, vpc: int) -> bool:
        """Whether the VPC's replica has been without a whole table, or in doubt, for a short time."""
        replica = self._replicas.get(vpc)
        return replica is not None and replica.mending(self._now())

    def restart(self) -> None:
        """A new session: the broker sends the heads again, and the shards of tables that are being read."""
        for replica in self._replicas.values():
            replica.restart(self._now())

    def check(self) -> None:
        """Reads the tables again that have been incomplete or contradictory for too long."""
        now = self._now()
        for vpc, replica in self._replicas.items():
            if not replica.overdue(now) or not self._bus.connected:
                continue
            level = log.warning if replica.complete else log.info
            self._metrics.rereads.inc()
            missing = replica.reread(now)
            level(
                "reading the route table again",
                vpc=names.vpc_hex(vpc),
                revision=replica.revision,
                shards="all" if missing is None else len(missing),
            )
            head, shards, _ = self._filters(vpc)
            topics = tuple(self._topics.table(names.vpc_hex(vpc), number) for number in missing or ())
            wanted = (head, shards) if missing is None else (head, *topics)
            self._bus.unsubscribe(*wanted, *self._requested.pop(vpc, ()))
            if topics:
                self._requested[vpc] = topics
            self._bus.subscribe(*wanted)

    def receive(self, parts: tuple[str, ...], delivery: Delivery) -> None:
        """One message below ``vpcs/``. Raises Rejected on one that is not valid."""
        vpc = names.parse_vpc(parts[1])
        replica = self._replicas.get(vpc)
        if replica is None or not (delivery.payload or parts[2:] == ("head",)):
            return
        now = self._now()
        match parts[2:]:
            case ("head",):
                head = decode(Head, delivery.payload) if delivery.payload else None
                changed = replica.receive_head(head, now)
            case ("changes",):
                changed = replica.receive_changes(decode(Changes, delivery.payload), now)
            case ("table", number) if number.isascii() and number.isdigit():
                changed = replica.receive_shard(int(number), decode(Shard, delivery.payload), now)
            case _:
                raise Rejected(f"unknown topic {delivery.topic}", reason="UnknownTopic")
        if changed and replica.revision is not None:
            self._store.set_table(vpc, Source.MQTT, replica.revision, replica.routes, replica.drain_before())
        if replica.reading and replica.settled:
            replica.end_reading()
            self._bus.unsubscribe(self._filters(vpc)[1], *self._requested.pop(vpc, ()))

    def _filters(self, vpc: int) -> tuple[str, str, str]:
        text = names.vpc_hex(vpc)
        return self._topics.head(text), self._topics.table(text, "+"), self._topics.changes(text)

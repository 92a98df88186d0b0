"""Everything that arrives over MQTT.

What nodes say goes into the store in turns (``limits``), so that a flood from one does not slow the others.

The router's own retained messages are read once a session: after subscribing it sends itself a message, and since a
broker queues the retained ones when it handles the
subscription, whatever it retains has arrived when that message is back (MQTT 5 §3.3.4, §4.6; Mosquitto does). A
broker whose queue overflowed in the replay has dropped some without a word: those that must exist are then asked for
by name, a few at a time.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from typing import Final

import structlog

from galactic.bus import Bus, Connected, Delivery, Disconnected
from galactic.errors import Rejected, Unreachable
from galactic.messages import MAX_PAYLOAD, NodeEndpoints, NodeStatus, Topics, decode
from galactic.names import vpc_hex
from galactic.router.claims import EPOCH_MAX, Origin
from galactic.router.limits import Turns
from galactic.router.metrics import RouterMetrics
from galactic.router.retained import Retained
from galactic.router.store import Store
from galactic.srv6 import parse_prefix

log = structlog.get_logger(__name__)
ECHO_SECONDS: Final = 5.0
ASKED_AT_ONCE: Final = 100
QUIET_SECONDS: Final = 5.0
QUIET_AT_LAST: Final = 12
"""A flood that lasts is interrupted after so many times QUIET_SECONDS."""
HEAR_SECONDS: Final = 30.0
"""Between two times that all nodes are heard again without a reason."""
TELL_SECONDS: Final = 60.0
"""A node that says too much is named in the log that often."""
TURN: Final = 64
"""Deliveries handled before the rest of the process gets a turn: a flood must not keep commits from happening."""
_NAME: Final = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")


class Inbox:
    """Reads deliveries for ever. ``view`` is told, once a session, of everything that the broker retains."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        replica: str,
        store: Store,
        metrics: RouterMetrics,
        *,
        view: Callable[[Retained], None],
        connection: Callable[[str | None], None],
        prefixes: bool,
        space: IPv6Network | None = None,
        own: Callable[[tuple[str, ...], bytes], None] = lambda _parts, _payload: None,
        state: Callable[[Origin, bool], None] = lambda _origin, _online: None,
        turns: Turns | None = None,
    ) -> None:
        """``connection`` is told why there is none, or None.

        ``own`` is told of every message that is published on routers' topics (by their levels below the base), this
        one's included; ``state`` whether a node says, or its Last Will does, that it is online.

        ``prefixes``: what nodes say of their prefix counts (standalone); it must lie in ``space`` where that is given.
        """
        self._bus, self._topics, self._store, self._metrics = bus, topics, store, metrics
        self._view, self._connection, self._heard, self._state = view, connection, own, state
        self._prefixes, self._space = prefixes, space
        self._sync = topics.sync(replica)
        self._own = (topics.leader, topics.head("+"), topics.table("+", "+"))
        self._changes = topics.changes("+")
        self._nodes = topics.status("+", "+"), topics.endpoints("+", "+")
        self._turns = Turns() if turns is None else turns
        self._waits, self._flooded = asyncio.Event(), asyncio.Event()
        self._told: dict[Origin, float] = {}
        metrics.waiting(lambda: len(self._turns))
        self._reading: Retained | None = None
        self._reader: asyncio.Task[None] | None = None
        self._echoes: dict[bytes, asyncio.Event] = {}
        self._sent = 0
        self.unplaced: set[Origin] = set()
        """Nodes whose status does not say a prefix: a Last Will may not know it."""

    async def run(self) -> None:
        """Handles deliveries for ever. Nothing that arrives stops it."""
        self._bus.subscribe(self._sync, self._changes, *self._nodes, *self._own)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._give_turns(), name="turns")
            tasks.create_task(self._hear_again(), name="hearing again")
            await self._deliveries()

    async def _deliveries(self) -> None:
        handled = 0
        try:
            async for item in self._bus.deliveries():
                match item:
                    case Connected():
                        self._connection(None)
                        self._begin()
                    case Disconnected(reason):
                        self._connection(reason)
                        self._end()
                    case Delivery():
                        self._take(item)
                handled += 1
                if handled % TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._end()

    def reread(self) -> None:
        """Reads what is retained of the router's own topics once more, and tells ``view``. A session begins with it."""
        if self._bus.connected:
            self._bus.unsubscribe(*self._own)
            self._begin()

    def _begin(self) -> None:
        self._end()
        self._reading = Retained()
        self._bus.subscribe(*self._own)
        self._reader = asyncio.create_task(self._read(self._reading), name="retained")

    def _end(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    # -- deliveries --------------------------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        if delivery.topic == self._sync:
            if (echo := self._echoes.get(delivery.payload)) is not None:
                self._turns.after(echo.set)
                self._waits.set()
            return
        parts = self._topics.parts(delivery.topic)
        try:
            match parts:
                case ("nodes", cluster, node, "endpoints" | "status" as kind):
                    self._queue(_origin(cluster, node), kind, delivery.payload)
                case _:
                    if not delivery.retained:
                        self._heard(parts, delivery.payload)
                    if self._reading is not None and parts[2:] != ("changes",):
                        self._reading.take(parts, delivery.payload)
        except Rejected as error:
            self._drop(delivery.topic, error)
        except Exception:  # noqa: BLE001 - told, with its traceback, and counted
            self._fail(delivery.topic)

    def _drop(self, topic: str, error: Rejected) -> None:
        self._metrics.rejected(error.reason)
        log.debug("message dropped", topic=topic, reason=error.reason, error=str(error))

    def _fail(self, topic: str) -> None:
        """A mistake of ours; one message that hits on it must not end the routing of all others."""
        self._metrics.rejected("Internal")
        log.exception("message dropped", topic=topic, reason="Internal")  # noqa: LOG004 - called in handlers only

    # -- turns -------------------------------------------------------------------------------------------------------

    def _queue(self, origin: Origin, kind: str, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise Rejected(f"{len(payload)} bytes, {MAX_PAYLOAD} at the most", reason="Oversized")
        self._waits.set()
        try:
            if self._turns.put(origin, kind, payload):
                return
        except Rejected:
            self._flooded.set()
            raise
        self._metrics.rejected("RateLimited")
        self._flooded.set()
        now = time.monotonic()
        if now - self._told.get(origin, -TELL_SECONDS) >= TELL_SECONDS:
            self._told[origin] = now
            log.warning("a node says more than its share; of what waits the newest counts", origin=origin)

    async def _give_turns(self) -> None:
        """Deals with what nodes said, one after the other, for ever."""
        given = 0
        while True:
            turn = self._turns.take()
            self._turns.settled()
            if turn is None:
                self._waits.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._turns.wait()):
                        await self._waits.wait()
                continue
            topic = "/".join(("nodes", *turn.origin, turn.kind))
            try:
                (self._endpoints if turn.kind == "endpoints" else self._status)(turn.origin, turn.payload)
            except Rejected as error:
                self._drop(topic, error)
            except Exception:  # noqa: BLE001
                self._fail(topic)
            given += 1
            if given % TURN == 0:
                await asyncio.sleep(0)

    async def _hear_again(self) -> None:
        """A broker whose queue for us is full drops messages without a word, QoS 1 or not.

        What nodes say is retained, so it is all asked for again: now and then, and when a flood is over, or goes on
        for long.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS * random.uniform(0.8, 1.2)):
                    await self._flooded.wait()
            flooded = self._flooded.is_set()
            for _ in range(QUIET_AT_LAST if flooded else 0):
                self._flooded.clear()
                await asyncio.sleep(QUIET_SECONDS)
                if not self._flooded.is_set():
                    break
            if not self._bus.connected:
                continue
            self._told = {
                origin: at for origin, at in self._told.items() if time.monotonic() - at < TELL_SECONDS
            }
            if flooded:
                log.info("asking for what all nodes say, after a flood")
            self._bus.unsubscribe(*self._nodes)
            self._bus.subscribe(*self._nodes)

    # -- what nodes say ----------------------------------------------------------------------------------------------

    def _endpoints(self, origin: Origin, payload: bytes) -> None:
        if not payload:
            return  # somebody cleared the retained message: that says nothing about what is attached
        said = decode(NodeEndpoints, payload)
        if not 0 <= said.sequence <= EPOCH_MAX:
            raise Rejected(f"{said.sequence} is no sequence", reason="SequenceInvalid")
        if not self._store.registered(origin, said.sequence, said.endpoints):
            raise Rejected(f"sequence {said.sequence} is not the newest", reason="StaleSequence")
        self._metrics.registered("mqtt")

    def _status(self, origin: Origin, payload: bytes) -> None:
        said = decode(NodeStatus, payload) if payload else None
        self._state(origin, said is None or said.state == "online")
        if not self._prefixes:
            return  # the prefix is the NodeSegment's
        if said is None:
            self.unplaced.discard(origin)
            self._store.removed(origin)
            return
        if not said.prefix:
            self.unplaced.add(origin)
            return
        try:
            prefix = parse_prefix(said.prefix)
        except Rejected as error:
            raise Rejected(str(error), reason="PrefixInvalid") from error
        if self._space is not None and not prefix.subnet_of(self._space):
            raise Rejected(f"{prefix} is not in {self._space}", reason="PrefixOutsideSpace")
        self.unplaced.discard(origin)
        self._store.prefixed(origin, prefix)

    # -- what is retained --------------------------------------------------------------------------------------------

    async def _read(self, retained: Retained) -> None:
        await self._echo()
        asked: set[str] = set()
        while missing := [topic for topic in self._missing(retained) if topic not in asked]:
            log.info("the broker left out retained messages, asking for them", count=len(missing))
            for start in range(0, len(missing), ASKED_AT_ONCE):
                some = missing[start : start + ASKED_AT_ONCE]
                self._bus.subscribe(*some)
                await self._echo()
                self._bus.unsubscribe(*some)
            asked.update(missing)
        self._reading = None
        self._view(retained)

    def _missing(self, retained: Retained) -> Iterator[str]:
        for vpc, number in retained.missing():
            yield (
                self._topics.head(vpc_hex(vpc))
                if number is None
                else self._topics.table(vpc_hex(vpc), number)
            )
        if self._prefixes:
            nodes = {
                Origin(route.cluster, route.node)
                for found in retained.tables.values()
                for route in found.routes().values()
            }
            for origin in sorted(nodes):
                if (
                    not self._store.heard(origin)
                    and _NAME.fullmatch(origin.cluster)
                    and _NAME.fullmatch(origin.node)
                ):
                    yield self._topics.status(*origin)
                    yield self._topics.endpoints(*origin)

    async def _echo(self) -> None:
        """Returns when everything that the broker had queued for us before is handled."""
        self._sent += 1
        payload = f"{id(self)}-{self._sent}".encode()
        echo = self._echoes[payload] = asyncio.Event()
        try:
            while not echo.is_set():
                try:
                    await self._bus.publish(self._sync, payload)
                    async with asyncio.timeout(ECHO_SECONDS):
                        await echo.wait()
                except (Unreachable, TimeoutError):
                    await asyncio.sleep(0.1)
        finally:
            del self._echoes[payload]


def _origin(cluster: str, node: str) -> Origin:
    if not (_NAME.fullmatch(cluster) and _NAME.fullmatch(node)):
        raise Rejected(f"{cluster!r}, {node!r}: no names of a cluster and a node", reason="InvalidName")
    return Origin(cluster, node)

"""Several routers on one broker in memory, each with a connection that can be cut, and nodes that subscribe."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

from assembling import assembled

from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus.memory import MemoryBroker, MemoryBus, matches
from galactic.errors import Unreachable
from galactic.messages import Changes, Head, Shard, Topics, decode
from galactic.node.mqtt.replica import TableReplica
from galactic.settings import RouterSettings

VPC = 0x4D2
BASE = "galactic/v1"
HERE = f"{BASE}/vpcs/0000000004d2"
LEADER = f"{BASE}/router/leader"


class Line(MemoryBus):
    """A client whose connection alone can be cut."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, None)
        self.up = True
        broker._sessions.append(self)
        self.arrive(Connected())

    @property
    def connected(self) -> bool:
        return self.up and self.broker.up

    def subscribe(self, *filters: str, **how: bool) -> None:
        if self.up:
            super().subscribe(*filters, **how)
        else:
            self.filters += [pattern for pattern in filters if pattern not in self.filters]

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if not self.up:
            raise Unreachable("mqtt", "cut")
        await super().publish(topic, payload, retain=retain)

    def cut(self) -> None:
        self.up = False
        self.arrive(Disconnected("cut"))

    def mend(self) -> None:
        self.up = True
        self.arrive(Connected())
        self.replay(self.filters)


class Vote:
    """An election that the test decides with ``elect``; a ``blind`` voter gets no result."""

    def __init__(self, owner: str = "") -> None:
        self.voters: dict[str, Voter] = {}
        self.chosen, self.owner = "", owner

    def voter(self, name: str) -> "Voter":
        return self.voters.setdefault(name, Voter(self, name))

    def elect(self, name: str) -> None:
        self.chosen = name
        for voter in self.voters.values():
            voter.news.set()


class Voter:
    def __init__(self, vote: Vote, name: str) -> None:
        self.vote, self.name, self.blind, self.owner = vote, name, False, vote.owner
        self.news = asyncio.Event()

    async def run(self, chosen) -> None:
        self.news.set()
        while True:
            await self.news.wait()
            self.news.clear()
            if not self.blind and self.vote.chosen:
                chosen(self.vote.chosen == self.name)

    def deposed(self) -> None:
        self.news.set()


@asynccontextmanager
async def replica(broker: MemoryBroker, vote: Vote, name: str, **settings):
    """A standalone router with a line of its own (``line``), that can be killed (``kill``)."""
    line = Line(broker)
    controller = assembled(
        RouterSettings(kubernetes=False, require_entitlements=False, **settings),
        line,
        replica=name,
        election=vote.voter(name),
    )
    controller.line, controller.election = line, vote.voter(name)
    task = asyncio.create_task(controller.run())

    async def kill() -> None:
        line.up = False  # nothing it does while it ends gets out
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        vote.voters.pop(name, None)

    controller.kill = kill
    try:
        yield controller
    finally:
        await kill()


class Node:
    """A subscriber with a node's table replica; it never requests what it lacks."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.bus = MemoryBus(broker, None)
        broker._sessions.append(self.bus)
        self.table = TableReplica(VPC, "default", 0.0)
        self.topics = Topics(BASE)
        self.bus.subscribe(f"{HERE}/#")
        self.seen: list[set[str]] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for item in self.bus.deliveries():
            if isinstance(item, Delivery) and matches(f"{HERE}/#", item.topic):
                match self.topics.parts(item.topic)[2:]:
                    case ("head",):
                        self.table.receive_head(decode(Head, item.payload) if item.payload else None, 0.0)
                    case _ if not item.payload:
                        continue
                    case ("changes",):
                        self.table.receive_changes(decode(Changes, item.payload), 0.0)
                    case ("table", number):
                        self.table.receive_shard(int(number), decode(Shard, item.payload), 0.0)
                self.seen.append(set(map(str, self.table.routes)))

    @property
    def count(self) -> int:
        return len(self.table.routes)

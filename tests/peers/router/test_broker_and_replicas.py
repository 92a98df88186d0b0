"""Two routers and a real Mosquitto, killed at random steps: in the end the retained messages are the table."""

import asyncio
import contextlib
import json
import random
from typing import Self

import pytest
from assembling import assembled
from replicas import Vote

from galactic.bus import Connected
from galactic.bus.paho import PahoBus
from galactic.errors import Unreachable
from galactic.messages import Route, digest
from galactic.router.controller import Router
from galactic.router.egress import shards
from galactic.router.ingress import subscriptions
from galactic.router.rib.path import NodeRef, Segment
from galactic.router.rib.table import table
from galactic.settings import RouterSettings

VPC, NODES, STEPS = 0x4D2, 4, 14
PATIENCE_SECONDS = 150
HERE = "galactic/v1/vpcs/0000000004d2"
BROKERS = [
    pytest.param("", id="empty-each-time"),
    pytest.param("max_queued_messages 8\nmax_inflight_messages 4", id="drops"),
]
"""Neither keeps what it retains. One that does is killed in test_killed.py."""


class Replica:
    """A router as in a process of its own: its connection ends with it."""

    def __init__(self, url: str, vote: Vote, name: str) -> None:
        self.settings = RouterSettings(kubernetes=False, require_entitlements=False, mqtt_url=url)
        self.vote, self.name = vote, name
        self.controller: Router | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with PahoBus(self.settings, f"galactic-router-{self.name}") as bus:
            self.controller = assembled(
                self.settings, bus, replica=self.name, election=self.vote.voter(self.name)
            )
            await self.controller.run()

    async def kill(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.vote.voters.pop(self.name, None)


class Nodes:
    """All nodes on one connection. Like real ones they register again in a new session."""

    def __init__(self, topology, url: str) -> None:
        self.topology = topology
        self.bus = PahoBus(RouterSettings(mqtt_url=url), "nodes")
        self.registered = {f"n{number}": () for number in range(1, NODES + 1)}
        self.sequence, self.changed = 0, asyncio.Event()

    async def run(self) -> None:
        async with self.bus, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speak())
            async for item in self.bus.deliveries():
                if isinstance(item, Connected):
                    self.changed.set()

    def move(self, dice: random.Random) -> None:
        """Some attachment comes, goes, moves, or is in two places at once for a while."""
        self.sequence += 1
        node = dice.choice(list(self.registered))
        functions = dice.sample(range(1, 7), dice.randint(0, 3))
        self.registered[node] = tuple(
            self.topology.endpoint(
                node,
                function,
                f"10.1.1.{function}/32",
                f"10.9.{dice.randint(1, 3)}.0/24",
                epoch=self.sequence,
            )
            for function in functions
        )
        self.changed.set()

    async def _speak(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            try:
                for node, endpoints in self.registered.items():
                    for topic, payload in (
                        self.topology.status(node),
                        self.topology.endpoints(node, self.sequence, *endpoints),
                    ):
                        await self.bus.publish(topic, payload, retain=True)
            except Unreachable:
                self.changed.set()
                await asyncio.sleep(0.05)

    def segments(self) -> dict[NodeRef, Segment]:
        return {
            NodeRef("default", node): Segment(self.topology.prefix(node), endpoints)
            for node, endpoints in self.registered.items()
        }


def accepted_table(retained: dict[str, str]) -> dict[str, Route] | None:
    """The table that a joining node accepts; None: it waits."""
    if not retained:
        return {}
    try:
        head = json.loads(retained[f"{HERE}/head"])
        parts = [json.loads(retained[f"{HERE}/table/{number}"]) for number in range(head["shards"])]
    except KeyError:
        return None
    routes = [
        Route(**{**route, "segments": tuple(route["segments"])}) for part in parts for route in part["routes"]
    ]
    adds_up = (head["count"], head["digest"]) == (len(routes), digest(routes))
    return (
        {route.network: route for route in routes}
        if adds_up and len(retained) == head["shards"] + 1
        else None
    )


class Scenario:
    """Broker, routers and nodes, and random events."""

    def __init__(self, topology, mosquitto, seed: int, extra: str) -> None:
        self.mosquitto, self.extra, self.dice, self.vote = mosquitto, extra, random.Random(seed), Vote()
        mosquitto.start(extra=extra)
        self.nodes = Nodes(topology, mosquitto.url)
        self.replicas = {name: Replica(mosquitto.url, self.vote, name) for name in ("a", "b")}

    async def __aenter__(self) -> Self:
        self.speaking = asyncio.create_task(self.nodes.run())
        for replica in self.replicas.values():
            replica.start()
        self.vote.elect("a")
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.replicas.values():
            await replica.kill()
        self.speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.speaking

    async def step(self) -> None:
        self.nodes.move(self.dice)
        event = self.dice.choice(["nothing", "nothing", "leader", "handover", "broker"])
        await self.happen(event, moves=True)
        await asyncio.sleep(self.dice.choice([0, 0.02, 0.3, 0.8]))

    async def happen(self, event: str, *, moves: bool = False) -> None:
        """``moves``: nodes register a change while the killed process is away."""
        leads, other = ("a", "b") if self.vote.chosen == "a" else ("b", "a")
        if event == "leader":
            await self.replicas[leads].kill()
        elif event == "broker":
            self.mosquitto.kill()
        if moves:
            self.nodes.move(self.dice)
        if event == "broker":
            self.mosquitto.start(extra=self.extra)
        if event in ("leader", "handover"):
            self.vote.elect(other)
        if event == "leader":
            self.replicas[leads].start()

    @property
    def leader(self) -> Router | None:
        """The leader, if it has nothing left to do."""
        controller = self.replicas[self.vote.chosen].controller
        return controller if controller is not None and controller.idle else None

    def settled(self) -> bool:
        """The leader has received the last messages, and its table follows from them."""
        controller = self.leader
        if controller is None or not self.nodes.bus.connected or self.nodes.changed.is_set():
            return False
        if {segment.endpoints for segment in controller.store.nodes.segments().values()} != set(
            self.nodes.registered.values()
        ):
            return False
        routes = dict(controller.store.tables.routes(VPC))
        oracle = table(self.nodes.segments(), None, {VPC: routes}, 1 << 61).vpcs.get(VPC)
        return routes == (oracle.routes if oracle else {})

    def retains(self, retained: dict[str, str]) -> bool:
        """Whether that is the leader's table, with nothing left to do."""
        return self.settled() and accepted_table(retained) == dict(self.leader.store.tables.routes(VPC))


@pytest.mark.timeout(6 * PATIENCE_SECONDS)
@pytest.mark.parametrize("extra", BROKERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_any_death_the_retained_table_is_right(
    topology, mosquitto, until, monkeypatch, *, extra: str, seed: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROUTES", 2)  # so that a change does not rewrite everything
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 1.0)  # what is dropped is lost until then
    async with Scenario(topology, mosquitto, seed, extra) as stage:
        for _ in range(STEPS):
            await stage.step()
        for last in ("nothing", "broker", "leader"):  # and no node registers anything new after it
            await stage.happen(last)
            await until(stage.settled, PATIENCE_SECONDS)
            retained: dict[str, str] = {}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not stage.retains(retained):  # a session may begin only now
                        retained = await asyncio.to_thread(mosquitto.retained, f"{HERE}/#")
            assert stage.retains(retained), f"after {last} what is retained is not the table: {retained}"
        leader = await asyncio.to_thread(mosquitto.retained, "galactic/v1/router/leader")
        assert json.loads(leader["galactic/v1/router/leader"])["id"] == stage.vote.chosen

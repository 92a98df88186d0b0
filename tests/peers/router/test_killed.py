"""The real processes, killed with SIGKILL at random moments: routers, Mosquitto, PostgreSQL.

In the end the broker retains a table that follows from the nodes' last messages, and the database has the same, with a
history in which no network has two holders at a time.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from database_world import recorded, rows
from test_broker_and_replicas import HERE, VPC, Nodes, accepted_table

from galactic.messages import Route
from galactic.router.rib.networks import Network
from galactic.router.rib.table import table
from galactic_lab.controlplane.postgres import Postgres, temporary

STEPS = 8
SECONDS = 400


class Router:
    """``galactic-router --kubernetes=false``, with a log of its own."""

    def __init__(self, mqtt: str, database: str, log: Path) -> None:
        self._command = [
            sys.executable,
            "-m",
            "galactic.router",
            "--kubernetes",
            "false",
            "--require-entitlements",
            "false",
        ]
        self._command += ["--mqtt-url", mqtt, "--database-url", database, "--metrics-port", "0"]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            assert self._process.poll() is None, f"it ended by itself: {self._log.read_text()[-2000:]}"
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with temporary() as running:
        yield running


def rows_of(routes: Mapping[Network, Route]) -> set[Any]:
    """Rows of the routes, as ``recorded`` returns them."""
    return {
        (VPC, network, route.node, int(route.function, 16), route.segments[0], route.epoch)
        for network, route in routes.items()
    }


class Plane:
    """Broker, database, routers and nodes, of which one is killed at each step."""

    def __init__(self, topology, mosquitto, postgres: Postgres, routers: list[Router], seed: int) -> None:
        self.mosquitto, self.postgres, self.routers = mosquitto, postgres, routers
        self.dice, self.nodes = random.Random(seed), Nodes(topology, mosquitto.url)

    async def step(self) -> None:
        victim = self.dice.choice(["router", "router", "router", "broker", "database"])
        self.nodes.move(self.dice)
        await asyncio.sleep(self.dice.choice([0, 0.05, 0.3, 1.0]))
        router = self.dice.choice(self.routers)
        if victim == "router":
            router.kill()
        elif victim == "broker":
            self.mosquitto.kill()
        else:
            self.postgres.kill()
        self.nodes.move(self.dice)
        await asyncio.sleep(self.dice.choice([0, 0.05, 0.3]))
        if victim == "router":
            router.start()
        elif victim == "broker":
            self.mosquitto.start(persistence=True)
        else:
            await asyncio.to_thread(self.postgres.start)
        await asyncio.sleep(self.dice.choice([0, 0.3, 1.0, 3.0]))

    async def unwritten(self) -> None:
        """The routers publish changes while the database is away, and are killed: only a comparison finds these."""
        while (wrong := await asyncio.to_thread(self.settled)) or not (before := self.recorded()):
            if not wrong:
                self.nodes.move(self.dice)
            await asyncio.sleep(0.5)
        self.postgres.kill()
        while not (after := await asyncio.to_thread(self.recorded)) or not before - after:
            self.nodes.move(self.dice)
            await asyncio.sleep(0.5)
        for router in self.routers:
            router.kill()
        await asyncio.to_thread(self.postgres.start)
        for router in self.routers:
            router.start()

    def recorded(self) -> set[Any]:
        """The broker's retained table; empty where it does not add up just now."""
        return rows_of(accepted_table(self.mosquitto.retained(f"{HERE}/#")) or {})

    def settled(self) -> str:
        """A difference that is left; empty: none."""
        if not self.nodes.bus.connected or self.nodes.changed.is_set():
            return "the nodes have not registered all"
        retained = self.mosquitto.retained(f"{HERE}/#")
        routes = accepted_table(retained)
        if routes is None:
            return f"retained, and not a table: {retained}"
        oracle = table(self.nodes.segments(), None, {VPC: routes}, 1 << 61).vpcs.get(VPC)
        if routes != (oracle.routes if oracle else {}):
            return f"retained {sorted(routes)}, {self.nodes.registered}"
        expected = rows_of(routes)
        try:
            rows_recorded = recorded(self.postgres.url())
        except psycopg.Error as error:
            return f"the database: {error}"
        return "" if rows_recorded == expected else f"recorded {rows_recorded}, published {expected}"


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize(("seed", "replicas"), [(1, 1), (2, 2)], ids=["one-router", "two-routers"])
async def test_after_any_kill_broker_and_database_have_the_table(
    topology, mosquitto, postgres, tmp_path, *, seed: int, replicas: int
) -> None:
    logs = [tmp_path / f"router-{number}.log" for number in range(replicas)]
    routers = [Router(mosquitto.url, postgres.url(), log) for log in logs]
    plane = Plane(topology, mosquitto, postgres, routers, seed)
    mosquitto.start(persistence=True)
    speaking = asyncio.create_task(plane.nodes.run())
    try:
        for router in routers:
            router.start()
        for _ in range(STEPS):
            await plane.step()
        await plane.unwritten()
        wrong = "not looked at"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while wrong := await asyncio.to_thread(plane.settled):
                    await asyncio.sleep(0.5)
        assert not wrong, f"seed {seed}: {wrong}\n" + "\n".join(log.read_text()[-3000:] for log in logs)
        twice = """
            SELECT a.network::text, a.during, b.during FROM galactic.period a JOIN galactic.period b
            ON a.vpc = b.vpc AND a.network = b.network AND a.id < b.id AND a.during && b.during
            """
        assert rows(postgres.url(), twice) == [], "held by two at a time"
    finally:
        for router in routers:
            router.kill()
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)

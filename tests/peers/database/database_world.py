"""A table that changes, and what its history must be then."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Network

import psycopg
from prometheus_client import CollectorRegistry

from galactic.messages import Endpoint
from galactic.names import function_hex, vpc_hex
from galactic.router.database.history_writer import HistorySettings, HistoryWriter
from galactic.router.database.metrics import DatabaseMetrics
from galactic.router.database.migration import VERSION, migrate
from galactic.router.database.session import session
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import sid

HORIZON = 1 << 60


def prefix(node: int) -> IPv6Network:
    return IPv6Network(f"2001:db8:ff01:{node:x}00::/56")


def endpoint(node: int, function: int, *networks: str, epoch: int = 1, vpc: int = 0x4D2) -> Endpoint:
    address = str(sid(prefix(node), vpc, function))
    return Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{function}", address, networks, epoch)


@dataclass
class RecordedPlane:
    """A standalone router's store with nodes 1, 2, …, and history writers that follow it."""

    store: Store = field(default_factory=lambda: Store(checked=False))
    followers: list[HistoryWriter] = field(default_factory=list)
    registrations: dict[int, list[Endpoint]] = field(default_factory=dict)
    sequence: int = 0
    epoch: int = 0

    def register(self, node: int, *endpoints: Endpoint) -> None:
        """Registers all endpoints of a node, and commits."""
        self.sequence += 1
        self.registrations[node] = list(endpoints)
        node_ref = NodeRef("default", f"n{node}")
        self.store.nodes.set_prefix(node_ref, prefix(node))
        self.store.nodes.set_endpoints(node_ref, self.sequence, endpoints)
        commit = self.store.commit(HORIZON)
        for follower in self.followers:
            follower.committed(commit)

    def step(self, chance: random.Random) -> None:
        """Something happens: an endpoint comes, goes, moves, or claims what another has."""
        node, function = chance.randint(1, 3), chance.randint(1, 6)
        self.epoch += 1
        vpc = chance.choice((0x4D2, 0x4D3))
        kept = [
            endpoint
            for endpoint in self.registrations.get(node, [])
            if int(endpoint.function, 16) != function or endpoint.vpc != vpc_hex(vpc)
        ]
        if chance.random() < 0.7:
            networks = chance.sample(
                [f"10.1.1.{n}/32" for n in range(1, 9)] + ["10.2.0.0/16", "fd00::1/128"], 2
            )
            kept.append(endpoint(node, function, *networks, epoch=self.epoch, vpc=vpc))
        self.register(node, *kept)

    def table(self) -> set[tuple]:
        """Who has what, as it must be in the database."""
        return {
            (vpc, network, route.node, int(route.function, 16), route.segments[0], route.epoch)
            for vpc, table in self.store.tables.snapshot().items()
            for network, route in table.routes.items()
        }

    def endpoints(self) -> set[tuple]:
        return {
            (vpc, attachment.function, path.origin.node, path.attachment, path.networks, path.epoch)
            for vpc, table in self.store.tables.snapshot().items()
            for attachment, path in table.endpoints.items()
        }


async def upgrade(url: str, to: str = VERSION) -> None:
    """The schema at that version."""
    async with session(url) as connected:
        await migrate(connected, to)


def history_writer(url: str, plane: RecordedPlane, replica: str = "r", **more: object) -> HistoryWriter:
    """One whose metrics are ``registry`` and whose problems are ``problems``."""
    registry = CollectorRegistry()
    problems: list[str | None] = []
    settings = HistorySettings(url, replica, **{"backoff": (0.02, 0.2), "linger": 0.0, **more})
    made = HistoryWriter(
        settings, plane.store.tables, DatabaseMetrics(registry), lambda _: 7, problems.append
    )
    made.registry, made.problems = registry, problems
    plane.followers.append(made)
    return made


@asynccontextmanager
async def running(made: HistoryWriter, term: int | None = 1) -> AsyncIterator[HistoryWriter]:
    """It runs, and leads if a term is given; in the end it is cut off as a kill would."""
    task = asyncio.create_task(made.run())
    if term is not None:
        made.lead(term)
    try:
        yield made
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


def sample(made: HistoryWriter, name: str, **labels: str) -> float:
    return made.registry.get_sample_value(f"galactic_router_database_{name}", labels) or 0.0


def rows(url: str, query: str, *parameters: object) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def recorded(url: str) -> set[tuple]:
    """The open periods."""
    query = "SELECT vpc, network, node, function, sid, epoch FROM galactic.period WHERE upper_inf(during)"
    return {(v, str(n), node, f, str(s), e) for v, n, node, f, s, e in rows(url, query)}


def recorded_endpoints(url: str) -> set[tuple]:
    query = "SELECT vpc, function, node, attachment, networks, epoch FROM galactic.endpoint"
    return {(v, f, node, a, tuple(map(str, n)), e) for v, f, node, a, n, e in rows(url, query)}


Until = Callable[..., object]

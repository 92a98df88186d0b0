"""What the database says, read row by row: for the comparison, and for a router that has nothing else to start from."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Any, Final, NamedTuple

from galactic.messages import Endpoint, Route
from galactic.names import function_hex, vpc_hex
from galactic.router.database.backlog import Held, Key, legible
from galactic.router.database.session import Connection
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Identity, NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import parse_sid

CHUNK: Final = 250
"""Rows looked at before the rest of the process gets a turn."""


class Recorded(NamedTuple):
    """One endpoint as it is recorded."""

    identity: Identity
    node: str
    attachment: str
    sid: str
    networks: tuple[Network, ...]
    epoch: int

    def says(self, claim: EndpointPath) -> bool:
        """Whether that is what the claim says."""
        name = legible(claim.attachment)
        told = claim.identity, claim.origin.node, name, claim.sid, claim.networks, claim.epoch
        return tuple(self) == told


@dataclass(slots=True)
class Recall:
    """All that is recorded: each node's endpoints, and each VPC's table."""

    endpoints: dict[NodeRef, tuple[Endpoint, ...]] = field(default_factory=dict)
    routes: dict[int, dict[Network, Route]] = field(default_factory=dict)
    term: int = 0


async def recall(connection: Connection) -> Recall:
    """Everything recorded, as of one moment. Raises psycopg's."""
    found = Recall()
    gathered: dict[NodeRef, list[Endpoint]] = {}
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        async for it in endpoints_recorded(connection):
            cluster, vpc, function = it.identity
            endpoint = Endpoint(
                vpc_hex(vpc), function_hex(function), it.attachment, it.sid, it.networks, it.epoch
            )
            gathered.setdefault(NodeRef(cluster, it.node), []).append(endpoint)
        async for key, held in periods_open(connection):
            route = Route(
                key.network, (held.sid,), held.cluster, held.node, function_hex(held.function), held.epoch
            )
            found.routes.setdefault(key.vpc, {})[key.network] = route
        async for (term,) in _rows(connection, "SELECT term FROM galactic.writer"):
            found.term = term
    found.endpoints = {origin: tuple(endpoints) for origin, endpoints in gathered.items()}
    return found


def placed(store: Store, found: Recall) -> None:
    """Nodes that have not spoken yet are taken at what they said before, until they do."""
    segments = store.segments()
    for origin, endpoints in found.endpoints.items():
        if not store.heard(origin):
            if origin not in segments or segments[origin].prefix is None:
                store.prefixed(origin, IPv6Network((parse_sid(endpoints[0].sid).locator << 64, 64)))
            store.registered(origin, 0, endpoints)  # whatever the node says is newer


async def periods_open(connection: Connection) -> AsyncIterator[tuple[Key, Held]]:
    """Who has what now. Within a transaction."""
    query = """
        SELECT vpc, network::text, cluster, function, node, attachment, host(sid), epoch
        FROM galactic.period WHERE upper_inf(during)
        """
    async for vpc, network, cluster, function, node, attachment, sid, epoch in _rows(connection, query):
        held = Held(cluster, function, node, attachment, str(IPv6Address(sid)), epoch)
        yield Key(vpc, _network(network)), held


async def endpoints_recorded(connection: Connection) -> AsyncIterator[Recorded]:
    """The endpoints. Within a transaction."""
    query = """
        SELECT cluster, vpc, function, node, attachment, host(sid), networks::text[], epoch FROM galactic.endpoint
        """
    async for cluster, vpc, function, node, attachment, sid, networks, epoch in _rows(connection, query):
        yield Recorded(
            Identity(cluster, vpc, function),
            node,
            attachment,
            str(IPv6Address(sid)),
            tuple(map(_network, networks)),
            epoch,
        )


async def _rows(connection: Connection, query: str) -> AsyncIterator[tuple[Any, ...]]:
    """The rows, fetched some at a time, so that nothing else waits for all of them."""
    async with connection.cursor(name="recall") as cursor:
        cursor.itersize = CHUNK
        await cursor.execute(query.encode())
        async for row in cursor:
            yield row


def _network(text: str) -> Network:
    """PostgreSQL writes some IPv6 networks otherwise than ``ipaddress`` does (::1.2.3.4/128)."""
    return Network(str(ip_network(text)) if ":" in text else text)

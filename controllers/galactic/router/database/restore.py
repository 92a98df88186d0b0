"""The database's rows as tables: for the comparison, and for a router whose broker is empty."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Any, Final, NamedTuple

from galactic.messages import Endpoint, Route
from galactic.names import function_hex, vpc_hex
from galactic.router.database.backlog import NetworkOwner, VpcNetwork, legible
from galactic.router.database.session import Connection
from galactic.router.rib.networks import Network
from galactic.router.rib.path import EndpointPath, Identity, NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.srv6 import parse_sid

CHUNK: Final = 250
"""Rows handled before other tasks of the process get a turn."""


class RecordedEndpoint(NamedTuple):
    """A row of the table ``endpoint``."""

    identity: Identity
    node: str
    attachment: str
    sid: str
    networks: tuple[Network, ...]
    epoch: int

    def equals(self, path: EndpointPath) -> bool:
        """Whether the row is what would be written for that path."""
        name = legible(path.attachment)
        return tuple(self) == (path.identity, path.origin.node, name, path.sid, path.networks, path.epoch)


@dataclass(slots=True)
class RecordedState:
    """All that the database has of the present: each node's endpoints, each VPC's table, the leader's term."""

    endpoints: dict[NodeRef, tuple[Endpoint, ...]] = field(default_factory=dict)
    routes: dict[int, dict[Network, Route]] = field(default_factory=dict)
    term: int = 0


async def recorded_state(connection: Connection) -> RecordedState:
    """The state, read in one snapshot. Raises psycopg's."""
    state = RecordedState()
    endpoints: dict[NodeRef, list[Endpoint]] = {}
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        async for row in recorded_endpoints(connection):
            cluster, vpc, function = row.identity
            endpoint = Endpoint(
                vpc_hex(vpc), function_hex(function), row.attachment, row.sid, row.networks, row.epoch
            )
            endpoints.setdefault(NodeRef(cluster, row.node), []).append(endpoint)
        async for (vpc, network), owner in open_periods(connection):
            route = Route(
                network, (owner.sid,), owner.cluster, owner.node, function_hex(owner.function), owner.epoch
            )
            state.routes.setdefault(vpc, {})[network] = route
        async for (term,) in _rows(connection, "SELECT term FROM galactic.writer"):
            state.term = term
    state.endpoints = {node: tuple(listed) for node, listed in endpoints.items()}
    return state


def restore(nodes: Registrations, state: RecordedState) -> None:
    """Nodes whose registration is not known yet get the recorded one, until they register."""
    segments = nodes.segments()
    for node, endpoints in state.endpoints.items():
        if not nodes.is_registered(node):
            if node not in segments or segments[node].prefix is None:
                nodes.set_prefix(node, IPv6Network((parse_sid(endpoints[0].sid).locator << 64, 64)))
            nodes.set_endpoints(node, 0, endpoints)  # any registration of the node is newer


async def open_periods(connection: Connection) -> AsyncIterator[tuple[VpcNetwork, NetworkOwner]]:
    """The present owners of networks. Within a transaction."""
    query = """
        SELECT vpc, network::text, cluster, function, node, attachment, host(sid), epoch
        FROM galactic.period WHERE upper_inf(during)
        """
    async for vpc, network, cluster, function, node, attachment, sid, epoch in _rows(connection, query):
        owner = NetworkOwner(cluster, function, node, attachment, str(IPv6Address(sid)), epoch)
        yield VpcNetwork(vpc, _network(network)), owner


async def recorded_endpoints(connection: Connection) -> AsyncIterator[RecordedEndpoint]:
    """The table ``endpoint``. Within a transaction."""
    query = """
        SELECT cluster, vpc, function, node, attachment, host(sid), networks::text[], epoch FROM galactic.endpoint
        """
    async for cluster, vpc, function, node, attachment, sid, networks, epoch in _rows(connection, query):
        yield RecordedEndpoint(
            Identity(cluster, vpc, function),
            node,
            attachment,
            str(IPv6Address(sid)),
            tuple(map(_network, networks)),
            epoch,
        )


async def _rows(connection: Connection, query: str) -> AsyncIterator[tuple[Any, ...]]:
    """The rows, fetched CHUNK at a time, so that other tasks run in between."""
    async with connection.cursor(name="restore") as cursor:
        cursor.itersize = CHUNK
        await cursor.execute(query.encode())
        async for row in cursor:
            yield row


def _network(text: str) -> Network:
    """PostgreSQL writes some IPv6 networks otherwise than ``ipaddress`` does (::1.2.3.4/128)."""
    return Network(str(ip_network(text)) if ":" in text else text)

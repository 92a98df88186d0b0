"""Payloads and records as the version before reads them: its own structs, and its own digest.

To be replaced by those of ``messages.py`` and ``node/state/checkpoint.py`` when a version is released, and the bytes in
``tests/unit/yesterday`` with them.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Literal

import msgspec


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An attachment on a node."""

    vpc: str  # 12 hex digits
    function: str  # 4 hex digits
    attachment: str  # namespace/name
    sid: str
    networks: tuple[str, ...]  # its addresses as host routes, and its terminations
    epoch: int  # hybrid logical clock in ns, taken once at ADD


class NodeStatus(msgspec.Struct, frozen=True):
    """``nodes/<cluster>/<node>/status``; the Last Will has the state offline."""

    state: Literal["online", "offline"]
    prefix: str = ""
    version: str = ""


class NodeEndpoints(msgspec.Struct, frozen=True):
    """``nodes/<cluster>/<node>/endpoints``: all of a node's endpoints. The highest sequence is the newest."""

    sequence: int
    endpoints: tuple[Endpoint, ...]


class Entitlement(msgspec.Struct, frozen=True, gc=False):
    """A VPCAttachment, and what the nodes of its carriers may register for it."""

    attachment: str  # namespace/name
    vpc: str  # 12 hex digits; empty: not assigned yet
    function: str  # 4 hex digits; empty: not assigned yet
    networks: tuple[str, ...]  # its addresses as host routes, and its terminations
    nodes: tuple[str, ...]  # those of its carriers
    ready: bool


class Entitlements(msgspec.Struct, frozen=True):
    """``entitlements/<cluster>/<shard>``: one of the ``of`` parts of a cluster's VPCAttachments.

    The parts of one ``generation`` are a whole list. A later one is complete when all of its parts are there.
    """

    generation: int
    of: int
    attachments: tuple[Entitlement, ...]


class Leader(msgspec.Struct, frozen=True):
    """``router/leader``. When the term changes every node publishes its endpoints again."""

    id: str
    term: int


class Route(msgspec.Struct, frozen=True, gc=False):
    """One network of a VPC and the SID that leads to it."""

    network: str
    segments: tuple[str, ...]
    cluster: str
    node: str
    function: str
    epoch: int


class Changes(msgspec.Struct, frozen=True):
    """``vpcs/<vpc>/changes``: the difference between the tables of revisions ``previous`` and ``revision``."""

    revision: int
    previous: int
    set: tuple[Route, ...] = ()
    delete: tuple[str, ...] = ()


class Shard(msgspec.Struct, frozen=True):
    """``vpcs/<vpc>/table/<shard>``: one of the ``of`` parts of the packed table of that revision."""

    revision: int
    of: int
    routes: tuple[Route, ...]


class Head(msgspec.Struct, frozen=True):
    """``vpcs/<vpc>/head``: size and digest of the table of that revision."""

    revision: int
    count: int
    digest: str
    shards: int


class AttachmentFile(msgspec.Struct, frozen=True):
    """An attachment as its file has it."""

    vpc: str
    function: str
    name: str
    container: str
    netns: str
    ifname: str
    addresses: tuple[str, ...]
    networks: tuple[str, ...]
    terminations: tuple[tuple[str, str], ...]
    routes: tuple[str, ...]
    mtu: int
    epoch: int
    settled: bool
    pod: str = ""


class NodeFile(msgspec.Struct, frozen=True):
    """The node itself as its file has it."""

    prefix: str = ""
    clock: int = 0
    filtered: str = ""  # the prefix that the packet filter was last put in place for


def weight(route: Route) -> int:
    """A 64-bit hash of one route, the summand of ``digest``."""
    text = "|".join((route.network, ",".join(route.segments), route.cluster, route.node, route.function))
    return int.from_bytes(blake2b(f"{text}|{route.epoch}".encode(), digest_size=8).digest(), "big")


def digest(routes: Iterable[Route]) -> str:
    """16 hex digits: the sum of the routes' weights modulo 2^64.

    Independent of order, and adjustable by one route at a time, so that a change costs in proportion to its size.
    The digest guards against loss, not against an adversary: the broker's ACL decides who may write the topic.
    """
    return digest_of(sum(map(weight, routes)))


def digest_of(total: int) -> str:
    """The text form of a sum of weights."""
    return f"{total % (1 << 64):016x}"


KINDS = {
    "status": NodeStatus,
    "endpoints": NodeEndpoints,
    "entitlements": Entitlements,
    "leader": Leader,
    "changes": Changes,
    "table": Shard,
    "head": Head,
}
"""By the level of the topic that names them."""


def kind_of(topic: str) -> str:
    """The key in KINDS for a topic below the base; empty for the routers' messages to themselves."""
    return next((level for level in reversed(topic.split("/")) if level in KINDS), "")


def read(kind: str, payload: bytes) -> object:
    """The payload, strictly by type."""
    return msgspec.json.decode(payload, type=KINDS[kind])

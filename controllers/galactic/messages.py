"""Topics and payloads on MQTT (docs/architecture.md, "Messages").

Payloads are JSON and decoded strictly by type. Unknown fields are ignored, so that a newer sender can add some. A
change that an older reader would misunderstand raises ``schema`` (docs/design/versions.md). Encoding and decoding one
route costs about a microsecond, which is why these are msgspec structs and not pydantic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal, TypeVar

import msgspec

from galactic.errors import Rejected

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes. A larger payload is dropped unread."""
MIN_PAYLOAD: Final = 32 * 1024
"""Bytes that a broker has to take. What has more is in shards, and a single endpoint or entitlement has 13 KiB."""
SHARD_PAYLOAD: Final = 96 * 1024
"""Bytes of a shard of endpoints, at the most. A larger one is dropped unread."""
ENDPOINT_SHARDS: Final = 64
"""Shards of one node's endpoints, at the most."""
USAGE_SHARDS: Final = 32
"""Messages of one node's usage, at the most."""
SHARD_ROUTES: Final = 256
"""Routes in one shard of a retained table, at the most."""


class Versioned(msgspec.Struct, frozen=True, kw_only=True):
    """A payload. Where ``schema`` is missing it is 1, as it was before payloads had it."""

    schema: int = 1


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An attachment on a node."""

    vpc: str  # 12 hex digits
    function: str  # 4 hex digits
    attachment: str  # namespace/name
    sid: str
    networks: tuple[str, ...]  # its addresses as host routes, and its terminations
    epoch: int  # hybrid logical clock in ns, taken once at ADD


class NodeStatus(Versioned, frozen=True):
    """``nodes/<cluster>/<node>/status``; the Last Will has the state offline."""

    state: Literal["online", "offline"]
    prefix: str = ""
    version: str = ""


class NodeEndpoints(Versioned, frozen=True):
    """``nodes/<cluster>/<node>/endpoints``: all of a node's endpoints. The highest sequence is the newest."""

    sequence: int
    endpoints: tuple[Endpoint, ...]


class EndpointsShard(Versioned, frozen=True):
    """``nodes/<cluster>/<node>/endpoints/<shard>``: a part of a node's endpoints that no single message can have."""

    sequence: int
    endpoints: tuple[Endpoint, ...]


class EndpointsHead(Versioned, frozen=True):
    """``nodes/<cluster>/<node>/endpoints/head``: which shards are all of a node's endpoints.

    ``sequence`` is ordered with that of ``NodeEndpoints``. A shard of another sequence than given here is another one.
    """

    sequence: int
    shards: tuple[int, ...]  # the sequence of each


class Entitlement(msgspec.Struct, frozen=True, gc=False):
    """A VPCAttachment, and what the nodes of its carriers may register for it."""

    attachment: str  # namespace/name
    vpc: str  # 12 hex digits; empty: not assigned yet
    function: str  # 4 hex digits; empty: not assigned yet
    networks: tuple[str, ...]  # its addresses as host routes, and its terminations
    nodes: tuple[str, ...]  # those of its carriers
    ready: bool
    vpc_name: str = (
        ""  # namespace/name of its VPC; empty: not assigned yet, or an operator of before there was this
    )


class PeeringVpc(msgspec.Struct, frozen=True, gc=False):
    """A VPC that names peers. A peering is in force where two name each other and their networks do not overlap."""

    name: str  # namespace/name
    vpc: str  # 12 hex digits
    networks: tuple[str, ...]
    peers: tuple[str, ...]  # identifiers


class Entitlements(Versioned, frozen=True):
    """``entitlements/<cluster>/<shard>``: one of the ``of`` parts of a cluster's VPCAttachments and peered VPCs.

    The parts of one ``generation`` are a whole list. A later one is complete when all of its parts are there.
    """

    generation: int
    of: int
    attachments: tuple[Entitlement, ...]
    owner: str = ""  # UID of the cluster's namespace kube-system; empty: of an earlier version
    vpcs: tuple[PeeringVpc, ...] = ()  # those that name peers


class UsageEntry(msgspec.Struct, frozen=True, gc=False):
    """Traffic of an attachment since its node began to count, or the attachment came. Every number only rises."""

    vpc: str  # 12 hex digits
    function: str  # 4 hex digits
    attachment: str  # namespace/name
    epoch: int  # of its endpoint
    seconds: int  # attached
    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int


class NodeUsage(Versioned, frozen=True):
    """``nodes/<cluster>/<node>/usage/<shard>``: traffic of attachments that are on a node, or were lately.

    Entries are sums, not differences, so that a lost, late or repeated message changes nothing. ``ledger`` identifies
    the node's cumulative counters: those of another one began again at zero.
    """

    ledger: str
    entries: tuple[UsageEntry, ...]


class Leader(Versioned, frozen=True):
    """``router/leader``. When the term changes every node publishes its endpoints again.

    Term 0 is every router's Last Will: that router has gone. If it led, no router leads until another one claims.
    """

    id: str
    term: int
    owner: str = ""  # UID of its cluster's namespace kube-system; empty: standalone, or an earlier version

    @property
    def gone(self) -> bool:
        """Whether this is a Last Will, which claims nothing."""
        return self.term == 0


def gone(router: str) -> Leader:
    """The Last Will of a router."""
    return Leader(router, 0)


class Route(msgspec.Struct, frozen=True, gc=False):
    """One network of a VPC and the SID that leads to it."""

    network: str
    segments: tuple[str, ...]
    cluster: str
    node: str
    function: str
    epoch: int


class Changes(Versioned, frozen=True):
    """``vpcs/<vpc>/changes``: the difference between the tables of revisions ``previous`` and ``revision``."""

    revision: int
    previous: int
    set: tuple[Route, ...] = ()
    delete: tuple[str, ...] = ()


class Shard(Versioned, frozen=True):
    """``vpcs/<vpc>/table/<shard>``: one of the ``of`` parts of the packed table of that revision."""

    revision: int
    of: int
    routes: tuple[Route, ...]


class Head(Versioned, frozen=True):
    """``vpcs/<vpc>/head``: size and digest of the table of that revision."""

    revision: int
    count: int
    digest: str
    shards: int


Message = (
    NodeStatus
    | NodeEndpoints
    | EndpointsShard
    | EndpointsHead
    | Entitlements
    | NodeUsage
    | Leader
    | Changes
    | Shard
    | Head
)
M = TypeVar(
    "M",
    NodeStatus,
    NodeEndpoints,
    EndpointsShard,
    EndpointsHead,
    Entitlements,
    NodeUsage,
    Leader,
    Changes,
    Shard,
    Head,
)

UNDERSTOOD: Final = 1
"""The latest schema that this version reads, of every payload."""

_encoder: Final = msgspec.json.Encoder()
_decoders: Final[dict[type, msgspec.json.Decoder[Message]]] = {
    kind: msgspec.json.Decoder(kind) for kind in M.__constraints__
}

_any: Final = msgspec.json.Decoder(Versioned)


def encode(message: Message) -> bytes:
    """The message as JSON."""
    return _encoder.encode(message)


def decode(kind: type[M], payload: bytes) -> M:
    """The message in ``payload``. Raises Rejected (reason Oversized, NewerSchema or Undecodable) and nothing else."""
    if len(payload) > MAX_PAYLOAD:
        raise Rejected(f"{len(payload)} bytes, {MAX_PAYLOAD} at the most", reason="Oversized")
    try:
        message = _decoders[kind].decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _refuse_newer(_schema(payload))  # a newer one may have other types
        raise Rejected(str(error), reason="Undecodable") from error
    assert isinstance(message, kind)
    _refuse_newer(message.schema)
    return message


def _refuse_newer(schema: int) -> None:
    if schema > UNDERSTOOD:
        raise Rejected(
            f"schema {schema}, and this version reads up to {UNDERSTOOD}: upgrade this program, or the sender one minor"
            " version at a time",
            reason="NewerSchema",
        )


def _schema(payload: bytes) -> int:
    """The schema of what cannot be decoded as a message; 1 where it has none."""
    try:
        return _any.decode(payload).schema
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 1


def weight(route: Route) -> int:
    """A 64-bit hash of one route, the summand of ``digest``.

    Of these six fields for ever: a field that is added later is not part of it, or older readers would doubt the table.
    """
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


@dataclass(frozen=True, slots=True)
class Topics:
    """The topic tree below a base such as ``galactic/v1``."""

    base: str

    @property
    def leader(self) -> str:
        return f"{self.base}/router/leader"

    def sync(self, replica: str) -> str:
        """A router replica's topic to itself: its message arrives after all retained ones (the barrier)."""
        return f"{self.base}/router/sync/{replica}"

    def status(self, cluster: str, node: str) -> str:
        return f"{self.base}/nodes/{cluster}/{node}/status"

    def endpoints(self, cluster: str, node: str) -> str:
        return f"{self.base}/nodes/{cluster}/{node}/endpoints"

    def endpoints_shard(self, cluster: str, node: str, shard: int | str) -> str:
        """``shard`` may be ``head``."""
        return f"{self.base}/nodes/{cluster}/{node}/endpoints/{shard}"

    def of_node(self, cluster: str, node: str) -> tuple[str, ...]:
        """All that a node publishes retained, its status last: without that nothing leads to the others."""
        shards = (self.endpoints_shard(cluster, node, level) for level in ("head", *range(ENDPOINT_SHARDS)))
        return self.endpoints(cluster, node), *shards, self.status(cluster, node)

    def usage(self, cluster: str, node: str, shard: int | str) -> str:
        return f"{self.base}/nodes/{cluster}/{node}/usage/{shard}"

    def entitlements(self, cluster: str, shard: int | str) -> str:
        return f"{self.base}/entitlements/{cluster}/{shard}"

    def changes(self, vpc: str) -> str:
        return f"{self.base}/vpcs/{vpc}/changes"

    def table(self, vpc: str, shard: int | str) -> str:
        return f"{self.base}/vpcs/{vpc}/table/{shard}"

    def head(self, vpc: str) -> str:
        return f"{self.base}/vpcs/{vpc}/head"

    def parts(self, topic: str) -> tuple[str, ...]:
        """The levels below the base, e.g. ``("vpcs", "0000000004d2", "head")``; empty for a topic elsewhere."""
        prefix = f"{self.base}/"
        return tuple(topic[len(prefix) :].split("/")) if topic.startswith(prefix) else ()

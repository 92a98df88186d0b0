"""Messages of nodes, decoded, and what follows for their registrations."""

import re
from ipaddress import IPv6Network
from typing import Final

from galactic.errors import Rejected
from galactic.messages import (
    ENDPOINT_SHARDS,
    EndpointsHead,
    EndpointsShard,
    NodeEndpoints,
    NodeStatus,
    decode,
)
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import EPOCH_MAX, NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.srv6 import parse_prefix

_NAME: Final = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")

_SHARDS: Final = frozenset(map(str, range(ENDPOINT_SHARDS)))


def is_valid(node: NodeRef) -> bool:
    """Whether these can be names of a cluster and a node, and so levels of a topic."""
    return bool(_NAME.fullmatch(node.cluster) and _NAME.fullmatch(node.node))


def node_ref(cluster: str, node: str) -> NodeRef:
    """The sender of a message, by the levels of its topic. Raises Rejected."""
    ref = NodeRef(cluster, node)
    if not is_valid(ref):
        raise Rejected(f"{cluster!r}, {node!r}: not the names of a cluster and a node", reason="InvalidName")
    return ref


def is_shard(level: str) -> bool:
    """Whether ``endpoints/<level>`` is a shard of a registration, or its head."""
    return level == "head" or level in _SHARDS


def _head(payload: bytes) -> EndpointsHead | None:
    head = decode(EndpointsHead, payload) if payload else None
    if head is not None and len(head.shards) > ENDPOINT_SHARDS:
        raise Rejected(f"{len(head.shards)} shards, {ENDPOINT_SHARDS} at the most", reason="Oversized")
    return head


class Decoder:
    """One message at a time. ``standalone``: the nodes themselves name their SRv6 prefixes, inside ``block`` if any."""

    def __init__(
        self,
        nodes: Registrations,
        liveness: NodeLiveness,
        metrics: RouterMetrics,
        *,
        standalone: bool,
        block: IPv6Network | None = None,
    ) -> None:
        self._nodes, self._liveness, self._metrics = nodes, liveness, metrics
        self._standalone, self._block = standalone, block
        self.without_prefix: set[NodeRef] = set()
        """Nodes whose status has no prefix: a Last Will may not know it."""

    def decode(self, node: NodeRef, kind: str, payload: bytes) -> None:
        """``kind``: the levels of the topic after the node. Raises Rejected."""
        match kind.split("/"):
            case ("status",):
                self._status(node, payload)
            case ("endpoints",):
                # Cleared, it detaches nothing.
                self._register(node, decode(NodeEndpoints, payload) if payload else None)
            case ("endpoints", "head"):
                self._register(node, self._nodes.shards.set_head(node, _head(payload)))
            case ("endpoints", level):
                shard = decode(EndpointsShard, payload) if payload else None
                self._register(node, self._nodes.shards.set_shard(node, int(level), shard))

    def _register(self, node: NodeRef, registration: NodeEndpoints | None) -> None:
        if registration is None:
            return
        sequence = registration.sequence
        if not 0 <= sequence <= EPOCH_MAX:
            raise Rejected(f"sequence {sequence} is not between 0 and {EPOCH_MAX}", reason="SequenceInvalid")
        if not self._nodes.set_endpoints(node, sequence, registration.endpoints):
            raise Rejected(f"sequence {sequence} is not the newest", reason="StaleSequence")
        self._metrics.registered("mqtt")

    def _status(self, node: NodeRef, payload: bytes) -> None:
        status = decode(NodeStatus, payload) if payload else None
        self._liveness.set_status(node, status is None or status.state == "online")
        if not self._standalone:
            return  # the prefix is the NodeSegment's
        if status is None:
            self.without_prefix.discard(node)
            self._nodes.remove(node)
            return
        if not status.prefix:
            self.without_prefix.add(node)
            return
        try:
            prefix = parse_prefix(status.prefix)
        except Rejected as error:
            raise Rejected(str(error), reason="PrefixInvalid") from error
        if self._block is not None and not prefix.subnet_of(self._block):
            raise Rejected(
                f"prefix {prefix} is not in the SRv6 block {self._block}", reason="PrefixOutsideSpace"
            )
        self.without_prefix.discard(node)
        self._nodes.set_prefix(node, prefix)

"""Registrations that come in shards, put together again. No I/O.

A head names the sequence of each shard. The list is whole when exactly these shards are there; a shard of another
sequence belongs to an earlier head or to one that is still to come.
"""

from dataclasses import dataclass, field

from galactic.messages import Endpoint, EndpointsHead, EndpointsShard, NodeEndpoints
from galactic.router.rib.path import NodeRef


@dataclass(slots=True)
class _Parts:
    head: EndpointsHead | None = None
    shards: dict[int, EndpointsShard] = field(default_factory=dict)


class EndpointShards:
    """Of all nodes that have any."""

    def __init__(self) -> None:
        self._nodes: dict[NodeRef, _Parts] = {}

    def __contains__(self, node: NodeRef) -> bool:
        return node in self._nodes

    def set_head(self, node: NodeRef, head: EndpointsHead | None) -> NodeEndpoints | None:
        """The node's head; None: it was cleared, and the shards with it. The registration if it is whole with it."""
        if head is None:
            self.forget(node)
            return None
        parts = self._nodes.setdefault(node, _Parts())
        parts.head = head
        parts.shards = {number: shard for number, shard in parts.shards.items() if number < len(head.shards)}
        return self._whole(node)

    def set_shard(self, node: NodeRef, number: int, shard: EndpointsShard | None) -> NodeEndpoints | None:
        """One shard; None: it was cleared. The registration if it is whole with it."""
        if shard is None:
            if (parts := self._nodes.get(node)) is not None:
                parts.shards.pop(number, None)
            return None
        self._nodes.setdefault(node, _Parts()).shards[number] = shard
        return self._whole(node)

    def forget(self, node: NodeRef) -> None:
        """The node has no shards any more."""
        self._nodes.pop(node, None)

    def missing(self, node: NodeRef) -> list[int]:
        """The shards that the node's head names and that are not there."""
        parts = self._nodes.get(node)
        if parts is None or parts.head is None:
            return []
        return [
            number
            for number, sequence in enumerate(parts.head.shards)
            if (shard := parts.shards.get(number)) is None or shard.sequence != sequence
        ]

    def nodes(self) -> list[NodeRef]:
        return [*self._nodes]

    def _whole(self, node: NodeRef) -> NodeEndpoints | None:
        parts = self._nodes[node]
        if parts.head is None or self.missing(node):
            return None
        endpoints: list[Endpoint] = []
        for number in range(len(parts.head.shards)):
            endpoints += parts.shards[number].endpoints
        return NodeEndpoints(parts.head.sequence, tuple(endpoints))

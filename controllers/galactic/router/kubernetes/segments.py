"""Nodes and NodeSegments as the API server has them: SRv6 prefixes, registrations, and which nodes are gone."""

from dataclasses import dataclass, replace
from typing import Self

import structlog

from galactic.crds.nodesegment import NodeSegment
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.kube.resources import NODES_METADATA
from galactic.messages import Endpoint
from galactic.router.kubernetes.objects import parsed
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.srv6 import parse_prefix

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Segment:
    """The part of a NodeSegment that is kept. ``owned``: by a Node, with which it goes."""

    prefix: str
    sequence: int
    endpoints: tuple[Endpoint, ...]
    owned: bool

    @classmethod
    def of(cls, segment: NodeSegment) -> Self:
        status = segment.status
        endpoints = tuple(
            Endpoint(
                endpoint.vpc,
                endpoint.function,
                endpoint.attachment,
                endpoint.sid,
                endpoint.networks,
                endpoint.epoch,
            )
            for endpoint in status.endpoints
        )
        owned = any(owner.kind == NODES_METADATA.kind for owner in segment.metadata.owner_references)
        return cls(segment.spec.prefix, status.sequence, endpoints, owned)


class SegmentIndex:
    """The nodes of one cluster, by their NodeSegments and Nodes.

    A node counts until its NodeSegment or its Node is deleted; one that never had a Node needs none.
    """

    def __init__(self, cluster: str, registrations: Registrations, metrics: RouterMetrics) -> None:
        self._cluster, self._registrations, self._metrics = cluster, registrations, metrics
        self._nodes: dict[str, str] = {}  # name → UID
        self._segments: dict[str, _Segment] = {}
        self._deleted: set[str] = set()  # Nodes whose deletion was seen
        self._nodes_listed = False

    def set_node(self, key: Key, new: Object | None) -> None:
        """A Node as it is now; None: it is deleted."""
        name = key[1]
        if new is None:
            del self._nodes[name]
            self._deleted.add(name)
        else:
            self._nodes[name] = new["metadata"].get("uid", "")
            self._deleted.discard(name)
        if name in self._segments:
            self._apply(name)
        elif new is None:
            self.set_segment(key, None)

    def set_segment(self, key: Key, new: Object | None) -> None:
        """A NodeSegment as it is now; None: it is deleted."""
        name = key[1]
        if new is None:
            self._segments.pop(name, None)
            self._deleted.discard(name)  # made again by hand, it needs no Node
            self._registrations.remove(NodeRef(self._cluster, name))
            return
        segment = parsed(NodeSegment, key, new, self._metrics)
        if segment is not None:
            self._segments[name] = _Segment.of(segment)
        self._apply(name)

    def _apply(self, name: str) -> None:
        """Passes the NodeSegment on, as far as its node is there."""
        ref, segment = NodeRef(self._cluster, name), self._segments.get(name)
        if segment is None:
            return
        if name in self._deleted or self._orphaned(name, segment):
            self._registrations.remove(ref)
            return
        try:
            self._registrations.set_prefix(ref, parse_prefix(segment.prefix))
        except Rejected as error:
            self._metrics.rejected("PrefixInvalid")
            log.warning("NodeSegment has no valid prefix", node=name, error=str(error))
            self._registrations.set_prefix(ref, None)
        try:
            if self._registrations.set_endpoints(ref, segment.sequence, segment.endpoints):
                self._metrics.registered("kubernetes")
        except Rejected as error:
            self._metrics.rejected(error.reason)
            log.warning(
                "NodeSegment's endpoints not applied", node=name, reason=error.reason, error=str(error)
            )
        if (shared := self._registrations.endpoints(ref)) == segment.endpoints:
            self._segments[name] = replace(segment, endpoints=shared)  # not two of each

    def departed(self, node: NodeRef) -> bool:
        """Whether the node is this cluster's, and has neither a Node nor a NodeSegment."""
        name = node.node
        own = node.cluster == self._cluster and self._nodes_listed
        return own and name not in self._nodes and name not in self._segments

    def nodes_listed(self) -> None:
        """All Nodes are known: NodeSegments of those that are not there are orphaned."""
        self._nodes_listed = True
        for name, segment in [*self._segments.items()]:
            if self._orphaned(name, segment):
                self._apply(name)

    def _orphaned(self, name: str, segment: _Segment) -> bool:
        """Whether its Node was deleted while no router watched, and the garbage collector has not come to it yet."""
        return segment.owned and self._nodes_listed and name not in self._nodes

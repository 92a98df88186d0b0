"""Nodes and NodeSegments as the API server has them: SRv6 prefixes, registrations, and which nodes are gone."""

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


class SegmentIndex:
    """Of one cluster.

    A node counts until its NodeSegment or its Node is deleted; one that never had a Node needs none.
    """

    def __init__(self, cluster: str, registrations: Registrations, metrics: RouterMetrics) -> None:
        self._cluster, self._registrations, self._metrics = cluster, registrations, metrics
        self._nodes: dict[str, str] = {}  # name → UID
        self._segments: dict[str, Object] = {}
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
        if name in self._segments or new is None:
            self.set_segment(key, self._segments.get(name))

    def set_segment(self, key: Key, new: Object | None) -> None:
        """A NodeSegment as it is now; None: it is deleted."""
        name = key[1]
        ref = NodeRef(self._cluster, name)
        self._segments[name] = new or {}
        if new is None:
            del self._segments[name]
            self._deleted.discard(name)  # made again by hand, it needs no Node
        if new is None or name in self._deleted or self._orphaned(new):
            self._registrations.remove(ref)
            return
        segment = parsed(NodeSegment, key, new, self._metrics)
        if segment is None:
            return
        try:
            self._registrations.set_prefix(ref, parse_prefix(segment.spec.prefix))
        except Rejected as error:
            self._metrics.rejected("PrefixInvalid")
            log.warning("NodeSegment has no valid prefix", node=name, error=str(error))
            self._registrations.set_prefix(ref, None)
        endpoints = tuple(
            Endpoint(
                endpoint.vpc,
                endpoint.function,
                endpoint.attachment,
                endpoint.sid,
                endpoint.networks,
                endpoint.epoch,
            )
            for endpoint in segment.status.endpoints
        )
        try:
            if self._registrations.set_endpoints(ref, segment.status.sequence, endpoints):
                self._metrics.registered("kubernetes")
        except Rejected as error:
            self._metrics.rejected(error.reason)
            log.warning(
                "NodeSegment's endpoints not applied", node=name, reason=error.reason, error=str(error)
            )

    def nodes_listed(self) -> None:
        """All Nodes are known: NodeSegments of those that are not there are orphaned."""
        self._nodes_listed = True
        for name, segment in [*self._segments.items()]:
            self.set_segment(("", name), segment)

    def _orphaned(self, segment: Object) -> bool:
        """Whether its Node was deleted while no router watched, and the garbage collector has not come to it yet."""
        meta = segment["metadata"]
        owned = any(owner.get("kind") == NODES_METADATA.kind for owner in meta.get("ownerReferences") or ())
        return owned and self._nodes_listed and meta["name"] not in self._nodes

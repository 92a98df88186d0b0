"""Messages of nodes, decoded, and what follows for their registrations."""

import re
from ipaddress import IPv6Network
from typing import Final

from galactic.errors import Rejected
from galactic.messages import NodeEndpoints, NodeStatus, decode
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import EPOCH_MAX, NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.srv6 import parse_prefix

_NAME: Final = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")


def is_valid(node: NodeRef) -> bool:
    """Whether these can be names of a cluster and a node, and so levels of a topic."""
    return bool(_NAME.fullmatch(node.cluster) and _NAME.fullmatch(node.node))


def node_ref(cluster: str, node: str) -> NodeRef:
    """The sender of a message, by the levels of its topic. Raises Rejected."""
    ref = NodeRef(cluster, node)
    if not is_valid(ref):
        raise Rejected(f"{cluster!r}, {node!r}: not the names of a cluster and a node", reason="InvalidName")
    return ref


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
        """``kind`` is the last level of the topic. Raises Rejected."""
        (self._endpoints if kind == "endpoints" else self._status)(node, payload)

    def _endpoints(self, node: NodeRef, payload: bytes) -> None:
        if not payload:
            return  # the retained message was cleared, which detaches nothing
        registration = decode(NodeEndpoints, payload)
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

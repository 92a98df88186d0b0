"""What nodes say, decoded and put into the store."""

import re
from collections.abc import Callable
from ipaddress import IPv6Network
from typing import Final

from galactic.errors import Rejected
from galactic.messages import NodeEndpoints, NodeStatus, decode
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import EPOCH_MAX, NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import parse_prefix

_NAME: Final = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?")


def named(origin: NodeRef) -> bool:
    """Whether these can be names of a cluster and a node, and so levels of a topic."""
    return bool(_NAME.fullmatch(origin.cluster) and _NAME.fullmatch(origin.node))


def origin_of(cluster: str, node: str) -> NodeRef:
    """Whoever says something, by the levels of the topic. Raises Rejected."""
    origin = NodeRef(cluster, node)
    if not named(origin):
        raise Rejected(f"{cluster!r}, {node!r}: no names of a cluster and a node", reason="InvalidName")
    return origin


class Decoder:
    """Takes one message at a time; each raises Rejected what cannot be believed as it is."""

    def __init__(
        self,
        store: Store,
        metrics: RouterMetrics,
        *,
        prefixes: bool,
        space: IPv6Network | None,
        state: Callable[[NodeRef, bool], None],
    ) -> None:
        """As ``inbox.Inbox``."""
        self._store, self._metrics = store, metrics
        self._prefixes, self._space, self._state = prefixes, space, state
        self.unplaced: set[NodeRef] = set()
        """Nodes whose status does not say a prefix: a Last Will may not know it."""

    def take(self, origin: NodeRef, kind: str, payload: bytes) -> None:
        """``kind`` is the last level of its topic."""
        (self._endpoints if kind == "endpoints" else self._status)(origin, payload)

    def _endpoints(self, origin: NodeRef, payload: bytes) -> None:
        if not payload:
            return  # somebody cleared the retained message: that says nothing about what is attached
        said = decode(NodeEndpoints, payload)
        if not 0 <= said.sequence <= EPOCH_MAX:
            raise Rejected(f"{said.sequence} is no sequence", reason="SequenceInvalid")
        if not self._store.registered(origin, said.sequence, said.endpoints):
            raise Rejected(f"sequence {said.sequence} is not the newest", reason="StaleSequence")
        self._metrics.registered("mqtt")

    def _status(self, origin: NodeRef, payload: bytes) -> None:
        said = decode(NodeStatus, payload) if payload else None
        self._state(origin, said is None or said.state == "online")
        if not self._prefixes:
            return  # the prefix is the NodeSegment's
        if said is None:
            self.unplaced.discard(origin)
            self._store.removed(origin)
            return
        if not said.prefix:
            self.unplaced.add(origin)
            return
        try:
            prefix = parse_prefix(said.prefix)
        except Rejected as error:
            raise Rejected(str(error), reason="PrefixInvalid") from error
        if self._space is not None and not prefix.subnet_of(self._space):
            raise Rejected(f"{prefix} is not in {self._space}", reason="PrefixOutsideSpace")
        self.unplaced.discard(origin)
        self._store.prefixed(origin, prefix)

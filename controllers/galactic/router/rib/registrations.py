"""Each node's registration, over MQTT or in Kubernetes, and the paths that its endpoints become once checked."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from sys import intern

import msgspec

from galactic.errors import Rejected
from galactic.messages import Endpoint, Route
from galactic.router.rib.attachments import KnownAttachments
from galactic.router.rib.endpoint_shards import EndpointShards
from galactic.router.rib.path import (
    HORIZON_NS,
    Attachment,
    NodePaths,
    NodeRef,
    Rejection,
    Segment,
    SomeAttachments,
    node_paths,
)
from galactic.router.rib.prefix_owners import PrefixOwners, prefix_taken
from galactic.router.rib.vpc_tables import VpcTables


@dataclass(slots=True)
class _Node:
    """One node's last registration, and its paths."""

    prefix: IPv6Network | None = None
    sequence: int = -1
    endpoints: tuple[Endpoint, ...] = ()
    paths: NodePaths = field(default_factory=NodePaths)
    withdrawn: bool = False


class Registrations:
    """By node, and the attachments to check them against. ``check`` puts what follows into the tables."""

    def __init__(
        self,
        tables: VpcTables,
        changed: asyncio.Event,
        *,
        checked: bool,
        listed: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``checked``, ``listed``: see ``KnownAttachments``."""
        self._tables, self._changed, self._clock = tables, changed, clock
        self._prefixes = None if checked else PrefixOwners()  # in Kubernetes the operator assigns them
        self._attachments = KnownAttachments(checked=checked, listed=listed)
        self._nodes: dict[NodeRef, _Node] = {}
        self._unchecked: set[NodeRef] = set()
        self._rejections: list[Rejection] = []  # that came since they were taken last
        self.shards = EndpointShards()
        self.offline: set[NodeRef] = set()
        self._came_or_went: set[NodeRef] = set()  # since the last check

    # -- writers -----------------------------------------------------------------------------------------------------

    def set_endpoints(self, node: NodeRef, sequence: int, endpoints: tuple[Endpoint, ...]) -> bool:
        """All endpoints of a node. False when a newer sequence is known, or other endpoints of the same one.

        A sequence from after the horizon replaces none from before it (raises Rejected), and any from before it
        replaces one from after it: otherwise one such message would silence the node. Where nothing else is known it
        is accepted, so that a node with a wrong clock keeps its routes when a router restarts.
        """
        known = self._nodes.setdefault(node, _Node())
        horizon = self._clock() + HORIZON_NS
        if 0 < known.sequence <= horizon < sequence:
            raise Rejected(
                f"sequence {sequence} is more than a day ahead of the router's clock; correct the node's clock, or the"
                " router's",
                reason="SequenceInFuture",
            )
        if sequence <= known.sequence and not sequence <= horizon < known.sequence:
            return sequence == known.sequence and endpoints == known.endpoints
        endpoints = _shared(known.endpoints, endpoints)
        self._attachments.index(node, known.endpoints, endpoints)
        known.sequence, known.endpoints = sequence, endpoints
        self._mark((node,))
        return True

    def endpoints(self, node: NodeRef) -> tuple[Endpoint, ...]:
        """All endpoints of a node, as last accepted."""
        return known.endpoints if (known := self._nodes.get(node)) is not None else ()

    def set_prefix(self, node: NodeRef, prefix: IPv6Network | None) -> None:
        """The SRv6 prefix of a node; None: it has no valid one."""
        known = self._nodes.setdefault(node, _Node())
        if known.prefix != prefix:
            known.prefix = prefix
            if self._prefixes is not None:
                self._prefixes.name(node, prefix)
            self._mark((node,))

    def remove(self, node: NodeRef) -> None:
        """The node is no more: its registration is forgotten, the sequence included."""
        self.shards.forget(node)
        if (known := self._nodes.get(node)) is not None:
            self._attachments.index(node, known.endpoints, ())
            known.prefix, known.sequence, known.endpoints = None, -1, ()
            if self._prefixes is not None:
                self._prefixes.name(node, None)
            self._mark((node,))

    def set_offline(self, node: NodeRef, offline: bool) -> None:
        """Marks a node as offline: its late messages do not outdo a node that is online (``table``)."""
        if (node in self.offline) != offline:
            (self.offline.add if offline else self.offline.discard)(node)
            self._came_or_went.add(node)
            self._changed.set()

    def withdraw(self, node: NodeRef, withdrawn: bool) -> None:
        """A withdrawn node has no paths, whatever it registers."""
        if (known := self._nodes.get(node)) is not None and known.withdrawn != withdrawn:
            known.withdrawn = withdrawn
            self._mark((node,))

    def set_attachment(self, name: str, attachment: Attachment | None) -> None:
        """A VPCAttachment (``namespace/name``) as it is now, in Kubernetes; None: it is no more."""
        if nodes := self._attachments.put(name, attachment):
            self._mark(nodes)

    def set_identifiers(self, name: str, vpc: int | None) -> None:
        """The identifier of the VPC of that VPCAttachment, if there is one of that name, is another one now."""
        if (known := self._attachments.get(name)) is not None:
            self.set_attachment(name, msgspec.structs.replace(known, vpc=vpc))

    def amend_attachments(
        self, cluster: str, changed: Mapping[str, Attachment | None], *, complete: bool
    ) -> None:
        """Standalone: changes of the list that a cluster publishes, see ``KnownAttachments.amend``."""
        everything, nodes = self._attachments.amend(cluster, changed, complete=complete)
        if everything:
            nodes |= {node for node in self._nodes if node.cluster == cluster}
        if nodes:
            self._mark(nodes)

    @property
    def unlisted(self) -> frozenset[str]:
        """Clusters whose endpoints cannot be checked, as their list is not complete or there is none."""
        clusters = {node.cluster for node, known in self._nodes.items() if known.endpoints}
        lists = ((cluster, self._attachments.of(cluster)) for cluster in clusters)
        return frozenset(
            cluster for cluster, known in lists if known is None or isinstance(known, SomeAttachments)
        )

    def install_prefixes(self, routes: Iterable[Route]) -> None:
        """These routes are in force, from before this process: their nodes have the locators of the SIDs."""
        if self._prefixes is not None:
            self._prefixes.install(routes)

    # -- readers -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes)

    def is_registered(self, node: NodeRef) -> bool:
        """Whether that node's endpoints are known."""
        return (known := self._nodes.get(node)) is not None and known.sequence >= 0

    def vpc_name(self, cluster: str, name: str, vpc: int) -> str:
        """Standalone: the VPC (namespace/name) of an attachment in its cluster's list, if it has that identifier."""
        known = (self._attachments.of(cluster) or {}).get(name)
        return known.vpc_name if known is not None and known.vpc == vpc else ""

    def segments(self) -> dict[NodeRef, Segment]:
        """All registrations, as ``table.table`` takes them."""
        return {node: Segment(known.prefix, known.endpoints) for node, known in self._nodes.items()}

    def prefix_conflicts(self) -> Mapping[NodeRef, NodeRef]:
        """Nodes whose prefix belongs to another node, and that node, as of the last check."""
        return self._prefixes.conflicts if self._prefixes is not None else {}

    def rejections(self) -> list[Rejection]:
        """Endpoints that are no paths, as of the last check."""
        return [rejection for known in self._nodes.values() for rejection in known.paths.rejections]

    def rejection(self, like: Rejection) -> Rejection | None:
        """The one that holds now, as of the last check, for the same node, attachment and reason."""
        known = self._nodes.get(like.origin)
        for rejection in known.paths.rejections if known else ():
            if (rejection.attachment, rejection.reason) == (like.attachment, like.reason):
                return rejection
        return None

    def rejected(self, reason: str) -> int:
        """How many endpoints are rejected for that reason, as of the last check."""
        return sum(rejection.reason == reason for rejection in self.rejections())

    # -- checks ------------------------------------------------------------------------------------------------------

    @property
    def unchecked(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._unchecked or self._came_or_went)

    def check(self, at_most: int) -> bool:
        """Checks so many endpoints, or those of one node. Whether there are more."""
        for node in self._came_or_went:
            self._reconsider(node)
        self._came_or_went.clear()
        if self._prefixes is not None:
            self._unchecked |= self._prefixes.settle() & self._nodes.keys()
        while self._unchecked and at_most > 0:
            node = self._unchecked.pop()
            at_most -= 1 + len(self._nodes[node].endpoints)
            self._check(node)
        return bool(self._unchecked)

    def new_rejections(self) -> list[Rejection]:
        """Those that were not there when this was called last."""
        rejections, self._rejections = self._rejections, []
        return rejections

    def _reconsider(self, node: NodeRef) -> None:
        """A node came or went: other nodes' paths of its attachments may count now, or no more."""
        known = self._nodes.get(node)
        for path in known.paths.paths.values() if known else ():
            self._tables.reconsider(path.identity)

    def _check(self, node: NodeRef) -> None:
        known = self._nodes[node]
        before = known.paths
        if known.withdrawn:
            now = NodePaths()
        elif (owner := self.prefix_conflicts().get(node)) is not None:
            now = NodePaths({}, (prefix_taken(node, known.prefix, owner),))
        else:
            attachments = self._attachments.of(node.cluster)
            now = node_paths(node, Segment(known.prefix, known.endpoints), attachments)
        known.paths = now
        for sid in before.paths.keys() - now.paths.keys():  # before others come: the prefix may be another
            self._tables.set_path(before.paths[sid].identity, node, None)
        for sid, path in now.paths.items():
            same = before.paths.get(sid)
            if path == same:
                now.paths[sid] = same  # the one that the tables have: not two of each
            else:
                self._tables.set_path(path.identity, node, path)
        if known.prefix is None and known.sequence < 0:
            del self._nodes[node]
        old = set(before.rejections)
        self._rejections += (rejection for rejection in now.rejections if rejection not in old)

    def _mark(self, nodes: Iterable[NodeRef]) -> None:
        self._unchecked.update(nodes)
        self._changed.set()


def _shared(known: tuple[Endpoint, ...], new: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The new endpoints; those that are known already are the very objects, whose strings the tables have."""
    by_sid = {endpoint.sid: endpoint for endpoint in known}
    return tuple(
        same
        if (same := by_sid.get(endpoint.sid)) == endpoint
        else msgspec.structs.replace(endpoint, vpc=intern(endpoint.vpc))
        for endpoint in new
    )

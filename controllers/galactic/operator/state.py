"""The caches of all kinds, their indexes, and who gets their differences.

Nothing here is awaited, so the caches do not change between two reads without an await.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.kube.api import Key
from galactic.kube.ordinals import StatefulSet, parse_stateful_set
from galactic.kube.reflector import Selection
from galactic.kube.resources import (
    ENDPOINT_SLICES,
    NADS,
    NAMESPACES,
    NODE_SEGMENTS,
    NODES,
    PODS,
    POLICY_SLICES,
    SERVICES,
    STATEFUL_SETS,
    VPC_ATTACHMENTS,
    VPC_GATEWAYS,
    VPC_POLICIES,
    VPCS,
    Resource,
)
from galactic.names import (
    ATTACHMENT_LABEL,
)
from galactic.operator import objects, record
from galactic.operator.attachment_counts import AttachmentCounts
from galactic.operator.cache import Cache, PackedCache
from galactic.operator.objects import Agent, Invalid, Nad, Node, Pod, PolicyPart
from galactic.operator.slices import MANAGED_BY, MANAGER, Slice, parse_slice
from galactic.validation.services import VpcService, parse_service


class Listener:
    """Gets the differences of the caches. Its methods do nothing."""

    def vpc_changed(self, key: Key, old: "Vpc | Invalid | None", new: "Vpc | Invalid | None") -> None: ...
    def attachment_changed(
        self, key: Key, old: "VpcAttachment | Invalid | None", new: "VpcAttachment | Invalid | None"
    ) -> None: ...
    def gateway_changed(
        self, key: Key, old: "VpcGateway | Invalid | None", new: "VpcGateway | Invalid | None"
    ) -> None: ...
    def nad_changed(self, key: Key, _old: Nad | None, _new: Nad | None) -> None: ...
    def segment_changed(
        self, key: Key, _old: "NodeSegment | Invalid | None", new: "NodeSegment | Invalid | None"
    ) -> None: ...
    def node_changed(self, key: Key, old: Node | None, new: Node | None) -> None: ...
    def namespace_changed(self, key: Key, old: Meta | None, new: Meta | None) -> None: ...
    def pod_changed(self, key: Key, old: Pod | None, new: Pod | None) -> None: ...
    def agent_changed(self, key: Key, old: Agent | None, new: Agent | None) -> None: ...
    def service_changed(self, key: Key, old: VpcService | None, new: VpcService | None) -> None: ...
    def slice_changed(self, key: Key, old: Slice | None, new: Slice | None) -> None: ...
    def policy_changed(
        self, key: Key, old: "VpcPolicy | Invalid | None", new: "VpcPolicy | Invalid | None"
    ) -> None: ...
    def policy_part_changed(self, key: Key, old: PolicyPart | None, new: PolicyPart | None) -> None: ...
    def stateful_set_changed(self, key: Key, old: StatefulSet | None, new: StatefulSet | None) -> None: ...


AGENTS: Final = "app.kubernetes.io/name=galactic,app.kubernetes.io/component=node"
"""The labels that the chart puts on the node controller's Pods."""


class Caches:
    """One cache a kind. ``namespace``: Galactic's own, where the node controller's Pods are."""

    def __init__(self, namespace: str = "galactic-system") -> None:
        self.namespace = namespace
        self.vpcs: Cache[Vpc | Invalid] = Cache(Selection(VPCS), objects.vpc)
        self.attachments: Cache[VpcAttachment | Invalid] = PackedCache(
            Selection(VPC_ATTACHMENTS), objects.attachment, record.attachment
        )
        self.gateways: Cache[VpcGateway | Invalid] = Cache(Selection(VPC_GATEWAYS), objects.gateway)
        self.nads: Cache[Nad] = PackedCache(Selection(NADS), objects.nad, record.nad)
        self.segments: Cache[NodeSegment | Invalid] = Cache(Selection(NODE_SEGMENTS), objects.segment)
        self.nodes: Cache[Node] = Cache(Selection(NODES), objects.node)
        self.namespaces: Cache[Meta] = Cache(Selection(NAMESPACES), objects.metadata)
        self.pods: Cache[Pod] = PackedCache(Selection(PODS, labels=ATTACHMENT_LABEL), objects.pod, record.pod)
        self.agents: Cache[Agent] = Cache(Selection(PODS, namespace, labels=AGENTS), objects.agent, "Agent")
        self.stateful_sets: Cache[StatefulSet] = Cache(Selection(STATEFUL_SETS), parse_stateful_set)
        self.policies: Cache[VpcPolicy | Invalid] = Cache(Selection(VPC_POLICIES), objects.policy)
        self.policy_parts: Cache[PolicyPart] = Cache(Selection(POLICY_SLICES), objects.policy_part)
        self.attachment_counts = AttachmentCounts()
        self.services: Cache[VpcService] = Cache(Selection(SERVICES), parse_service)
        self.slices: Cache[Slice] = Cache(
            Selection(ENDPOINT_SLICES, labels=f"{MANAGED_BY}={MANAGER}"), parse_slice
        )
        self._carriers: dict[Key, set[Key]] = {}  # attachment → Pods that carry it
        self._reporters: dict[str, tuple[str, ...]] = {}  # attachment → nodes whose NodeSegment lists it
        self.listen(Listener())

    def listen(self, listener: Listener) -> None:
        """Every difference from now on goes to the listener."""
        self._listener = listener
        self.vpcs.changed = listener.vpc_changed
        self.attachments.changed = self._attachment_changed
        self.gateways.changed = listener.gateway_changed
        self.nads.changed = listener.nad_changed
        self.segments.changed = self._segment_changed
        self.nodes.changed = listener.node_changed
        self.namespaces.changed = listener.namespace_changed
        self.pods.changed = self._pod_changed
        self.agents.changed = listener.agent_changed
        self.stateful_sets.changed = listener.stateful_set_changed
        self.services.changed = listener.service_changed
        self.slices.changed = listener.slice_changed
        self.policies.changed = listener.policy_changed
        self.policy_parts.changed = listener.policy_part_changed

    def observe_attachments(self, observer: Callable[[Key, "VpcAttachment | Invalid | None"], None]) -> None:
        """Each attachment that differs goes to the observer, after the listener."""
        listener = self.attachments.changed

        def changed(
            key: Key, old: "VpcAttachment | Invalid | None", new: "VpcAttachment | Invalid | None"
        ) -> None:
            listener(key, old, new)
            observer(key, new)

        self.attachments.changed = changed

    def observe_vpcs(self, observer: Callable[[Key, "Vpc | Invalid | None"], None]) -> None:
        """Each VPC that differs goes to the observer, after the listener."""
        listener = self.vpcs.changed

        def changed(key: Key, old: "Vpc | Invalid | None", new: "Vpc | Invalid | None") -> None:
            listener(key, old, new)
            observer(key, new)

        self.vpcs.changed = changed

    @property
    def by_kind(self) -> tuple[Cache[Any], ...]:
        return (
            self.namespaces,
            self.nodes,
            self.segments,
            self.vpcs,
            self.nads,
            self.pods,
            self.agents,
            self.stateful_sets,
            self.services,
            self.slices,
            self.policies,
            self.policy_parts,
            self.gateways,
            self.attachments,
        )

    @property
    def reflected(self) -> tuple[Cache[Any], ...]:
        """Those of kinds with many objects, or of which few are Galactic's."""
        owned = (self.nads, self.attachments, self.slices)
        return (
            *owned,
            self.pods,
            self.agents,
            self.stateful_sets,
            self.services,
            self.policies,
            self.policy_parts,
            self.gateways,
        )

    def of(self, resource: Resource) -> Cache[Any]:
        """The cache of a kind; of Pods, those with an attachment."""
        return next(cache for cache in self.by_kind if cache.selection.resource == resource)

    def reports(self, node: str) -> bool:
        """Whether the node controller's Pod there is ready. True where the cluster has no such Pods."""
        return not len(self.agents) or self.agent(node) is True

    def agent(self, node: str) -> bool | None:
        """Whether the node controller's Pod on the node is ready; None without such a Pod."""
        ready = [agent.ready for _, agent in self.agents.items() if agent.node == node]
        return any(ready) if ready else None

    def carriers(self, attachment: Key) -> list[Key]:
        """The live Pods that carry the attachment."""
        return [
            key
            for key in sorted(self._carriers.get(attachment, ()))
            if (pod := self.pods.get(key)) is not None and pod.live
        ]

    def reporters(self, attachment: Key) -> tuple[str, ...]:
        """The nodes whose NodeSegment lists the attachment."""
        return self._reporters.get("/".join(attachment), ())

    def reported(self, attachment: Key) -> Iterator[SegmentEndpoint]:
        """The attachment's endpoints, as NodeSegments list them."""
        name = "/".join(attachment)
        for node in self.reporters(attachment):
            segment = self.segments.get(("", node))
            if isinstance(segment, NodeSegment):
                yield from (endpoint for endpoint in segment.status.endpoints if endpoint.attachment == name)

    def _attachment_changed(
        self, key: Key, old: "VpcAttachment | Invalid | None", new: "VpcAttachment | Invalid | None"
    ) -> None:
        self.attachment_counts.set(key, new.problem if isinstance(new, Invalid) else new)
        self._listener.attachment_changed(key, old, new)

    def _segment_changed(
        self, key: Key, old: "NodeSegment | Invalid | None", new: "NodeSegment | Invalid | None"
    ) -> None:
        before, after = _listed(old), _listed(new)
        for name in before ^ after:
            others = tuple(node for node in self._reporters.pop(name, ()) if node != key[1])
            if nodes := (*others, key[1]) if name in after else others:
                self._reporters[name] = nodes
        self._listener.segment_changed(key, old, new)

    def _pod_changed(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        for pod in (old, new):
            if pod is not None:
                for attachment in ((key[0], name) for name in pod.attachments):
                    carriers = self._carriers.setdefault(attachment, set())
                    (carriers.add if pod is new else carriers.discard)(key)
                    if not carriers:
                        del self._carriers[attachment]
        self._listener.pod_changed(key, old, new)

    def terminating(self, namespace: str) -> bool:
        """Whether the namespace is being deleted."""
        meta = self.namespaces.get(("", namespace))
        return meta is not None and meta.deletion_timestamp is not None


def _listed(segment: NodeSegment | Invalid | None) -> set[str]:
    """The names of the attachments on a node."""
    if not isinstance(segment, NodeSegment):
        return set()
    return {endpoint.attachment for endpoint in segment.status.endpoints}

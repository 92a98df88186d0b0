"""Which objects a change marks dirty: the reconcilers' dependencies on each other's objects."""

import contextlib
from ipaddress import ip_interface
from typing import Final

from galactic.crds.model import Meta
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.kube.api import Key
from galactic.kube.conditions import READY
from galactic.kube.ordinals import StatefulSet
from galactic.names import STATEFUL_SET_LABEL, label_value
from galactic.operator import attached
from galactic.operator.attachment_counts import reference
from galactic.operator.context import ReconcileContext
from galactic.operator.objects import Agent, Invalid, Nad, Node, Pod, PolicyPart
from galactic.operator.peering import Peers
from galactic.operator.policies.changes import PolicyChanges
from galactic.operator.policies.reconciler import Policies, unable_to_enforce
from galactic.operator.route_reporting import PATIENCE_SECONDS, arrived
from galactic.operator.segments import Segments
from galactic.operator.services.index import Index, attachment_view, pod_view
from galactic.operator.slices import Slice
from galactic.operator.state import Listener
from galactic.operator.vpcs import COUNT_SECONDS, count_delay
from galactic.validation.networks import Network, host
from galactic.validation.services import VpcService

SETTLE_SECONDS: Final = 0.1
"""For which a Service waits for further changes of its Pods."""


BINDING_SECONDS: Final = 1.0
"""For which a Pod waits for its Node: its attachment is then made with the Node's label, and its first status has the
carrier, which saves two writes. A bound Pod waits no longer: a kubelet asks for its attachment at once.
"""


class Triggers(Listener):
    """Gets every difference that the caches see, and marks what depends on it."""

    def __init__(
        self, context: ReconcileContext, segments: Segments, index: Index, peers: Peers, policies: Policies
    ) -> None:
        self._peers = peers
        self._queue, self._caches, self._allocator = context.queue, context.caches, context.allocator
        self._segments, self._index = segments, index
        self._policies = PolicyChanges(context.queue, policies)
        self._members: dict[Key, set[Key]] = {}  # VPC → the attachments that name it
        self._places: dict[Key, set[Key]] = {}  # namespace, STATEFUL_SET_LABEL → its attachments
        self._publishing: dict[str, set[Key]] = {}  # namespace → gateways that publish

    def vpc_changed(self, key: Key, old: Vpc | Invalid | None, new: Vpc | Invalid | None) -> None:
        self._queue.add(("vpc", key))
        for peer in self._peers.changed(key, old, new):
            if peer in self._caches.vpcs:
                self._queue.add(("vpc", peer))
        self._policies.vpc(key, old, new)
        if _vpc_view(old) != _vpc_view(new):
            for attachment in self._members.get(key, ()):
                self._queue.add(("attachment", attachment))
            for service in self._index.of_vpc(key):
                self._queue.add(("service", service), SETTLE_SECONDS)
            self._gateways()

    def attachment_changed(
        self, key: Key, old: VpcAttachment | Invalid | None, new: VpcAttachment | Invalid | None
    ) -> None:
        self._queue.add(("attachment", key))
        self._policies.attachment(key, new)
        before, after = _vpc_of(old), _vpc_of(new)
        if before != after:
            if before:
                self._members.get(before, set()).discard(key)
                if not self._members.get(before):
                    self._members.pop(before, None)
            if after:
                self._members.setdefault(after, set()).add(key)
        if after and _attached(old) != _attached(new):
            self._queue.add(("vpc", after), count_delay(self._caches.vpcs.get(after)))
        if old is None or new is None or _spec(old) != _spec(new):
            self._allocator.name(key, after, _named(new))
        self._place(key, old, new)
        self._publish(key[0], _published_view(old), _published_view(new))
        for pod in self._caches.carriers(key):
            if attachment_view(old) != attachment_view(new):
                self._select(pod[0], self._caches.pods.get(pod))
            if new is None:
                self._queue.add(("pod", pod))  # a live pod gets another attachment

    def stateful_set_changed(self, key: Key, old: StatefulSet | None, new: StatefulSet | None) -> None:
        if old != new:
            for attachment in self._places.get((key[0], label_value(key[1])), ()):
                self._queue.add(("attachment", attachment))

    def _place(
        self, key: Key, old: VpcAttachment | Invalid | None, new: VpcAttachment | Invalid | None
    ) -> None:
        before, after = _stateful_set(old), _stateful_set(new)
        if before == after:
            return
        if before:
            places = self._places.get((key[0], before), set())
            places.discard(key)
            if not places:
                self._places.pop((key[0], before), None)
        if after:
            self._places.setdefault((key[0], after), set()).add(key)

    def service_changed(self, key: Key, old: VpcService | None, new: VpcService | None) -> None:
        self._index.service(key, new)
        if old != new and any(one is not None and one.annotation is not None for one in (old, new)):
            self._queue.add(("service", key))

    def slice_changed(self, key: Key, old: Slice | None, new: Slice | None) -> None:
        for service in self._index.slice(key, old, new):
            self._queue.add(("service", service), SETTLE_SECONDS)

    def _select(self, namespace: str, *pods: Pod | None) -> None:
        """Marks the Services that select one of the Pods: of several changes at once they make one."""
        for service in self._index.selecting(namespace, *pods):
            self._queue.add(("service", service), SETTLE_SECONDS)

    def gateway_changed(
        self, key: Key, old: VpcGateway | Invalid | None, new: VpcGateway | Invalid | None
    ) -> None:
        self._queue.add(("gateway", key))
        publishing = self._publishing.setdefault(key[0], set())
        if isinstance(new, VpcGateway) and new.spec.publish:
            publishing.add(key)
        else:
            publishing.discard(key)
        if new is None or old is None or _gateway_spec(old) != _gateway_spec(new):
            self._gateways(but=key)  # what it has released another may get

    def _publish(self, namespace: str, before: object, after: object) -> None:
        """Marks the gateways that may lead to pods of the namespace: of several changes at once they make one."""
        for gateway in self._publishing.get(namespace, ()) if before != after else ():
            self._queue.add(("gateway", gateway), SETTLE_SECONDS)

    def _gateways(self, but: Key | None = None) -> None:
        """All of them: there are few."""
        for gateway in self._caches.gateways:
            if gateway != but:
                self._queue.add(("gateway", gateway), SETTLE_SECONDS)

    def nad_changed(self, key: Key, _old: Nad | None, _new: Nad | None) -> None:
        if self._caches.attachments.get(key) is not None:
            self._queue.add(("attachment", key))

    def segment_changed(
        self, key: Key, old: NodeSegment | Invalid | None, new: NodeSegment | Invalid | None
    ) -> None:
        self._segments.changed(key, new)
        if _unable(old) != _unable(new):
            for policy in self._caches.policies:
                self._queue.add(("policy", policy))
        before = old if isinstance(old, NodeSegment) else None
        after = new if isinstance(new, NodeSegment) else None
        if _segment_view(before) != _segment_view(after):
            self._gateways()
        for attachment in arrived(before, after):
            self._queue.add(("attachment", attachment), PATIENCE_SECONDS)
        for attachment in attached.changed(before, after):
            self._queue.add(("attachment", attachment), COUNT_SECONDS)

    def node_changed(self, key: Key, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or _node_view(old) != _node_view(new):
            self._queue.add(("node", key))
        if old is None or new is None or _gateway_view(old) != _gateway_view(new):
            self._gateways()

    def agent_changed(self, _key: Key, old: Agent | None, new: Agent | None) -> None:
        for agent in (old, new):
            if agent is not None and old != new:
                self._queue.add(("node", ("", agent.node)))
                self._gateways()

    def policy_changed(
        self, key: Key, _old: VpcPolicy | Invalid | None, new: VpcPolicy | Invalid | None
    ) -> None:
        self._policies.policy(key, new)

    def policy_part_changed(self, key: Key, old: PolicyPart | None, new: PolicyPart | None) -> None:
        self._policies.part(key, old, new)

    def namespace_changed(self, key: Key, old: Meta | None, new: Meta | None) -> None:
        self._policies.namespace(key, new)
        if old and new and (old.labels, old.deletion_timestamp) == (new.labels, new.deletion_timestamp):
            return
        for policy in [policy for policy in self._caches.policies if policy[0] == key[1]]:
            self._queue.add(("policy", policy))
        name = key[1]
        for attachment in [attachment for attachment in self._caches.attachments if attachment[0] == name]:
            self._queue.add(("attachment", attachment))
        for vpc in [vpc for vpc in self._caches.vpcs if vpc[0] == name]:
            self._queue.add(("vpc", vpc))

    def pod_changed(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if new is not None and new.generated and (old is None or _made_of(old) != _made_of(new)):
            self._queue.add(("pod", key), 0.0 if new.node else BINDING_SECONDS)
        self._index.pod(key, exists=new is not None)
        if pod_view(old) != pod_view(new):
            self._select(key[0], old, new)
        self._publish(key[0], pod_view(old), pod_view(new))
        for pod in (old, new):
            if pod is not None and (delay := _delay(old, new)) is not None:
                for attachment in ((key[0], name) for name in pod.attachments):
                    if self._caches.attachments.get(attachment) is not None:
                        self._queue.add(("attachment", attachment), delay)


def _stateful_set(attachment: VpcAttachment | Invalid | None) -> str:
    return "" if attachment is None else attachment.metadata.labels.get(STATEFUL_SET_LABEL, "")


def _vpc_view(vpc: Vpc | Invalid | None) -> object:
    """The part of a VPC that its attachments depend on."""
    if not isinstance(vpc, Vpc):
        return None
    deleting = vpc.metadata.deletion_timestamp is not None
    peers = tuple((peer.namespace, peer.name, peer.networks) for peer in vpc.status.peers if peer.in_force)
    return vpc.spec, vpc.status.ready, vpc.status.identifier, deleting, peers


def _vpc_of(attachment: VpcAttachment | Invalid | None) -> Key | None:
    if not isinstance(attachment, VpcAttachment):
        return None
    return reference(attachment)


def _spec(attachment: VpcAttachment | Invalid) -> object:
    return attachment.spec if isinstance(attachment, VpcAttachment) else None


def _named(attachment: VpcAttachment | Invalid | None) -> frozenset[Network]:
    """The addresses that the specification gives; none where one of them is malformed."""
    if not isinstance(attachment, VpcAttachment):
        return frozenset()
    with contextlib.suppress(ValueError):
        return frozenset(host(ip_interface(text).ip) for text in attachment.spec.interface.addresses)
    return frozenset()


def _published_view(attachment: VpcAttachment | Invalid | None) -> object:
    """The part of an attachment that published ports depend on."""
    if not isinstance(attachment, VpcAttachment):
        return None
    return attachment.metadata.labels, attachment_view(attachment)


def _gateway_spec(gateway: VpcGateway | Invalid) -> object:
    return gateway.spec if isinstance(gateway, VpcGateway) else None


def _segment_view(segment: NodeSegment | None) -> object:
    """The part of a NodeSegment that gateways depend on."""
    if segment is None:
        return None
    ready = [condition.status for condition in segment.status.conditions if condition.type == READY]
    return segment.spec, segment.status.gateways, segment.status.published, ready


def _gateway_view(node: Node) -> object:
    """The part of a Node that gateways depend on."""
    return node.metadata.labels, node.away, node.addresses, node.pod_networks


def _node_view(node: Node) -> object:
    """The part of a Node that its NodeSegment and its taint depend on."""
    return node.metadata.annotations, node.taints


def _pod_view(pod: Pod) -> object:
    """The part of a Pod that its attachment depends on."""
    leaving = pod.metadata.deletion_timestamp is not None
    return pod.metadata.uid, pod.live, pod.node, leaving, pod.ordinal


def _delay(old: Pod | None, new: Pod | None) -> float | None:
    """Seconds until an attachment follows a change of its Pod; None: it need not.

    While a Pod starts, the router writes the endpoint: a status of that moment would be refused, and written again.
    """
    if old is None or new is None or _pod_view(old) != _pod_view(new):
        return 0.0
    return None if old.place.started == new.place.started else COUNT_SECONDS


def _made_of(pod: Pod) -> object:
    """The part of a Pod that its own attachment is made of, and when. A StatefulSet may adopt it later."""
    return pod.metadata.uid, pod.ordinal, pod.node, pod.backend.labels


def _unable(segment: NodeSegment | Invalid | None) -> bool:
    return isinstance(segment, NodeSegment) and unable_to_enforce(segment)


def _attached(attachment: VpcAttachment | Invalid | None) -> bool:
    return isinstance(attachment, VpcAttachment) and attachment.status.endpoint is not None

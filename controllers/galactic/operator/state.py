"""The caches: the API server's objects, parsed once.

Nothing here is awaited, so the caches do not change between two reads without an await.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from galactic.crds.model import Meta, Model, parse, trimmed
from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.kube.api import Key, Object, key_of
from galactic.kube.ordinals import Ordinal, StatefulSet, ordinal, ordinal_attachment, parse_stateful_set
from galactic.kube.pods import Placement, owned, placement
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
    ACCEPTED_ANNOTATION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    NOT_READY_TAINT,
    VPC_ANNOTATION,
)
from galactic.operator import record
from galactic.operator.attachment_counts import AttachmentCounts
from galactic.operator.backends import Backend, backend
from galactic.operator.slices import MANAGED_BY, MANAGER, Slice, parse_slice
from galactic.validation import multus
from galactic.validation.services import VpcService, parse_service

T = TypeVar("T")
S = TypeVar("S", bound=Model)
MESSAGE: Final = 1024
"""Characters of an invalid object's problem."""
REMOVED: Final = 10_000
"""Deleted objects that are remembered, because a late answer about one may still arrive."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that does not fit its model: stored before its schema existed, or around it."""

    metadata: Meta
    problem: Rejected
    status: Mapping[str, Any] = field(default_factory=dict)
    """As the API server has it: an equal status is not written again."""


@dataclass(frozen=True, slots=True)
class Nad:
    """The part of a NetworkAttachmentDefinition that the operator compares."""

    version: str
    owner: str  # UID of the controlling owner, empty for none
    config: str
    labels: Mapping[str, str]  # Galactic's own


@dataclass(frozen=True, slots=True)
class PolicyPart:
    """A PolicySlice. ``spec``: without fields that were never written."""

    version: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a Pod with ATTACHMENT_LABEL that the operator reads."""

    metadata: Meta
    attachment: str  # the name of its attachment
    vpc: str  # VPC_ANNOTATION, empty for none
    generated: bool  # the operator makes the attachment
    live: bool  # has not run to its end
    place: Placement
    owned: bool  # a controller replaces it after its deletion
    further: tuple[
        str, ...
    ] = ()  # names in Multus' annotation, of its own namespace: it may have several attachments
    accepted: tuple[str, ...] | None = None  # ACCEPTED_ANNOTATION
    ordinal: Ordinal | None = None  # its place in a StatefulSet, if its attachment is of that place
    backend: Backend = field(default_factory=Backend)

    @property
    def attachments(self) -> tuple[str, ...]:
        """The names of the attachments that it carries."""
        return tuple(dict.fromkeys((self.attachment, *self.further)))

    @property
    def node(self) -> str:
        """The Node that it is scheduled to; empty before."""
        return self.place.node


@dataclass(frozen=True, slots=True)
class Node:
    """The part of a Node that the operator reads."""

    metadata: Meta
    taints: tuple[Mapping[str, Any], ...]
    addresses: tuple[str, ...] = ()
    pod_networks: tuple[str, ...] = ()

    @property
    def away(self) -> bool:
        """Whether Kubernetes has given the Node up."""
        return any(taint["key"] in AWAY_TAINTS for taint in self.taints)

    @property
    def held_back(self) -> bool:
        """Whether NOT_READY_TAINT keeps pods away."""
        return any(taint["key"] == NOT_READY_TAINT for taint in self.taints)


AWAY_TAINTS: Final = frozenset(
    {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/out-of-service",
    }
)


@dataclass(frozen=True, slots=True)
class Agent:
    """A Pod of the node controller."""

    node: str
    ready: bool


class Cache(Generic[T]):
    """The selected objects of one kind. ``changed(key, old, new)`` is called for every difference, None for absent.

    ``name``: the kind's name in metrics and logs.
    """

    def __init__(self, selection: Selection, read: Callable[[Object], T], name: str = "") -> None:
        self.selection = selection
        self.name = name or selection.resource.kind
        self.changed: Callable[[Key, T | None, T | None], None] = lambda *_: None
        self._read = read
        self._objects: dict[Key, tuple[str, str, Any]] = {}  # uid, resource version, what is stored
        self._clock = 0
        self._touched: dict[Key, int] = {}
        self._removed: OrderedDict[str, tuple[str, int]] = (
            OrderedDict()
        )  # uid → its last version, the clock then

    def _stored(self, item: Object, value: T) -> Any:  # noqa: ARG002
        """The part of the object that is kept, from which ``_value`` makes the value again."""
        return value

    def _value(self, stored: Any) -> T:
        value: T = stored
        return value

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    @property
    def clock(self) -> int:
        """Rises with every change. A list replaces the entries that are older than its request."""
        return self._clock

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def keys(self) -> AbstractSet[Key]:
        return self._objects.keys()

    def changed_since(self, clock: int) -> list[Key]:
        """The objects that were set later; all of them since -1."""
        return [key for key, touched in self._touched.items() if touched > clock]

    def get(self, key: Key) -> T | None:
        entry = self._objects.get(key)
        return self._value(entry[2]) if entry else None

    def items(self) -> Iterator[tuple[Key, T]]:
        return ((key, self._value(entry[2])) for key, entry in self._objects.items())

    def touched(self, key: Key) -> int:
        """The clock's value when the object last changed; 0 for none."""
        return self._touched.get(key, 0)

    def set(self, item: Object) -> None:
        """The object as it is now. An older version is ignored: an answer to a request may arrive after the watch has
        delivered later events, the deletion included.
        """
        key, meta = key_of(item), item["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        if (end := self._removed.get(uid)) and not _newer(version, end[0]):
            return
        entry = self._objects.get(key)
        if entry and entry[0] == uid and not _newer(version, entry[1]):
            return
        self._set(key, uid, version, item)

    def set_listed(self, item: Object, since: int) -> None:
        """The object as it is in a list that was requested at ``since``.

        What has not changed here since then is replaced whatever its version: a restored API server has older ones.
        """
        key, meta = key_of(item), item["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        end, entry = self._removed.get(uid), self._objects.get(key)
        if (end and end[1] > since) or (entry and self._touched[key] > since):
            self.set(item)
        elif entry is None or entry[:2] != (uid, version):
            self._removed.pop(uid, None)
            self._set(key, uid, version, item)

    def forget_versions(self) -> None:
        """The API server has older data than before: an equal version may be another state of the object."""
        self._objects = {key: (uid, "", value) for key, (uid, _, value) in self._objects.items()}
        self._removed.clear()

    def remove(self, key: Key, uid: str = "", version: str = "") -> None:
        """The object was deleted, with that resource version; a namesake with another UID stays."""
        if uid and version:
            self._removed[uid] = version, self._clock + 1
            if len(self._removed) > REMOVED:
                self._removed.popitem(last=False)
        entry = self._objects.get(key)
        if entry and uid in ("", entry[0]):
            self._put(key, None)

    def retain(self, listed: AbstractSet[Key], since: int) -> int:
        """A list requested at ``since`` had these objects, which were set. The number of deletions that the watch had
        missed.
        """
        deleted = [key for key in self._objects if key not in listed and self._touched[key] <= since]
        for key in deleted:
            self._put(key, None)
        return len(deleted)

    def _set(self, key: Key, uid: str, version: str, item: Object) -> None:
        value = self._read(item)
        self._put(key, (uid, version, self._stored(item, value)), value)

    def _put(self, key: Key, entry: tuple[str, str, Any] | None, value: T | None = None) -> None:
        old = self._objects.pop(key, None)
        self._clock += 1
        if entry is None:
            self._touched.pop(key, None)
        else:
            self._objects[key] = entry
            self._touched[key] = self._clock
        self.changed(key, self._value(old[2]) if old else None, value)


class PackedCache(Cache[T]):
    """The same for kinds with as many objects as there are pods. ``keep``: the part of the object that ``read`` needs.

    That part is kept compressed. A model of it is twenty times as large, and read again in 20 µs.
    """

    def __init__(
        self, selection: Selection, read: Callable[[Object], T], keep: Callable[[Object], Object]
    ) -> None:
        super().__init__(selection, read)
        self._keep = keep

    def _set(self, key: Key, uid: str, version: str, item: Object) -> None:
        # What subscribers get of an object has no more of it than what is kept.
        super()._set(key, uid, version, self._keep(item))

    def _stored(self, item: Object, value: T) -> Any:  # noqa: ARG002
        return zlib.compress(msgspec.msgpack.encode(item), level=1)

    def _value(self, stored: Any) -> T:
        return self._read(msgspec.msgpack.decode(zlib.decompress(stored)))


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
        self.vpcs: Cache[Vpc | Invalid] = Cache(Selection(VPCS), _vpc)
        self.attachments: Cache[VpcAttachment | Invalid] = PackedCache(
            Selection(VPC_ATTACHMENTS), _attachment, record.attachment
        )
        self.gateways: Cache[VpcGateway | Invalid] = Cache(Selection(VPC_GATEWAYS), _gateway)
        self.nads: Cache[Nad] = PackedCache(Selection(NADS), _nad, record.nad)
        self.segments: Cache[NodeSegment | Invalid] = Cache(Selection(NODE_SEGMENTS), _segment)
        self.nodes: Cache[Node] = Cache(Selection(NODES), _node)
        self.namespaces: Cache[Meta] = Cache(Selection(NAMESPACES), _meta)
        self.pods: Cache[Pod] = PackedCache(Selection(PODS, labels=ATTACHMENT_LABEL), _pod, record.pod)
        self.agents: Cache[Agent] = Cache(Selection(PODS, namespace, labels=AGENTS), _agent, "Agent")
        self.stateful_sets: Cache[StatefulSet] = Cache(Selection(STATEFUL_SETS), parse_stateful_set)
        self.policies: Cache[VpcPolicy | Invalid] = Cache(Selection(VPC_POLICIES), _policy)
        self.policy_parts: Cache[PolicyPart] = Cache(Selection(POLICY_SLICES), _policy_part)
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


def _vpc(item: Object) -> Vpc | Invalid:
    return _fitting(Vpc, trimmed(item))


def _attachment(item: Object) -> VpcAttachment | Invalid:
    return _fitting(VpcAttachment, item)


def _policy(item: Object) -> VpcPolicy | Invalid:
    return _fitting(VpcPolicy, item)


def _gateway(item: Object) -> VpcGateway | Invalid:
    return _fitting(VpcGateway, item)


def _policy_part(item: Object) -> PolicyPart:
    return PolicyPart(item["metadata"].get("resourceVersion", ""), item.get("spec") or {})


def _segment(item: Object) -> NodeSegment | Invalid:
    segment = _fitting(NodeSegment, trimmed(item))
    return segment if isinstance(segment, Invalid) else record.segment(segment)


def _fitting(kind: type[S], item: Object) -> S | Invalid:
    try:
        return parse(kind, item)
    except Rejected as problem:
        return Invalid(_meta(trimmed(item)), _brief(problem), item.get("status") or {})


def status_of(kind: type[S], found: Any) -> S:
    """The status of an object, also of one that does not fit its kind; an empty one where it does not either."""
    if not isinstance(found, Invalid):
        status: S = found.status
        return status
    try:
        return parse(kind, found.status)
    except Rejected:
        return kind()


def _brief(problem: Rejected) -> Rejected:
    """Its message repeats values of the object, which may be of any length."""
    text = str(problem)
    return problem if len(text) <= MESSAGE else Rejected(f"{text[:MESSAGE]}…", reason=problem.reason)


def _meta(item: Object) -> Meta:
    meta: Mapping[str, Any] = item["metadata"]
    annotations = meta.get("annotations") or {}
    own = {name: annotations[name] for name in record.ANNOTATIONS if name in annotations}
    return parse(Meta, {**meta, "annotations": own})


def _node(item: Object) -> Node:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    return Node(
        _meta(item),
        tuple(spec.get("taints") or ()),
        tuple(address["address"] for address in status.get("addresses") or () if address.get("address")),
        tuple(filter(None, spec.get("podCIDRs") or [spec.get("podCIDR")])),
    )


def _pod(item: Object) -> Pod:
    meta = item["metadata"]
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    attachment = annotations.get(ATTACHMENT_ANNOTATION, "")
    place = ordinal(meta["name"], meta.get("ownerReferences") or ())
    return Pod(
        Meta(
            name=meta["name"],
            namespace=meta["namespace"],
            uid=meta["uid"],
            resource_version=meta.get("resourceVersion", ""),
            deletion_timestamp=meta.get("deletionTimestamp"),
        ),
        attachment,
        annotations.get(VPC_ANNOTATION, ""),
        labels.get(ATTACHMENT_LABEL) == GENERATED and VPC_ANNOTATION in annotations,
        (item.get("status") or {}).get("phase") not in ("Succeeded", "Failed"),
        placement(item),
        owned(item),
        _further(annotations.get(NETWORKS_ANNOTATION, ""), meta["namespace"]),
        _accepted(annotations.get(ACCEPTED_ANNOTATION)),
        place if attachment == ordinal_attachment(meta["name"]) else None,
        backend(item),
    )


def _accepted(annotation: str | None) -> tuple[str, ...] | None:
    """The networks in the annotation, as they are written there."""
    if annotation is None:
        return None
    return tuple(text for part in annotation.split(",") if (text := part.strip()))


def _further(annotation: str, namespace: str) -> tuple[str, ...]:
    """The networks of a Pod's own namespace in Multus' annotation; none where Multus could not parse it."""
    with suppress(Rejected):
        return tuple(one.name for one in multus.networks(annotation) if one.namespace in {"", namespace})
    return ()


def _agent(item: Object) -> Agent:
    conditions = (item.get("status") or {}).get("conditions") or ()
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions
    )
    deleted = item["metadata"].get("deletionTimestamp") is not None
    return Agent((item.get("spec") or {}).get("nodeName") or "", ready and not deleted)


def _nad(item: Object) -> Nad:
    meta = item["metadata"]
    owners = [owner["uid"] for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    config = (item.get("spec") or {}).get("config")
    return Nad(
        meta.get("resourceVersion", ""),
        owners[0] if owners else "",
        config if isinstance(config, str) else "",
        {name: value for name, value in (meta.get("labels") or {}).items() if name in record.LABELS},
    )


def _newer(version: str, than: str) -> bool:
    """Resource versions of an object are growing numbers. Where they are not numbers, any other one is newer."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than or not version

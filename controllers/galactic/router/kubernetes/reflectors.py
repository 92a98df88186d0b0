"""The Kubernetes half of the input: VPCs, VPCAttachments and NodeSegments, parsed and put into the store.

The design names kopf; this uses ``galactic.kube.informer``. What the router needs of a watch is what kopf's
``on.event`` does not promise: kopf (1.45) knows when its first list is over (``Bookmark.LISTED``) but tells no handler,
so nothing says when an empty cluster is known to be empty; and when it lists again, after a 410 or a lost
connection, objects that were deleted meanwhile are reported by nobody, so that the routes of a removed node would
stay for ever. The informer has ``synced`` for the one and reports the difference of two lists for the other.
"""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from galactic.crds.model import T, parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import AttachedEndpoint, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.kube.client import Kube
from galactic.kube.informer import Changed, Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NODE_SEGMENTS, NODES_METADATA, VPC_ATTACHMENTS, VPCS
from galactic.messages import Endpoint, Route
from galactic.names import function_hex, parse_function, parse_vpc
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.networks import entitled
from galactic.router.rib.path import Attachment, Identity, NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import parse_prefix

log = structlog.get_logger(__name__)


class Reflectors:
    """Four level-triggered caches. ``changed`` is told the name (``namespace/name``) of a VPCAttachment that did."""

    def __init__(
        self,
        kube: Kube,
        cluster: str,
        store: Store,
        metrics: RouterMetrics,
        *,
        changed: Callable[[str], None],
        connection: Callable[[str | None], None],
    ) -> None:
        self._cluster, self._store, self._metrics = cluster, store, metrics
        self._changed, self._connection = changed, connection
        self._vpcs: dict[Key, int | None] = {}
        self._attachments: dict[Key, VpcAttachment] = {}
        self._members: dict[Key, set[Key]] = {}  # VPC → its attachments
        self._identities: dict[Key, Identity] = {}
        self._names: dict[Identity, Key] = {}
        self._nodes: dict[str, str] = {}  # name → UID
        self._segments: dict[str, Object] = {}
        self._gone: set[str] = set()  # nodes that were seen to go
        self._listed = False  # whether the Nodes are known
        self._informers = tuple(
            Informer(kube, Selection(resource), _newest(handler), connection=self._connected)
            for resource, handler in (
                (VPCS, self._vpc),
                (VPC_ATTACHMENTS, self._attachment),
                (NODE_SEGMENTS, self._segment),
                (NODES_METADATA, self._node),
            )
        )

    async def run(self) -> None:
        """Watches for ever."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())
            tasks.create_task(self._orphans())

    async def synced(self) -> None:
        """Returns when everything that is there has been seen once, Nodes aside."""
        for informer in self._informers[:-1]:
            await informer.synced.wait()

    def attachment(self, name: str) -> VpcAttachment | None:
        """The VPCAttachment ``namespace/name``."""
        return self._attachments.get(_key(name))

    def identity(self, name: str) -> Identity | None:
        """What its identifiers are, as far as they are assigned."""
        return self._identities.get(_key(name))

    def name(self, identity: Identity) -> str | None:
        """Which VPCAttachment has these identifiers."""
        key = self._names.get(identity)
        return None if key is None else "/".join(key)

    def names(self) -> list[str]:
        """Of all VPCAttachments that there are."""
        return ["/".join(key) for key in self._attachments]

    def recorded(self) -> Iterator[tuple[int, Route]]:
        """The routes, and of which VPC, that ``VPCAttachment.status.endpoint`` records; in the order of preference."""
        for identity, key in [*self._names.items()]:  # whoever reads them takes turns with what changes them
            found = self._attachments.get(key)
            if found is not None and (endpoint := found.status.endpoint) is not None:
                for network in endpoint.networks:
                    yield identity.vpc, _route(identity, endpoint, network)

    # -- handlers: parse, set on the store, return ------------------------------------------------------------------

    def _vpc(self, key: Key, new: Object | None) -> None:
        identifier = None
        if new is not None and (vpc := self._parsed(Vpc, key, new)) is not None and vpc.status.identifier:
            identifier = _identifier(parse_vpc, vpc.status.identifier)
        self._vpcs[key] = identifier
        if new is None:
            del self._vpcs[key]
        for member in self._members.get(key, set()).copy():
            self._set(member)

    def _attachment(self, key: Key, new: Object | None) -> None:
        parsed = None if new is None else self._parsed(VpcAttachment, key, new)
        if new is not None and parsed is None:
            return  # what was there before counts until it can be read again
        before = self._attachments.pop(key, None)
        if before is not None:
            self._members[_vpc_key(before)].discard(key)
        if parsed is not None:
            self._attachments[key] = parsed
            self._members.setdefault(_vpc_key(parsed), set()).add(key)
        self._set(key)
        self._changed("/".join(key))

    def _node(self, key: Key, new: Object | None) -> None:
        name = key[1]
        if new is None:
            del self._nodes[name]
            self._gone.add(name)
        else:
            self._nodes[name] = new["metadata"].get("uid", "")
            self._gone.discard(name)
        if name in self._segments or new is None:
            self._segment(key, self._segments.get(name))

    def _segment(self, key: Key, new: Object | None) -> None:
        """A node counts until its NodeSegment or its Node is seen to go; one that never had a Node needs none."""
        origin = NodeRef(self._cluster, key[1])
        self._segments[key[1]] = new or {}
        if new is None:
            del self._segments[key[1]]
            self._gone.discard(key[1])  # made again by hand, it needs no Node
        if new is None or key[1] in self._gone or self._orphaned(new):
            self._store.removed(origin)
            return
        segment = self._parsed(NodeSegment, key, new)
        if segment is None:
            return
        try:
            self._store.prefixed(origin, parse_prefix(segment.spec.prefix))
        except Rejected as error:
            self._metrics.rejected("PrefixInvalid")
            log.warning("NodeSegment without a valid prefix", node=key[1], error=str(error))
            self._store.prefixed(origin, None)
        endpoints = tuple(
            Endpoint(it.vpc, it.function, it.attachment, it.sid, it.networks, it.epoch)
            for it in segment.status.endpoints
        )
        if self._store.registered(origin, segment.status.sequence, endpoints):
            self._metrics.registered("kubernetes")

    def _orphaned(self, segment: Object) -> bool:
        """Whether it belongs to a Node that went while nobody watched: the garbage collector has not come by yet."""
        meta = segment["metadata"]
        owned = any(owner.get("kind") == NODES_METADATA.kind for owner in meta.get("ownerReferences") or ())
        return owned and self._listed and meta["name"] not in self._nodes

    async def _orphans(self) -> None:
        """Starting does not wait for the Nodes: what is in force may stay a moment longer."""
        await self._informers[-1].synced.wait()
        self._listed = True
        for name, segment in [*self._segments.items()]:
            self._segment(("", name), segment)

    def _set(self, key: Key) -> None:
        """One attachment as it follows from itself and its VPC."""
        if (identity := self._identities.pop(key, None)) is not None and self._names.get(identity) == key:
            del self._names[identity]
        found = self._attachments.get(key)
        if found is None:
            self._store.attached("/".join(key), None)
            return
        vpc = self._vpcs.get(_vpc_key(found))
        function = _identifier(parse_function, found.status.identifier) if found.status.identifier else None
        if vpc is not None and function is not None:
            identity = self._identities[key] = Identity(self._cluster, vpc, function)
            self._names.setdefault(identity, key)
        addresses = found.status.addresses or found.spec.interface.addresses
        networks = entitled(addresses, ((route.destination, route.via) for route in found.spec.routes))
        self._store.attached("/".join(key), Attachment(vpc, function, networks, found.status.ready))

    def _parsed(self, kind: type[T], key: Key, thing: Object) -> T | None:
        try:
            return parse(kind, thing)
        except Rejected as error:
            self._metrics.rejected("ObjectInvalid")
            log.warning("object cannot be read", kind=kind.__name__, name="/".join(key), error=str(error))
            return None

    def _connected(self, connected: bool) -> None:
        self._connection(None if connected else "the API server does not answer")


def _newest(handler: Callable[[Key, Object | None], None]) -> Changed:
    def changed(key: Key, old: Object | None, new: Object | None) -> None:  # noqa: ARG001
        handler(key, new)

    return changed


def _identifier(parser: Callable[[str], int], text: str) -> int | None:
    try:
        return parser(text)
    except Rejected:
        return None


def _vpc_key(attachment: VpcAttachment) -> Key:
    """Where the attachment belongs: what its status says counts, spec.vpc may have been changed against the rules."""
    if attachment.status.vpc:
        return _key(attachment.status.vpc)
    reference = attachment.spec.vpc
    return reference.namespace or attachment.metadata.namespace, reference.name


def _key(name: str) -> Key:
    namespace, _, rest = name.partition("/")
    return namespace, rest


def _route(identity: Identity, endpoint: AttachedEndpoint, network: str) -> Route:
    cluster = endpoint.cluster or identity.cluster
    function = function_hex(identity.function)
    return Route(network, (endpoint.sid,), cluster, endpoint.node, function, endpoint.epoch)

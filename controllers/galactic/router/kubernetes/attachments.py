"""VPCs and VPCAttachments as the API server has them: identifiers, and the networks an attachment may announce."""

from collections.abc import Callable, Iterator

from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import AttachedEndpoint, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.messages import Route
from galactic.names import function_hex, parse_function, parse_vpc
from galactic.router.kubernetes.objects import parsed
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.networks import entitled
from galactic.router.rib.path import Attachment, Identity
from galactic.router.rib.registrations import Registrations


class AttachmentIndex:
    """Of one cluster. Attachments go to the registrations, which are checked against them."""

    def __init__(self, cluster: str, registrations: Registrations, metrics: RouterMetrics) -> None:
        self._cluster, self._registrations, self._metrics = cluster, registrations, metrics
        self._vpcs: dict[Key, int | None] = {}
        self._attachments: dict[Key, VpcAttachment] = {}
        self._members: dict[Key, set[Key]] = {}  # VPC → its attachments
        self._identities: dict[Key, Identity] = {}
        self._names: dict[Identity, Key] = {}

    def attachment(self, name: str) -> VpcAttachment | None:
        """The VPCAttachment ``namespace/name``."""
        return self._attachments.get(_key(name))

    def identity(self, name: str) -> Identity | None:
        """Its identifiers, as far as they are assigned."""
        return self._identities.get(_key(name))

    def name(self, identity: Identity) -> str | None:
        """The VPCAttachment with these identifiers."""
        key = self._names.get(identity)
        return None if key is None else "/".join(key)

    def names(self) -> list[str]:
        """Of all VPCAttachments."""
        return ["/".join(key) for key in self._attachments]

    def recorded(self) -> Iterator[tuple[int, Route]]:
        """(VPC, route) of every ``VPCAttachment.status.endpoint``, in the order of preference."""
        for identity, key in [*self._names.items()]:  # objects may change between two steps of the reader
            attachment = self._attachments.get(key)
            if attachment is not None and (endpoint := attachment.status.endpoint) is not None:
                for network in endpoint.networks:
                    yield identity.vpc, _route(identity, endpoint, network)

    def set_vpc(self, key: Key, new: Object | None) -> None:
        """A VPC as it is now; None: it is deleted."""
        identifier = None
        vpc = None if new is None else parsed(Vpc, key, new, self._metrics)
        if vpc is not None and vpc.status.identifier:
            identifier = _identifier(parse_vpc, vpc.status.identifier)
        self._vpcs[key] = identifier
        if new is None:
            del self._vpcs[key]
        for member in self._members.get(key, set()).copy():
            self._update(member)

    def set_attachment(self, key: Key, new: Object | None) -> None:
        """A VPCAttachment as it is now; None: it is deleted."""
        attachment = None if new is None else parsed(VpcAttachment, key, new, self._metrics)
        if new is not None and attachment is None:
            return  # the last one that could be read counts
        before = self._attachments.pop(key, None)
        if before is not None:
            self._members[_vpc_key(before)].discard(key)
        if attachment is not None:
            self._attachments[key] = attachment
            self._members.setdefault(_vpc_key(attachment), set()).add(key)
        self._update(key)

    def _update(self, key: Key) -> None:
        """One attachment as it follows from itself and its VPC."""
        if (identity := self._identities.pop(key, None)) is not None and self._names.get(identity) == key:
            del self._names[identity]
        attachment = self._attachments.get(key)
        if attachment is None:
            self._registrations.set_attachment("/".join(key), None)
            return
        status = attachment.status
        vpc = self._vpcs.get(_vpc_key(attachment))
        function = _identifier(parse_function, status.identifier) if status.identifier else None
        if vpc is not None and function is not None:
            identity = self._identities[key] = Identity(self._cluster, vpc, function)
            self._names.setdefault(identity, key)
        addresses = status.addresses or attachment.spec.interface.addresses
        carriers = status.carriers
        nodes = None if carriers is None else frozenset(carrier.node for carrier in carriers)
        networks = entitled(addresses, ((route.destination, route.via) for route in attachment.spec.routes))
        self._registrations.set_attachment(
            "/".join(key), Attachment(vpc, function, networks, status.ready, nodes)
        )


def _identifier(parser: Callable[[str], int], text: str) -> int | None:
    try:
        return parser(text)
    except Rejected:
        return None


def _vpc_key(attachment: VpcAttachment) -> Key:
    """The attachment's VPC. Its status counts, as spec.vpc may have been changed against the rules."""
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

"""VPCs and VPCAttachments as the API server has them: identifiers, and the networks an attachment may announce."""

from collections.abc import Iterator
from typing import Final

from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.messages import Route
from galactic.names import function_hex, parse_vpc
from galactic.router.kubernetes.objects import parsed
from galactic.router.kubernetes.record import AttachmentRecord, RecordedEndpoint, record
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.networks import Network, entitled
from galactic.router.rib.path import Attachment, Identity
from galactic.router.rib.registrations import Registrations

UNKNOWN: Final = -1
"""In place of the identifier of a VPC that was not read, or that was deleted."""


class AttachmentIndex:
    """Of one cluster. Attachments go to the registrations, which are checked against them.

    An event costs the work of its own object: one of a VPC touches its attachments only if the identifier changed.
    """

    def __init__(self, cluster: str, registrations: Registrations, metrics: RouterMetrics) -> None:
        self._cluster, self._registrations, self._metrics = cluster, registrations, metrics
        self._vpcs: dict[Key, int | None] = {}
        self._records: dict[str, AttachmentRecord] = {}
        self._members: dict[Key, set[str]] = {}  # VPC → its attachments
        self._names: dict[Identity, str] = {}

    def record(self, name: str) -> AttachmentRecord | None:
        """The record of the VPCAttachment ``namespace/name``."""
        return self._records.get(name)

    def identity(self, name: str) -> Identity | None:
        """Its identifiers, as far as they are assigned."""
        known = self._records.get(name)
        vpc = None if known is None else self._vpcs.get(known.vpc)
        if known is None or known.function is None or vpc is None:
            return None
        return Identity(self._cluster, vpc, known.function)

    def name(self, identity: Identity) -> str | None:
        """The VPCAttachment with these identifiers."""
        return self._names.get(identity)

    def vpc_name(self, _cluster: str, name: str, vpc: int) -> str:
        """The VPC (namespace/name) of a VPCAttachment, if it has that identifier; else empty."""
        known = self._records.get(name)
        return "/".join(known.vpc) if known is not None and self._vpcs.get(known.vpc) == vpc else ""

    def names(self) -> list[str]:
        """Of all VPCAttachments."""
        return [*self._records]

    def recorded(self) -> Iterator[tuple[int, Route]]:
        """(VPC, route) of every ``VPCAttachment.status.endpoint``, in the order of preference."""
        for identity, name in [*self._names.items()]:  # objects may change between two steps of the reader
            known = self._records.get(name)
            if known is not None and (endpoint := known.endpoint) is not None:
                for network in endpoint.networks:
                    yield identity.vpc, _route(identity, endpoint, network)

    def set_vpc(self, key: Key, new: Object | None) -> None:
        """A VPC as it is now; None: it is deleted."""
        vpc = None if new is None else parsed(Vpc, key, new, self._metrics)
        identifier = _identifier(vpc.status.identifier) if vpc is not None else None
        if self._vpcs.get(key, UNKNOWN) == (identifier if new is not None else UNKNOWN):
            return
        members = [*self._members.get(key, ())]
        for name in members:
            self._forget(name)
        if new is None:
            self._vpcs.pop(key, None)
        else:
            self._vpcs[key] = identifier
        for name in members:
            self._identify(name)
            self._registrations.set_identifiers(name, identifier)

    def set_attachment(self, key: Key, new: Object | None) -> None:
        """A VPCAttachment as it is now; None: it is deleted."""
        attachment = None if new is None else parsed(VpcAttachment, key, new, self._metrics)
        if new is not None and attachment is None:
            return  # the last one that could be read counts
        name = "/".join(key)
        self._forget(name)
        if (before := self._records.pop(name, None)) is not None:
            members = self._members[before.vpc]
            members.discard(name)
            if not members:
                del self._members[before.vpc]
        if attachment is None:
            self._registrations.set_attachment(name, None)
            return
        known = self._records[name] = record(attachment)
        self._members.setdefault(known.vpc, set()).add(name)
        self._identify(name)
        vpc = self._vpcs.get(known.vpc)
        networks, ready = _networks(attachment), attachment.status.ready
        self._registrations.set_attachment(
            name, Attachment(vpc, known.function, networks, ready, known.nodes)
        )

    def _forget(self, name: str) -> None:
        """Before its identifiers change."""
        if (identity := self.identity(name)) is not None and self._names.get(identity) == name:
            del self._names[identity]

    def _identify(self, name: str) -> None:
        """After its identifiers changed: the first with them has them."""
        if (identity := self.identity(name)) is not None:
            self._names.setdefault(identity, name)


def _identifier(text: str | None) -> int | None:
    try:
        return parse_vpc(text) if text else None
    except Rejected:
        return None


def _networks(attachment: VpcAttachment) -> frozenset[Network]:
    """The networks that it may announce."""
    spec = attachment.spec
    addresses = attachment.status.addresses or spec.interface.addresses
    return entitled(addresses, ((route.destination, route.via) for route in spec.routes))


def _route(identity: Identity, endpoint: RecordedEndpoint, network: str) -> Route:
    cluster = endpoint.cluster or identity.cluster
    function = function_hex(identity.function)
    return Route(network, (endpoint.sid,), cluster, endpoint.node, function, endpoint.epoch)

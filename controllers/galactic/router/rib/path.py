"""Endpoints of registrations, checked: each becomes an ``EndpointPath`` or is rejected, with a reason that is counted.

No endpoint is accepted unchecked. The sender is the topic's node (the broker's ACL pins it); the SID must lie in that
node's locator and encode the VPC and function it stands for; in Kubernetes, VPC and function must be those of the
VPCAttachment named, and the networks some that its spec entitles it to. Pure, and nothing raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Network
from socket import AF_INET6, inet_ntop, inet_pton
from typing import Final, NamedTuple

import msgspec

from galactic.errors import Rejected
from galactic.messages import Endpoint, Route
from galactic.names import function_hex, parse_function, parse_vpc, vpc_hex
from galactic.router.rib.networks import Network, network
from galactic.srv6 import Sid, owns, parse_sid

EPOCH_MAX: Final = (1 << 62) - 1
"""Room above for every later epoch to stay an int64, as the CRDs keep it. In ns this is the year 2116."""
HORIZON_NS: Final = 24 * 3600 * 1_000_000_000
"""How far ahead of the router's clock a new epoch, or a sequence, is accepted."""
NETWORKS_MAX: Final = 1024
"""Networks of one endpoint. A VPCAttachment entitles to 272 at the most."""


UNLISTED: Final = "NotListed"
"""The reason why a path is pending whose cluster has published no complete list of attachments."""


class NodeRef(NamedTuple):
    """A node of a cluster: the peer that registers endpoints."""

    cluster: str
    node: str


class Holder(NamedTuple):
    """An attachment within its VPC. Equal functions in two clusters are two attachments."""

    cluster: str
    function: int


class Identity(NamedTuple):
    """An attachment among all."""

    cluster: str
    vpc: int
    function: int


class Attachment(msgspec.Struct, frozen=True, gc=False):
    """A VPCAttachment as Kubernetes has it. ``None``: not assigned yet."""

    vpc: int | None
    function: int | None
    networks: frozenset[Network]
    ready: bool
    nodes: frozenset[str] | None = (
        None  # those of its carriers; None: the operator writes no carriers yet, any node
    )
    vpc_name: str = ""  # namespace/name of its VPC; empty: unknown


class SomeAttachments(dict[str, Attachment]):
    """Attachments of a cluster whose list is not complete: there may be others."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One node: its SRv6 prefix, None where it has no valid one, and all of its endpoints."""

    prefix: IPv6Network | None = None
    endpoints: tuple[Endpoint, ...] = ()


class EndpointPath(msgspec.Struct, frozen=True, gc=False):
    """An endpoint that passed the checks: this attachment is on that node, and announces these networks.

    ``pending`` is the reason why it may stay where it is installed but not be installed elsewhere; empty: it may be.
    ``vpc_name`` is its VPC's namespace/name in its cluster, as far as the cluster's list has it; empty: unknown.
    There are very many, so what routes have of it (``segments``, ``code``) is kept in their form, and shared with them.
    """

    origin: NodeRef
    vpc: int
    code: str  # the function, as messages write it
    attachment: str
    segments: tuple[str]
    networks: tuple[Network, ...]
    epoch: int
    pending: str = ""
    vpc_name: str = ""

    @property
    def sid(self) -> str:
        return self.segments[0]

    @property
    def function(self) -> int:
        return int(self.code, 16)

    @property
    def holder(self) -> Holder:
        return Holder(self.origin.cluster, self.function)

    @property
    def identity(self) -> Identity:
        return Identity(self.origin.cluster, self.vpc, self.function)

    def route(self, to: Network) -> Route:
        """The route to one of its networks, as messages carry it."""
        cluster, node = self.origin
        return Route(to, self.segments, cluster, node, self.code, self.epoch)

    def is_installed(self, installed: Mapping[Network, Route]) -> bool:
        """Whether this very path has a route in that table."""
        return any(self.made(installed.get(network)) for network in self.networks)

    def as_installed(self, installed: Mapping[Network, Route]) -> "EndpointPath":
        """The path with only the networks that it has in that table, where no list has the others."""
        if self.pending != UNLISTED:
            return self
        networks = tuple(network for network in self.networks if self.made(installed.get(network)))
        return self if networks == self.networks else msgspec.structs.replace(self, networks=networks)

    def is_eligible(self, installed: Mapping[Network, Route], horizon: int) -> bool:
        """Whether it may have routes: it is installed, or neither pending nor from after the ``horizon``."""
        return self.is_installed(installed) or not (self.pending or self.epoch > horizon)

    def made(self, route: Route | None) -> bool:
        """Whether that route is of this very path: same attachment, node and epoch."""
        return (
            route is not None
            and route.epoch == self.epoch
            and route.node == self.origin.node
            and route.cluster == self.origin.cluster
            and route.function == self.code
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Something that a node registered and that is not in the table. ``reason`` is a stable CamelCase word."""

    origin: NodeRef
    attachment: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The paths of one node, by SID, of which an attachment has one on each node; and what was rejected."""

    paths: dict[str, EndpointPath] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()


def node_paths(origin: NodeRef, segment: Segment, attachments: Mapping[str, Attachment] | None) -> NodePaths:
    """The endpoints of one node, checked; in any order. ``attachments`` None: there are none to check against."""
    paths: dict[str, EndpointPath] = {}
    rejections: list[Rejection] = []
    for endpoint in segment.endpoints:
        path, rejected = endpoint_path(origin, segment.prefix, endpoint, attachments)
        rejections += rejected
        if path is None:
            continue
        other = paths.setdefault(path.sid, path)
        if other is not path:
            newer, older = sorted((path, other), key=_age, reverse=True)
            paths[newer.sid] = newer
            rejections.append(
                _no(
                    origin,
                    endpoint,
                    "Duplicate",
                    f"SID {older.sid} is registered twice; the newest epoch counts",
                )
            )
    return NodePaths(paths, tuple(sorted(rejections, key=_order)))


def endpoint_path(
    origin: NodeRef,
    prefix: IPv6Network | None,
    endpoint: Endpoint,
    attachments: Mapping[str, Attachment] | None,
) -> tuple[EndpointPath | None, list[Rejection]]:
    """One endpoint, checked. Its networks are checked one by one: a rejected one does not affect the others."""
    try:
        text = _sid_text(prefix, endpoint) or str(_sid(origin, prefix, endpoint))
        vpc, code = _vpc(endpoint.vpc), endpoint.function
        pending, allowed = _attachment(origin, vpc, endpoint, attachments)
        vpc_name = known.vpc_name if (known := (attachments or {}).get(endpoint.attachment)) else ""
    except Rejected as error:
        return None, [_no(origin, endpoint, error.reason, str(error))]
    networks, rejections = _networks(origin, endpoint, allowed)
    if text == endpoint.sid:
        text = endpoint.sid  # one object instead of two: there are very many
    if networks == endpoint.networks:
        networks = endpoint.networks  # type: ignore[assignment] # they are networks
    return EndpointPath(
        origin, vpc, code, endpoint.attachment, (text,), networks, endpoint.epoch, pending, vpc_name
    ), rejections


def _sid_text(prefix: IPv6Network | None, endpoint: Endpoint) -> str | None:
    """The SID's text where a quick check passes; None: ``_sid`` decides, which takes longer."""
    if prefix is None or not 0 <= endpoint.epoch <= EPOCH_MAX or len(endpoint.networks) > NETWORKS_MAX:
        return None
    locator = prefix.network_address.packed[:8]
    try:
        packed = inet_pton(AF_INET6, endpoint.sid)
        argument = _vpc(endpoint.vpc).to_bytes(6, "big") + parse_function(endpoint.function).to_bytes(
            2, "big"
        )
    except (OSError, ValueError, Rejected):  # ValueError: a NUL, or what UTF-8 has no bytes for
        return None
    # One that begins with zeros might have two texts: ``ipaddress`` does not write dots.
    return inet_ntop(AF_INET6, packed) if any(locator) and packed == locator + argument else None


def _sid(origin: NodeRef, prefix: IPv6Network | None, endpoint: Endpoint) -> Sid:
    """The SID, which encodes VPC and function, if everything about the endpoint itself is in order."""
    try:
        vpc, function = _vpc(endpoint.vpc), parse_function(endpoint.function)
        sid = parse_sid(endpoint.sid)
    except Rejected as error:
        raise Rejected(str(error), reason="InvalidIdentifier") from error
    if prefix is None:
        raise Rejected(f"node {origin.node} has no SRv6 prefix", reason="NodeUnknown")
    if not owns(prefix, sid):
        raise Rejected(f"SID {sid} is not in the node's prefix {prefix}", reason="SidOutsidePrefix")
    if (sid.vpc, sid.function) != (vpc, function):
        encoded = f"VPC {vpc_hex(sid.vpc)} and function {function_hex(sid.function)}"
        raise Rejected(
            f"SID {sid} encodes {encoded}, not VPC {endpoint.vpc} and function {endpoint.function}",
            reason="SidMismatch",
        )
    if not 0 <= endpoint.epoch <= EPOCH_MAX:
        raise Rejected(f"epoch {endpoint.epoch} is not between 0 and {EPOCH_MAX} ns", reason="EpochInvalid")
    if len(endpoint.networks) > NETWORKS_MAX:
        raise Rejected(
            f"{len(endpoint.networks)} networks, {NETWORKS_MAX} at the most", reason="TooManyNetworks"
        )
    return sid


def _attachment(
    origin: NodeRef, vpc: int, endpoint: Endpoint, attachments: Mapping[str, Attachment] | None
) -> tuple[str, frozenset[Network] | None]:
    """(pending, the networks that the attachment is entitled to; None: any)."""
    if attachments is None:
        return "", None
    attachment = attachments.get(endpoint.attachment)
    if attachment is None and isinstance(attachments, SomeAttachments):
        return UNLISTED, None
    if attachment is None:
        raise Rejected(f"VPCAttachment {endpoint.attachment!r} does not exist", reason="AttachmentUnknown")
    if attachment.vpc not in (None, vpc):
        raise Rejected(f"VPC {endpoint.vpc} is not the VPCAttachment's", reason="VpcMismatch")
    if attachment.function not in (None, int(endpoint.function, 16)):
        raise Rejected(
            f"function {endpoint.function} is not the VPCAttachment's identifier", reason="FunctionMismatch"
        )
    assigned = attachment.vpc is not None and attachment.function is not None
    if not (attachment.ready and assigned):
        return "NotReady", attachment.networks
    carried = attachment.nodes is None or origin.node in attachment.nodes
    return "" if carried else "NotCarried", attachment.networks


def _networks(
    origin: NodeRef, endpoint: Endpoint, allowed: frozenset[Network] | None
) -> tuple[tuple[Network, ...], list[Rejection]]:
    networks: set[Network] = set()
    rejections = []
    for text in endpoint.networks:
        try:
            announced = network(text)
        except Rejected as error:
            rejections.append(_no(origin, endpoint, error.reason, str(error)))
            continue
        if allowed is None or announced in allowed:
            networks.add(announced)
        else:
            message = f"network {announced} is neither an address of the VPCAttachment nor one of its routes"
            rejections.append(_no(origin, endpoint, "NotEntitled", message))
    return tuple(sorted(networks)), rejections


def _no(origin: NodeRef, endpoint: Endpoint, reason: str, message: str) -> Rejection:
    return Rejection(origin, endpoint.attachment, reason, message)


def _age(candidate: EndpointPath) -> tuple[object, ...]:
    return candidate.epoch, candidate.sid, candidate.attachment, candidate.networks


def _order(rejection: Rejection) -> tuple[str, ...]:
    return rejection.attachment, rejection.reason, rejection.message


@lru_cache(maxsize=4096)
def _vpc(text: str) -> int:
    """``parse_vpc``, and one number for all who are in that VPC."""
    return parse_vpc(text)

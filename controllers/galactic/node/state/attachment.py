"""One attachment on this node as a value, and the plugin configuration that it is parsed from."""

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from galactic.crds.vpcattachment import MAX_NETWORKS
from galactic.errors import Rejected
from galactic.linux.objects import Address, Interface, Network
from galactic.names import FUNCTION_MAX, VPC_MAX, from_base62

Key = tuple[int, int]
"""(VPC, function)."""

SMALLEST_MTU: Final = 1280  # RFC 8200 §5
LARGEST_MTU: Final = 65535
PATH_ID: Final = struct.Struct(">HQ")
_NAME: Final = "[a-zA-Z0-9][-a-zA-Z0-9_.]{0,252}"
_ATTACHMENT: Final = re.compile(f"{_NAME}/{_NAME}")
T = TypeVar("T")


class PodRef(NamedTuple):
    """A pod as the kubelet names it in CNI_ARGS; ``uid`` is empty where the runtime does not pass it on."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}".strip("/")


class Termination(NamedTuple):
    """The VPC reaches ``network`` through the pod, at its own address ``via``."""

    network: Network
    via: Address


class Peer(NamedTuple):
    """A VPC that the attachment's VPC is peered with: this node takes routes to it inside these networks."""

    vpc: int
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's interface in a VPC."""

    vpc: int
    function: int
    name: str  # the VPCAttachment, namespace/name
    container: str
    netns: str  # path of the pod's network namespace
    ifname: str
    addresses: tuple[Interface, ...]
    networks: tuple[Network, ...] = ()  # the VPC's and its peers', as far as the attachment accepts them
    terminations: tuple[Termination, ...] = ()
    routes: tuple[Network, ...] = ()  # more destinations that the pod sends into the VPC
    mtu: int = 0  # 0: as large as the underlay allows
    epoch: int = 0
    settled: bool = False  # whether the epoch was compared with the VPC's table
    pod: str = ""  # the Pod's UID; empty where an earlier version attached it
    peers: tuple[Peer, ...] = ()

    @property
    def key(self) -> Key:
        return self.vpc, self.function

    @property
    def announces(self) -> tuple[Network, ...]:
        """The networks that the VPC reaches through it: its addresses as host routes, then its terminations."""
        hosts = (ip_network(address.ip) for address in self.addresses)
        return tuple(dict.fromkeys((*hosts, *(termination.network for termination in self.terminations))))

    @property
    def path_id(self) -> bytes:
        """Its function and epoch, packed: no other path of the VPC and cluster has both."""
        return PATH_ID.pack(self.function, self.epoch)

    def same_pod(self, container: str, ifname: str) -> bool:
        return (self.container, self.ifname) == (container, ifname)


class TerminationConfig(msgspec.Struct, frozen=True):
    network: str
    via: str


class RouteConfig(msgspec.Struct, frozen=True):
    destination: str
    via: str | None = None


class PeerConfig(msgspec.Struct, frozen=True):
    vpc: str  # base62
    networks: tuple[str, ...]


class ValidAttachment(msgspec.Struct, frozen=True):
    """One entry of GC's list of valid attachments."""

    container: str = msgspec.field(name="containerID")
    ifname: str


class PluginConfig(msgspec.Struct, frozen=True):
    """The plugin's entry of a NetworkAttachmentDefinition as the operator writes it, with the runtime's additions."""

    vpc: str
    vpcattachment: str
    attachment: str = ""
    mtu: int = 0
    interface: str = ""  # for people: the plugin uses CNI_IFNAME
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    terminations: tuple[TerminationConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    peers: tuple[PeerConfig, ...] = ()
    policies: tuple[str, ...] = ()  # PolicySlices; from the status alone
    dns: dict[str, Any] = {}
    previous: dict[str, Any] | None = msgspec.field(default=None, name="prevResult")
    given_valid: tuple[ValidAttachment, ...] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="cni.dev/valid-attachments"
    )
    misnamed_valid: tuple[ValidAttachment, ...] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="cni.dev/attachments"
    )

    @property
    def valid(self) -> frozenset[tuple[str, str]]:
        """GC's valid attachments: (container, interface). Raises Rejected without a list, which is not an empty one.

        The first libcni with GC calls the list ``cni.dev/attachments``; null is its empty one.
        """
        listed = self.misnamed_valid if self.given_valid is msgspec.UNSET else self.given_valid
        if isinstance(listed, msgspec.UnsetType):
            raise Rejected("GC needs the list of valid attachments", field="cni.dev/valid-attachments")
        return frozenset((entry.container, entry.ifname) for entry in listed or ())

    @property
    def key(self) -> Key:
        """Raises Rejected on identifiers that are not base62, reserved or too large."""
        return _identifier(self.vpc, VPC_MAX, "vpc"), _identifier(
            self.vpcattachment, FUNCTION_MAX, "vpcattachment"
        )


_config: Final = msgspec.json.Decoder(PluginConfig)


def plugin_config(text: bytes) -> PluginConfig:
    """The plugin configuration. Raises Rejected with the invalid field."""
    try:
        return _config.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"the network configuration is not usable: {error}") from error


def attachment_of(config: PluginConfig, container: str, netns: str, ifname: str) -> Attachment:
    """The attachment of a pod with that configuration. Raises Rejected with the invalid field."""
    vpc, function = config.key
    addresses = _parsed(config.addresses, "addresses", ip_interface)
    if not addresses:
        raise Rejected("an interface needs at least one address", field="addresses")
    if config.mtu and not SMALLEST_MTU <= config.mtu <= LARGEST_MTU:
        raise Rejected(f"{config.mtu} is not between {SMALLEST_MTU} and {LARGEST_MTU}", field="mtu")
    terminations = tuple(
        Termination(network, via)
        for network, via in zip(
            _parsed([entry.network for entry in config.terminations], "terminations.network", ip_network),
            _parsed([entry.via for entry in config.terminations], "terminations.via", ip_address),
            strict=True,
        )
    )
    if config.attachment and not _ATTACHMENT.fullmatch(config.attachment):
        raise Rejected(f"{config.attachment!r} is not namespace/name", field="attachment")
    own = {address.ip for address in addresses}
    for termination in terminations:
        if termination.via not in own:
            raise Rejected(
                f"{termination.via} is not one of the interface's addresses", field="terminations.via"
            )
        if termination.network.version != termination.via.version:
            raise Rejected(
                f"{termination.network} is not of the family of {termination.via}", field="terminations"
            )
    attachment = Attachment(
        vpc=vpc,
        function=function,
        name=config.attachment,
        container=container,
        netns=netns,
        ifname=ifname,
        addresses=tuple(addresses),
        networks=tuple(_parsed(config.networks, "networks", ip_network)),
        terminations=terminations,
        routes=tuple(
            _parsed([route.destination for route in config.routes], "routes.destination", ip_network)
        ),
        mtu=config.mtu,
        peers=tuple(
            Peer(
                _identifier(peer.vpc, VPC_MAX, "peers.vpc"),
                tuple(_parsed(peer.networks, "peers.networks", ip_network)),
            )
            for peer in config.peers
        ),
    )
    if len(attachment.announces) > MAX_NETWORKS:
        raise Rejected(
            f"{len(attachment.announces)} addresses and terminations are more than the limit of {MAX_NETWORKS}",
            field="terminations",
        )
    return attachment


def _identifier(text: str, limit: int, field: str) -> int:
    number = from_base62(text)
    if not 0 < number < limit:
        raise Rejected(f"{text!r} is reserved or too large", field=field)
    return number


def _parsed(texts: Iterable[str], field: str, parse: Callable[[str], T]) -> list[T]:
    """Addresses of any kind. A zone (fe80::1%eth0) has no meaning in another network namespace."""
    parsed = []
    for text in texts:
        if "%" in text:
            raise Rejected(f"{text!r} has a zone", field=field)
        try:
            parsed.append(parse(text))
        except ValueError as error:
            raise Rejected(str(error), field=field) from error
    return parsed

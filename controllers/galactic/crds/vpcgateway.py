"""The VPCGateway kind: the way from a VPC to networks outside the cluster, and in to published ports."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from galactic.crds.cel import Rule, rules
from galactic.crds.model import Condition, Meta, Model
from galactic.crds.vpc import Cidr, VpcIdentifier, VpcReference
from galactic.crds.vpcattachment import Address

MAX_REPLICAS: Final = 16
MAX_ADDRESSES: Final = 64
MAX_FORBIDDEN: Final = 8192
"""Networks that no packet of a VPC reaches through a gateway: the cluster's own, merged."""
MAX_PUBLISHED: Final = 32
MAX_ENDPOINTS: Final = 100
"""Pods that a published port leads to."""
Family = Literal["IPv4", "IPv6"]
Protocol = Literal["TCP", "UDP"]
EntryName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]

VPC_KEPT: Final = Rule(
    "self.spec.vpc == oldSelf.spec.vpc",
    "spec.vpc is immutable; set it back, or make another VPCGateway",
    "self.spec.vpc.name + ' cannot replace ' + oldSelf.spec.vpc.name"
    " + ': immutable; set it back, or make another VPCGateway'",
    ".spec.vpc",
)
SNAT: Final = Rule(
    "!has(self.addresses) || size(self.addresses) == 0 || !has(self.enabled) || self.enabled",
    "addresses belong to enabled: true; remove them, or enable SNAT",
    "self.addresses[0] + ' has no effect with enabled: false; remove it, or write enabled: true'",
    ".addresses",
)

PUBLISH_NEEDS_SNAT: Final = Rule(
    "!has(self.publish) || size(self.publish) == 0 || !has(self.snat) || !has(self.snat.enabled) || self.snat.enabled",
    "publish belongs to snat.enabled: true; remove it, or enable SNAT",
    "self.publish[0].name + ' has no effect with snat.enabled: false; remove it, or write enabled: true'",
    ".publish",
)
PUBLISHED_ONCE: Final = Rule(
    "!has(self.publish) || self.publish.all(p, self.publish.exists_one(q, q.name == p.name))",
    "a name is there twice; give each entry a name of its own",
    path=".publish",
)
PORT_ONCE: Final = Rule(
    "!has(self.publish) || self.publish.all(p, self.publish.exists_one(q, q.address == p.address && q.port == p.port"
    " && q.protocol == p.protocol))",
    "a port of an address is published twice; give another port or address, or remove one of the two",
    path=".publish",
)


class Snat(Model):
    """Source addresses of the VPC's packets outside."""

    model_config = ConfigDict(json_schema_extra=rules(SNAT))

    enabled: bool = Field(
        default=True,
        description="Packets leave with an address of the gateway. false: with their own, which the network outside "
        "routes back to the gateway's nodes.",
    )
    addresses: tuple[Address, ...] = Field(
        default=(),
        max_length=MAX_ADDRESSES,
        description="The gateway's addresses outside, IPv4 and IPv6. Each is on one node at a time (status.nodes), to "
        "which the network outside routes it.",
    )


class PublishTarget(Model):
    """The pods that an entry leads to."""

    attachment_selector: dict[str, Any] = Field(
        description="A label selector over the VPC's VPCAttachments of the gateway's namespace. Empty: all of them.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The pods' port. Left out: the published one.",
        json_schema_extra={"format": "int32"},
    )


class PublishEntry(Model):
    """A port outside that leads to ready pods."""

    name: EntryName = Field(description="The entry's name in the gateway.")
    address: Address = Field(
        description="The address outside: one of snat.addresses, or a further one, which one of the nodes then holds."
    )
    port: int = Field(ge=1, le=65535, description="The port outside.", json_schema_extra={"format": "int32"})
    protocol: Protocol = Field(default="TCP", description="TCP or UDP.")
    to: PublishTarget = Field(description="The pods that it leads to, as long as they are Ready.")


class GatewaySpec(Model):
    """The desired state of a gateway."""

    model_config = ConfigDict(json_schema_extra=rules(PUBLISH_NEEDS_SNAT, PUBLISHED_ONCE, PORT_ONCE))

    vpc: VpcReference = Field(description="The VPC, of the gateway's own namespace.")
    node_selector: dict[str, str] = Field(
        default_factory=dict, description="Labels of the Nodes that may be chosen. Left out: all of them."
    )
    replicas: int = Field(
        default=2,
        ge=1,
        le=MAX_REPLICAS,
        description="Nodes that lead out at the same time.",
        json_schema_extra={"format": "int32"},
    )
    families: tuple[Family, ...] = Field(
        default=(),
        max_length=2,
        description="The address families that are led out. Left out: those of the VPC's networks.",
    )
    snat: Snat = Field(default_factory=Snat, description="Source addresses of the VPC's packets outside.")
    publish: tuple[PublishEntry, ...] = Field(
        default=(), max_length=MAX_PUBLISHED, description="Ports outside that lead to pods of the VPC."
    )


class GatewayNode(Model):
    """A node that leads out."""

    node: str = Field(description="The Node's name.", max_length=253)
    sid: str = Field(description="The SID that leads to the gateway there.")
    addresses: tuple[Address, ...] = Field(
        default=(), max_length=MAX_ADDRESSES, description="The gateway's addresses that the node holds."
    )
    ready: bool = Field(
        default=False, description="Whether the node reports that its kernel has the way out."
    )


class PublishedEntry(Model):
    """An entry of spec.publish, with its node and pods."""

    name: str = Field(description="The entry's name.", max_length=63)
    address: Address = Field(description="The address outside.")
    port: int = Field(description="The port outside.", json_schema_extra={"format": "int32"})
    protocol: Protocol = Field(default="TCP", description="TCP or UDP.")
    node: str = Field(
        default="", description="The Node that holds the address; empty while there is none.", max_length=253
    )
    inside: Address | None = Field(
        default=None,
        description="The address of the VPC that its pods see as the source: a VPCPolicy has to allow it.",
    )
    target_port: int = Field(description="The pods' port.", json_schema_extra={"format": "int32"})
    endpoints: tuple[Address, ...] = Field(
        default=(), max_length=MAX_ENDPOINTS, description="The addresses of the ready pods."
    )


class GatewayStatus(Model):
    """The observed state, written by the operator. Nodes act by it alone."""

    ready: bool = Field(default=False, description="Whether packets are led out.")
    identifier: VpcIdentifier | None = Field(default=None, description="The VPC's identifier, 12 hex digits.")
    function: str | None = Field(
        default=None,
        description="The gateway's identifier in the VPC, 4 hex digits: the function of its SIDs.",
    )
    families: tuple[Family, ...] = Field(default=(), max_length=2, description="The families in force.")
    snat: bool | None = Field(default=None, description="Whether packets leave with the gateway's addresses.")
    networks: tuple[Cidr, ...] = Field(
        default=(), max_length=64, description="The VPC's networks, which alone are led out as sources."
    )
    forbidden: tuple[Cidr, ...] = Field(
        default=(),
        max_length=MAX_FORBIDDEN,
        description="Destinations that are not reached through the gateway: the cluster's own networks, and others "
        "that an administrator forbids.",
    )
    nodes: tuple[GatewayNode, ...] = Field(
        default=(), max_length=MAX_REPLICAS, description="The nodes that lead out, and what each holds."
    )
    published: tuple[PublishedEntry, ...] = Field(
        default=(),
        max_length=MAX_PUBLISHED,
        description="The entries of spec.publish, with their nodes and pods.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, description="The gateway's conditions, one entry a type."
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the status was computed from.",
        json_schema_extra={"format": "int64"},
    )


class VpcGateway(Model):
    """A way out of a VPC by some of the cluster's nodes, and in to its published ports."""

    KIND: ClassVar = "VPCGateway"
    PLURAL: ClassVar = "vpcgateways"
    SHORT: ClassVar = ("vpcgw",)
    SCOPE: ClassVar = "Namespaced"
    RULES: ClassVar = (VPC_KEPT,)
    COLUMNS: ClassVar = (
        ("VPC", ".spec.vpc.name", "string"),
        ("Nodes", ".status.nodes[*].node", "string"),
        ("Addresses", ".spec.snat.addresses", "string"),
        ("Ready", ".status.ready", "boolean"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: GatewaySpec = Field(description="The desired state.")
    status: GatewayStatus = Field(
        default_factory=GatewayStatus, description="The observed state, written by the operator."
    )

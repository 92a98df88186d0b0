"""The VPCGateway kind: the way from a VPC to networks outside the cluster."""

from typing import ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from galactic.crds.cel import Rule, rules
from galactic.crds.model import Condition, Meta, Model
from galactic.crds.vpc import Cidr, VpcIdentifier, VpcReference
from galactic.crds.vpcattachment import Address

MAX_REPLICAS: Final = 16
MAX_ADDRESSES: Final = 64
MAX_FORBIDDEN: Final = 8192
"""Networks that no packet of a VPC reaches through a gateway: the cluster's own, merged."""
Family = Literal["IPv4", "IPv6"]

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


class GatewaySpec(Model):
    """The desired state of a gateway."""

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
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, description="The gateway's conditions, one entry a type."
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the status was computed from.",
        json_schema_extra={"format": "int64"},
    )


class VpcGateway(Model):
    """A way out of a VPC, by some of the cluster's nodes."""

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

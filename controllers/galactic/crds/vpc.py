"""The VPC kind: a private network whose attachments reach each other."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from galactic.crds.model import Condition, Meta, Model
from galactic.crds.rules import Rule, rules

Cidr = Annotated[str, StringConstraints(min_length=3, max_length=43)]
VpcIdentifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$", max_length=12)]


IDENTIFIER: Final = Rule(
    "(has(self.spec.identifier) ? self.spec.identifier : '')"
    " == (has(oldSelf.spec.identifier) ? oldSelf.spec.identifier : '')"
    " || (has(oldSelf.status) && has(oldSelf.status.identifier)"
    " ? has(self.spec.identifier) && self.spec.identifier == oldSelf.status.identifier"
    " : !has(oldSelf.spec.identifier))",
    "spec.identifier is immutable once the VPC has an identifier; set it back, or make another VPC",
    "(has(self.spec.identifier) ? self.spec.identifier : 'leaving it out') + ' cannot replace '"
    " + (has(oldSelf.status) && has(oldSelf.status.identifier) ? oldSelf.status.identifier"
    " : oldSelf.spec.identifier) + ': immutable; set it back, or make another VPC'",
    ".spec.identifier",
)
SELECTOR: Final = Rule(
    "has(self.selector) == (self.from == 'Selector')",
    "selector belongs to from: Selector, and to no other; add or remove it, or change from",
    "has(self.selector) ? 'has no effect with from: ' + self.from + '; remove it, or write from: Selector'"
    " : 'from: Selector needs a selector; add one, or write from: All'",
    ".selector",
)


NETWORKS: Final = Rule(
    "!self.networks.exists(n, n.endsWith('/0'))",
    "networks cannot have a default route; give the VPC's own networks",
    "self.networks.filter(n, n.endsWith('/0'))[0] + ' is every address; give networks of the VPC itself'",
    ".networks",
)


class AllowedNamespaces(Model):
    """A choice of namespaces."""

    model_config = ConfigDict(json_schema_extra=rules(SELECTOR))

    from_: Literal["Same", "All", "Selector"] = Field(
        default="Same",
        alias="from",
        description="Same: only the VPC's own namespace. All: every namespace. Selector: those that match selector.",
    )
    selector: dict[str, Any] | None = Field(
        default=None,
        description="A label selector over namespaces, for from: Selector.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class AttachingNamespaces(AllowedNamespaces):
    """Which namespaces may attach to the VPC, and the pods of those that may no longer."""

    when_revoked: Literal["Keep", "Detach"] = Field(
        default="Keep",
        description="What happens to running pods of a namespace that is no longer admitted. Keep: they stay attached. "
        "Detach: their nodes detach them after 60 s.",
    )


class VpcSpec(Model):
    """The desired state of a VPC."""

    model_config = ConfigDict(json_schema_extra=rules(NETWORKS))

    networks: tuple[Cidr, ...] = Field(
        min_length=1,
        max_length=64,
        description="The VPC's networks in CIDR notation, IPv4 and IPv6. Addresses are allocated from them.",
    )
    identifier: VpcIdentifier | None = Field(
        default=None,
        description="The VPC's identifier (12 hex digits), given so that another cluster can join the same VPC. Left "
        "out: chosen by the operator. Immutable.",
    )
    allowed_namespaces: AttachingNamespaces | None = Field(
        default=None, description="Which namespaces may attach to the VPC. Left out: only its own."
    )
    allowed_terminations: AllowedNamespaces | None = Field(
        default=None,
        description="Which of these namespaces may terminate networks behind their pods (routes via their own "
        "address). Left out: all of them. Its own always may.",
    )


class VpcStatus(Model):
    """The observed state, written by the operator."""

    ready: bool = Field(default=False, description="Whether pods can be attached to the VPC.")
    identifier: str | None = Field(default=None, description="The VPC's identifier, 12 hex digits.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="The VPC's conditions, one entry a type.",
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the status was computed from.",
        json_schema_extra={"format": "int64"},
    )
    attachments: int = Field(
        default=0,
        description="The number of VPCAttachments in the VPC.",
        json_schema_extra={"format": "int32"},
    )
    endpoints: int = Field(
        default=0,
        description="The number of them that are attached to a pod.",
        json_schema_extra={"format": "int32"},
    )


class Vpc(Model):
    """A virtual private cloud: networks that only its own attachments reach."""

    KIND: ClassVar = "VPC"
    PLURAL: ClassVar = "vpcs"
    SHORT: ClassVar = ("vpc",)
    SCOPE: ClassVar = "Namespaced"
    RULES: ClassVar = (IDENTIFIER,)
    COLUMNS: ClassVar = (
        ("Identifier", ".status.identifier", "string"),
        ("Networks", ".spec.networks", "string"),
        ("Attachments", ".status.attachments", "integer"),
        ("Endpoints", ".status.endpoints", "integer"),
        ("Ready", ".status.ready", "boolean"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: VpcSpec = Field(description="The desired state.")
    status: VpcStatus = Field(
        default_factory=VpcStatus, description="The observed state, written by the operator."
    )

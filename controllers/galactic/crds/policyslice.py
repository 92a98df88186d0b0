"""The PolicySlice kind: a part of the rules of a VPC, from the operator to the nodes."""

from typing import ClassVar, Literal

from pydantic import Field

from galactic.crds.model import Meta, Model
from galactic.crds.policy_rules import MAX_EXCEPT, MAX_PEERS, MAX_PORTS, MAX_RULES, PolicyCidr, PolicyPort
from galactic.crds.vpc import VpcIdentifier
from galactic.crds.vpcattachment import Address

MAX_ADDRESSES = 2048
"""In a slice of a group."""


class SliceBlock(Model):
    """Addresses, by number."""

    cidr: PolicyCidr = Field(description="A network.")
    except_: tuple[PolicyCidr, ...] = Field(
        default=(), alias="except", max_length=MAX_EXCEPT, description="Networks inside it that are excluded."
    )


class SliceRule(Model):
    """Packets that are allowed."""

    any_peer: bool = Field(default=False, description="Whether the other end may have any address.")
    groups: tuple[str, ...] = Field(
        default=(), max_length=MAX_PEERS, description="Groups, one of which has the other end's address."
    )
    blocks: tuple[SliceBlock, ...] = Field(
        default=(), max_length=MAX_PEERS, description="Networks, one of which has it."
    )
    ports: tuple[PolicyPort, ...] = Field(
        default=(), max_length=MAX_PORTS, description="Destination ports. Empty: any, of any protocol."
    )


class PolicySliceSpec(Model):
    """The rules of one policy, or some of the addresses of a group."""

    vpc: VpcIdentifier = Field(description="The VPC's identifier, 12 hex digits.")
    role: Literal["Policy", "Floor", "Group"] = Field(
        description="Policy: rules of a VPCPolicy. Floor: rules of the VPC's spec.policies. Group: addresses."
    )
    source: str = Field(default="", max_length=317, description="What it was made from, for people.")
    ingress: tuple[SliceRule, ...] | None = Field(
        default=None, max_length=MAX_RULES, description="Packets that may arrive. Omitted: any."
    )
    egress: tuple[SliceRule, ...] | None = Field(
        default=None, max_length=MAX_RULES, description="Packets that may be sent. Omitted: any."
    )
    group: str = Field(default="", max_length=63, description="The group that the addresses are in.")
    addresses: tuple[Address, ...] = Field(
        default=(), max_length=MAX_ADDRESSES, description="Some of the group's addresses."
    )


class PolicySliceStatus(Model):
    """Empty."""


class PolicySlice(Model):
    """A part of the rules of a VPC, from the operator to the nodes that have attachments with rules. Not for users."""

    KIND: ClassVar = "PolicySlice"
    PLURAL: ClassVar = "policyslices"
    SHORT: ClassVar = ("vpcps",)
    SCOPE: ClassVar = "Cluster"
    RULES: ClassVar = ()
    COLUMNS: ClassVar = (
        ("VPC", ".spec.vpc", "string"),
        ("Role", ".spec.role", "string"),
        ("Source", ".spec.source", "string"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: PolicySliceSpec = Field(description="The part.")
    status: PolicySliceStatus = Field(default_factory=PolicySliceStatus, description="Empty.")

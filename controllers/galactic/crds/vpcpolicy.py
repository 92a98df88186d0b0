"""The VPCPolicy kind: rules inside a VPC, for attachments of one namespace."""

from typing import ClassVar

from pydantic import Field

from galactic.crds.model import Condition, Meta, Model
from galactic.crds.policy_rules import Ruleset
from galactic.crds.vpc import VpcReference


class PolicySpec(Ruleset):
    """The rules of the attachments of this namespace that attachmentSelector matches."""

    vpc: VpcReference = Field(description="The VPC inside which the rules hold.")


class PolicyStatus(Model):
    """The observed state, written by the operator."""

    attachments: int = Field(
        default=0,
        description="Number of attachments that the policy selects.",
        json_schema_extra={"format": "int32"},
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, description="The policy's conditions, one entry a type."
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the status was computed from.",
        json_schema_extra={"format": "int64"},
    )


class VpcPolicy(Model):
    """Packets that attachments of a namespace may receive and send inside a VPC, in NetworkPolicy's words."""

    KIND: ClassVar = "VPCPolicy"
    PLURAL: ClassVar = "vpcpolicies"
    SHORT: ClassVar = ("vpcp",)
    SCOPE: ClassVar = "Namespaced"
    RULES: ClassVar = ()
    COLUMNS: ClassVar = (
        ("VPC", ".spec.vpc.name", "string"),
        ("Attachments", ".status.attachments", "integer"),
        ("Accepted", '.status.conditions[?(@.type=="Accepted")].status', "string"),
        ("Enforced", '.status.conditions[?(@.type=="Enforced")].status', "string"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: PolicySpec = Field(description="The desired state.")
    status: PolicyStatus = Field(
        default_factory=PolicyStatus, description="The observed state, written by the operator."
    )

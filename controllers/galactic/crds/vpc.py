"""The VPC kind: a private network whose attachments reach each other."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from galactic.crds.cel import Rule, rules
from galactic.crds.model import Condition, Meta, Model
from galactic.crds.policy_rules import Ruleset
from galactic.names import API_VERSION

MAX_PEERS: Final = 16
"""Peers that a VPC names."""
MAX_PEER_STATUSES: Final = 2 * MAX_PEERS
"""Those, and as many VPCs that name it."""
Cidr = Annotated[str, StringConstraints(min_length=3, max_length=43)]
VpcIdentifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$", max_length=12)]
MAX_FLOORS: Final = 16


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


ITSELF: Final = Rule(
    # A namespace that is written out is compared by the webhook: CEL does not see the object's own.
    "!has(self.spec.peers)"
    " || !self.spec.peers.exists(p, p.name == self.metadata.name && !has(p.__namespace__))",
    "a VPC is no peer of itself; remove the entry from spec.peers",
    "'spec.peers: ' + self.metadata.name + ' is this VPC itself; remove it'",
    ".spec.peers",
)
TWICE: Final = Rule(
    "!has(self.peers) || self.peers.all(p, self.peers.exists_one(q, q.name == p.name"
    " && (has(q.__namespace__) ? q.__namespace__ : '') == (has(p.__namespace__) ? p.__namespace__ : '')))",
    "peers has an entry twice; remove one of them",
    # The API server estimates the cost of the value's text as a hundred times what it allows; the webhook names it.
    "'peers has an entry twice; remove one of them'",
    ".peers",
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


class PeerReference(Model):
    """A VPC to peer with."""

    namespace: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = Field(
        default=None, description="The peer's namespace. Omitted: the VPC's own."
    )
    name: str = Field(description="The peer's name.", min_length=1, max_length=253)


class VpcReference(Model):
    """A VPC that an object of another kind names."""

    api_version: str = Field(default=API_VERSION, description="The VPC's API version.")
    kind: str = Field(default="VPC", description="VPC.")
    name: str = Field(description="The VPC's name.", min_length=1, max_length=253)
    namespace: str | None = Field(
        default=None,
        description="The VPC's namespace. Omitted: that of the object which names it. Another one needs the VPC's "
        "spec.allowedNamespaces.",
        max_length=63,
    )


class FloorPolicy(Ruleset):
    """Rules of the attachments of other namespaces that attachmentSelector matches. Of peers, an attachmentSelector
    alone is about the VPC's own namespace.
    """

    vpc: VpcReference | None = Field(
        default=None, description="This VPC, as a VPCPolicy has it. Omitted: the same."
    )


class VpcSpec(Model):
    """The desired state of a VPC."""

    model_config = ConfigDict(json_schema_extra=rules(NETWORKS, TWICE))

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
        default=None, description="Which namespaces may attach to the VPC. Omitted: only its own."
    )
    allowed_terminations: AllowedNamespaces | None = Field(
        default=None,
        description="Which of these namespaces may terminate networks behind their pods (routes via their own "
        "address). Omitted: all of them. Its own always may.",
    )
    policies: tuple[FloorPolicy, ...] = Field(
        default=(),
        max_length=MAX_FLOORS,
        description="Rules of attachments of other namespaces, which these cannot lift: a packet passes where these "
        "rules and the VPCPolicies of the attachment's namespace allow it.",
    )
    peers: tuple[PeerReference, ...] = Field(
        default=(),
        max_length=MAX_PEERS,
        description="VPCs whose attachments and those of this one reach each other. In force while both VPCs name each "
        "other and their networks do not overlap; status.peers says what is missing. Not transitive.",
    )


class PeerStatus(Model):
    """A peer as it is now: one that the VPC names, or a VPC that names it."""

    namespace: str = Field(description="The peer's namespace.", max_length=63)
    name: str = Field(description="The peer's name.", max_length=253)
    in_force: bool = Field(default=False, description="Whether attachments of both VPCs reach each other.")
    networks: tuple[Cidr, ...] = Field(
        default=(), max_length=64, description="The peer's networks, while the peering is in force."
    )
    reason: str = Field(
        default="", description="Why, or why not, as one stable CamelCase word.", max_length=64
    )
    message: str = Field(
        default="", description="The reason in a sentence, with the remedy.", max_length=4096
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
    peers: tuple[PeerStatus, ...] = Field(
        default=(),
        max_length=MAX_PEER_STATUSES,
        description="The VPCs of spec.peers in their order, then those that name this one and that it does not name.",
    )


class Vpc(Model):
    """A virtual private cloud: networks that only its own attachments reach."""

    KIND: ClassVar = "VPC"
    PLURAL: ClassVar = "vpcs"
    SHORT: ClassVar = ("vpc",)
    SCOPE: ClassVar = "Namespaced"
    RULES: ClassVar = (IDENTIFIER, ITSELF)
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

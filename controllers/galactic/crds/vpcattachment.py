"""The VPCAttachment kind: one interface of one pod in a VPC."""

from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field, StringConstraints

from galactic.crds.cel import Rule, rules
from galactic.crds.model import Condition, Meta, Model
from galactic.crds.vpc import MAX_PEERS, Cidr, VpcIdentifier, VpcReference

MAX_ADDRESSES: Final = 16
MAX_ROUTES: Final = 256
MAX_NETWORKS: Final = MAX_ADDRESSES + MAX_ROUTES
"""Networks that lead to one attachment."""
MAX_ACCEPTED: Final = 64
"""Networks that an attachment accepts routes within."""
MAX_VPC_NETWORKS: Final = 64
"""Networks of one VPC."""
MAX_CARRIERS: Final = 64
"""Pods that can carry one attachment at a time. The newest gets the traffic; the others are about to go."""
MAX_POLICIES: Final = 256
"""VPCPolicies and floors that select one attachment."""
Address = Annotated[str, StringConstraints(min_length=2, max_length=39)]


RESERVED_NAMES: Final = frozenset({"lo", "eth0", "all", "default"})
"""Interface names that a pod has already, or whose sysctls mean something else (/proc/sys/net/…/conf/all)."""
INTERFACE_CHARACTERS: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""Names that the kernel (dev_valid_name; it numbers a name with %), CNI (CNI_IFNAME) and Multus' annotation (a comma
list has @ and commas of its own) all take, and that no tool reads as an option.
"""

VPC_KEPT: Final = Rule(
    # A namespace that is left out is the attachment's own, which CEL does not see.
    "self.spec.vpc == oldSelf.spec.vpc || !has(oldSelf.status) || !has(oldSelf.status.vpc)"
    " || (oldSelf.status.vpc.endsWith('/' + self.spec.vpc.name)"
    " && (!has(self.spec.vpc.__namespace__)"
    " || oldSelf.status.vpc.startsWith(self.spec.vpc.__namespace__ + '/')))",
    "spec.vpc is immutable once the attachment is ready; set it back, or make another VPCAttachment",
    "(has(self.spec.vpc.__namespace__) ? self.spec.vpc.__namespace__ + '/' : '') + self.spec.vpc.name"
    " + ' cannot replace ' + oldSelf.status.vpc"
    " + ': immutable once the attachment is ready; set it back, or make another VPCAttachment'",
    ".spec.vpc",
)
INTERFACE_FORM: Final = Rule(
    f"self.name.matches('^{INTERFACE_CHARACTERS}$')",
    "the interface name has other characters than letters, digits, '_', '-' and '.', or begins with one of the last "
    "two; give a name such as galactic0",
    "'\\'' + self.name + '\\' has other characters than letters, digits, _, - and ., or begins with one of the last"
    " two; give a name such as galactic0'",
    ".name",
)
INTERFACE_NAME: Final = Rule(
    f"!(self.name in {sorted(RESERVED_NAMES)})",
    "the interface name is in use in every pod; give a name such as galactic0",
    "'\\'' + self.name + '\\' is in use in every pod; give a name such as galactic0'",
    ".name",
)
ROUTE_FAMILY: Final = Rule(
    "!has(self.via) || self.via.contains(':') == self.destination.contains(':')",
    "via and destination differ in their family; give an address of the same family",
    "self.via + ' is not of the family of ' + self.destination + '; give an address of the same family'",
    ".via",
)


class Interface(Model):
    """The interface in the pod."""

    model_config = ConfigDict(json_schema_extra=rules(INTERFACE_FORM, INTERFACE_NAME))
    name: Annotated[str, StringConstraints(pattern=r"^[^/:\s]+$", max_length=15)] = Field(
        default="galactic0",
        description="The interface's name in the pod: at most 15 letters, digits, '_', '-' and '.', the first one a "
        "letter, a digit or '_'.",
    )
    addresses: tuple[Cidr, ...] = Field(
        default=(),
        max_length=MAX_ADDRESSES,
        description="Addresses with prefix length, host bits set: 10.1.1.1/24. Omitted: one per family is allocated "
        "from the VPC's networks.",
    )


class AttachmentRoute(Model):
    """A destination beyond the VPC's own networks."""

    model_config = ConfigDict(json_schema_extra=rules(ROUTE_FAMILY))
    destination: Cidr = Field(description="The destination network in CIDR notation.")
    via: Address | None = Field(
        default=None,
        description="One of the attachment's own addresses: the VPC reaches the destination through this pod (a "
        "termination). Any other: an address of the VPC that the pod sends the destination's packets to.",
    )


class AttachmentSpec(Model):
    """The desired state of an attachment."""

    vpc: VpcReference = Field(description="The VPC to attach to.")
    interface: Interface = Field(default_factory=Interface, description="The interface in the pod.")
    routes: tuple[AttachmentRoute, ...] = Field(
        default=(), max_length=MAX_ROUTES, description="Destinations beyond the VPC's own networks."
    )
    accepted_networks: tuple[Cidr, ...] | None = Field(
        default=None,
        max_length=MAX_ACCEPTED,
        description="Of the networks of the VPC and its peers the pod gets routes to those inside these only; "
        "0.0.0.0/0 and ::/0 accept all. Omitted: all, if the VPC is in the attachment's namespace; else "
        "status.acceptedNetworks.",
    )


class AttachedEndpoint(Model):
    """The pod that has the attachment, as the router last published it."""

    cluster: str = Field(default="", description="The cluster of the node.")
    node: str = Field(description="The node of the pod.")
    sid: str = Field(description="The SRv6 SID that leads to the pod.")
    networks: tuple[str, ...] = Field(
        default=(), max_length=MAX_NETWORKS, description="The networks that the VPC reaches through it."
    )
    epoch: int = Field(
        default=0,
        description="The hybrid logical clock (ns) of the pod's ADD. The newest is routed to.",
        json_schema_extra={"format": "int64"},
    )
    revision: int = Field(
        default=0,
        description="The revision of the VPC's route table that announced it.",
        json_schema_extra={"format": "int64"},
    )
    since: str = Field(
        default="", description="When it was attached there.", json_schema_extra={"format": "date-time"}
    )


class Carrier(Model):
    """A pod that carries the attachment: it names it, and is bound to a node."""

    pod: str = Field(description="The Pod's name, in the attachment's namespace.", max_length=253)
    uid: str = Field(description="The Pod's UID.", max_length=128)
    node: str = Field(description="The Node that the Pod is bound to.", max_length=253)


class ConfiguredTermination(Model):
    """A network that the VPC reaches through the pod."""

    network: Cidr = Field(description="The network in CIDR notation.")
    via: Address = Field(description="The address of the attachment that it is behind.")


class ConfiguredPeer(Model):
    """A VPC that the attachment's VPC is peered with, in force."""

    vpc: VpcIdentifier = Field(description="The peer's identifier, 12 hex digits.")
    networks: tuple[Cidr, ...] = Field(
        default=(),
        max_length=MAX_VPC_NETWORKS,
        description="The peer's networks: nodes take no route outside them.",
    )


class Configuration(Model):
    """The configuration of a carrier's interface, beside the addresses."""

    vpc: VpcIdentifier = Field(description="The VPC's identifier, 12 hex digits.")
    networks: tuple[Cidr, ...] = Field(
        default=(),
        max_length=(1 + MAX_PEERS) * MAX_VPC_NETWORKS + MAX_ACCEPTED,
        description="The networks of the VPC and of its peers, as far as the attachment accepts them.",
    )
    peers: tuple[ConfiguredPeer, ...] = Field(
        default=(), max_length=MAX_PEERS, description="The peers of the VPC whose peering is in force."
    )
    terminations: tuple[ConfiguredTermination, ...] = Field(
        default=(), max_length=MAX_ROUTES, description="Networks that the VPC reaches through the pod."
    )
    routes: tuple[Cidr, ...] = Field(
        default=(), max_length=MAX_ROUTES, description="Further destinations that the pod sends into the VPC."
    )
    mtu: int = Field(
        default=0,
        description="The interface's MTU in bytes; 0: as large as the node's underlay allows.",
        json_schema_extra={"format": "int32"},
    )


class AttachmentStatus(Model):
    """The observed state, written by the operator and the router."""

    ready: bool = Field(default=False, description="Whether a pod can be attached.")
    vpc: str | None = Field(
        default=None,
        description="The VPC that it belongs to, namespace/name, since it was first ready. spec.vpc is immutable "
        "from then on.",
        max_length=317,
    )
    identifier: str | None = Field(
        default=None, description="The attachment's identifier in its VPC, 4 hex digits."
    )
    addresses: tuple[str, ...] = Field(
        default=(), max_length=MAX_ADDRESSES, description="The addresses in force, given or allocated."
    )
    accepted_networks: tuple[Cidr, ...] | None = Field(
        default=None,
        max_length=64,
        description="The networks of the VPC, and of its peers, when the attachment was first ready, if the VPC is in "
        "another namespace. They count where spec.acceptedNetworks is omitted.",
    )
    configuration: Configuration | None = Field(
        default=None,
        description="What a node gives a pod that carries the attachment. Nodes take it from here alone; the "
        "NetworkAttachmentDefinition repeats it for Multus.",
    )
    carriers: tuple[Carrier, ...] | None = Field(
        default=None,
        max_length=MAX_CARRIERS,
        description="The pods that carry the attachment. Nodes attach no other pod, and the router takes no path from "
        "another node.",
    )
    policies: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = Field(
        default=(),
        max_length=MAX_POLICIES,
        description="The PolicySlices whose rules are in force for it. None: every packet of the VPC passes.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=16, description="The attachment's conditions, one entry a type."
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the status was computed from.",
        json_schema_extra={"format": "int64"},
    )
    endpoint: AttachedEndpoint | None = Field(
        default=None, description="Where it is attached, written by the router. Absent: not attached."
    )


class VpcAttachment(Model):
    """One interface of one pod in a VPC. A pod requests it by annotation."""

    KIND: ClassVar = "VPCAttachment"
    PLURAL: ClassVar = "vpcattachments"
    SHORT: ClassVar = ("vpca",)
    SCOPE: ClassVar = "Namespaced"
    RULES: ClassVar = (VPC_KEPT,)
    COLUMNS: ClassVar = (
        ("VPC", ".spec.vpc.name", "string"),
        ("Addresses", ".status.addresses", "string"),
        ("Node", ".status.endpoint.node", "string"),
        ("SID", ".status.endpoint.sid", "string"),
        ("Ready", ".status.ready", "boolean"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: AttachmentSpec = Field(description="The desired state.")
    status: AttachmentStatus = Field(
        default_factory=AttachmentStatus,
        description="The observed state, written by the operator and the router.",
    )

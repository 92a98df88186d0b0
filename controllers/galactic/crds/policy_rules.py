"""The shape of rules inside a VPC, which VPCPolicy and the VPC's own floor share: NetworkPolicy's words."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from galactic.crds.cel import Rule, rules
from galactic.crds.model import Model

MAX_RULES: Final = 100
MAX_PEERS: Final = 100
MAX_PORTS: Final = 100
MAX_EXCEPT: Final = 64
PolicyCidr = Annotated[str, StringConstraints(min_length=3, max_length=43)]
Protocol = Literal["TCP", "UDP", "SCTP"]
PolicyType = Literal["Ingress", "Egress"]
LABEL_SELECTOR: Final[dict[str, Any]] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

PEER_KIND: Final = Rule(
    "has(self.ipBlock) != (has(self.attachmentSelector) || has(self.namespaceSelector))",
    "a peer is either an ipBlock, or an attachmentSelector, a namespaceSelector or both; give one of the two",
)
END_PORT: Final = Rule(
    "!has(self.endPort) || (has(self.port) && self.endPort >= self.port)",
    "endPort is the last port of a range; give port, its first, which is not larger",
    path=".endPort",
)


class IpBlock(Model):
    """Addresses, by number."""

    cidr: PolicyCidr = Field(description="A network in CIDR notation, of either family.")
    except_: tuple[PolicyCidr, ...] = Field(
        default=(),
        alias="except",
        max_length=MAX_EXCEPT,
        description="Networks inside cidr that are excluded.",
    )


class PolicyPeer(Model):
    """Who is at the other end. An ipBlock, or selectors: with both selectors, attachments that match the one in
    namespaces that match the other.
    """

    model_config = ConfigDict(json_schema_extra=rules(PEER_KIND))
    attachment_selector: dict[str, Any] | None = Field(
        default=None,
        description="A label selector over VPCAttachments of the VPC: of this namespace, or of those that "
        "namespaceSelector matches. Empty: all of them.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    namespace_selector: dict[str, Any] | None = Field(
        default=None,
        description="A label selector over namespaces, whose attachments of the VPC are meant. Empty: all namespaces.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    ip_block: IpBlock | None = Field(default=None, description="Addresses, by number.")


class PolicyPort(Model):
    """A port, or a range of ports."""

    model_config = ConfigDict(json_schema_extra=rules(END_PORT))
    protocol: Protocol = Field(default="TCP", description="TCP, UDP or SCTP.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The destination port, as a number. Omitted: all ports of the protocol. Names of ports are those "
        "of a pod's containers, which an attachment does not have.",
        json_schema_extra={"format": "int32"},
    )
    end_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The last port of a range that begins with port.",
        json_schema_extra={"format": "int32"},
    )


class IngressRule(Model):
    """Packets that may reach a selected attachment."""

    from_: tuple[PolicyPeer, ...] = Field(
        default=(),
        alias="from",
        max_length=MAX_PEERS,
        description="Sources of these packets. Omitted or empty: any.",
    )
    ports: tuple[PolicyPort, ...] = Field(
        default=(),
        max_length=MAX_PORTS,
        description="Destination ports. Omitted or empty: any port of any protocol.",
    )


class EgressRule(Model):
    """Packets that a selected attachment may send."""

    to: tuple[PolicyPeer, ...] = Field(
        default=(), max_length=MAX_PEERS, description="Destinations of these packets. Omitted or empty: any."
    )
    ports: tuple[PolicyPort, ...] = Field(
        default=(),
        max_length=MAX_PORTS,
        description="Destination ports. Omitted or empty: any port of any protocol.",
    )


class Ruleset(Model):
    """Which attachments, in which directions, and what they may receive and send."""

    attachment_selector: dict[str, Any] = Field(
        default_factory=dict,
        description="A label selector over VPCAttachments. Omitted or empty: all.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    policy_types: tuple[PolicyType, ...] | None = Field(
        default=None,
        max_length=2,
        description="The directions in which nothing passes but what is listed. Omitted: Ingress, and Egress where "
        "egress has a rule.",
    )
    ingress: tuple[IngressRule, ...] | None = Field(
        default=None, max_length=MAX_RULES, description="Packets that may arrive. Omitted or empty: none."
    )
    egress: tuple[EgressRule, ...] | None = Field(
        default=None, max_length=MAX_RULES, description="Packets that may be sent. Omitted or empty: none."
    )

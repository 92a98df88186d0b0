"""The NodeSegment kind: a node's prefix of the SRv6 block, and the attachments on the node."""

from typing import Annotated, ClassVar, Final

from pydantic import Field, StringConstraints

from galactic.crds.model import Condition, Meta, Model
from galactic.crds.vpcattachment import MAX_NETWORKS

MAX_ENDPOINTS: Final = 4096
"""Endpoints of one node: some 350 bytes each, and etcd takes objects of 1.5 MB."""


class SegmentSpec(Model):
    """The desired state of a NodeSegment."""

    prefix: Annotated[str, StringConstraints(min_length=4, max_length=43)] = Field(
        description="The node's SRv6 prefix, /48 to /64, routed to the node by the underlay."
    )


class SegmentEndpoint(Model):
    """An attachment on the node."""

    vpc: str = Field(description="The VPC's identifier, 12 hex digits.")
    function: str = Field(description="The attachment's identifier in the VPC, 4 hex digits.")
    attachment: str = Field(default="", description="The VPCAttachment, namespace/name.")
    sid: str = Field(description="The SID that leads to it.")
    networks: tuple[str, ...] = Field(
        default=(), max_length=MAX_NETWORKS, description="The networks that the VPC reaches through it."
    )
    container_id: str = Field(default="", alias="containerID", description="The CNI container (pod sandbox).")
    ifname: str = Field(default="", description="The interface's name in the pod.")
    netns: str = Field(
        default="", max_length=4096, description="The path of the pod's network namespace on the node."
    )
    epoch: int = Field(
        default=0,
        description="The hybrid logical clock (ns) of its ADD.",
        json_schema_extra={"format": "int64"},
    )


class SegmentCounts(Model):
    """Numbers of objects on the node."""

    vpcs: int = Field(
        default=0, description="VPCs with an endpoint here.", json_schema_extra={"format": "int32"}
    )
    endpoints: int = Field(
        default=0, description="Attached endpoints.", json_schema_extra={"format": "int32"}
    )
    routes: int | None = Field(
        default=None,
        description="Written by earlier versions only. The metric galactic_node_remote_routes has the number.",
        json_schema_extra={"format": "int32"},
    )


class SegmentNode(Model):
    """The node's software and abilities."""

    kernel: str = Field(default="", description="The kernel's release.")
    version: str = Field(default="", description="The node controller's version.")
    encap: str = Field(default="", description="The seg6 mode in use: encap.red, or encap on older kernels.")


class SegmentStatus(Model):
    """The observed state, written by the node."""

    loopback: str | None = Field(default=None, description="The node's SRv6 loopback, its source address.")
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=64, description="The node's conditions, one entry a type."
    )
    sequence: int = Field(
        default=0,
        description="Orders this list of endpoints among all that the node ever published, over MQTT or here.",
        json_schema_extra={"format": "int64"},
    )
    endpoints: tuple[SegmentEndpoint, ...] = Field(
        default=(), max_length=MAX_ENDPOINTS, description="The attachments on the node."
    )
    counts: SegmentCounts | None = Field(
        default=None, description="Numbers of VPCs and endpoints on the node."
    )
    gateways: tuple[str, ...] = Field(
        default=(),
        max_length=MAX_ENDPOINTS,
        description="The SIDs of the VPCGateways whose way out is in the node's kernel.",
    )
    published: tuple[str, ...] = Field(
        default=(),
        max_length=MAX_ENDPOINTS,
        description="The addresses of VPCGateways whose published ports are led in by the node's kernel.",
    )
    node: SegmentNode | None = Field(
        default=None, description="The node's kernel, version and encapsulation."
    )


class NodeSegment(Model):
    """A node's prefix of the SRv6 block. Named after its Node; only that node writes its status."""

    KIND: ClassVar = "NodeSegment"
    PLURAL: ClassVar = "nodesegments"
    SHORT: ClassVar = ("nseg",)
    SCOPE: ClassVar = "Cluster"
    RULES: ClassVar = ()
    COLUMNS: ClassVar = (
        ("Prefix", ".spec.prefix", "string"),
        ("VPCs", ".status.counts.vpcs", "integer"),
        ("Endpoints", ".status.counts.endpoints", "integer"),
        ("Ready", '.status.conditions[?(@.type=="Ready")].status', "string"),
        ("Age", ".metadata.creationTimestamp", "date"),
    )

    metadata: Meta
    spec: SegmentSpec = Field(description="The desired state.")
    status: SegmentStatus = Field(
        default_factory=SegmentStatus, description="The observed state, written by the node itself."
    )

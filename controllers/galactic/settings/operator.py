"""Settings of the operator."""

from ipaddress import IPv4Network, IPv6Network
from typing import Self

from pydantic import Field, model_validator

from galactic.settings.mqtt import MqttSettings


class OperatorSettings(MqttSettings):
    """Settings of the operator."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks; false: warn",
    )
    mtu: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="MTU of attachments; 0: each node's underlay MTU less the encapsulation",
    )
    segments: dict[str, str] = Field(
        default_factory=dict,
        description="SRv6 prefixes by Node name, before the pool and the Nodes' annotations",
    )
    pool_prefix: IPv6Network | None = Field(
        default=None,
        description="network from which all other Nodes get SRv6 prefixes; none: they wait for one",
    )
    pool_length: int = Field(
        default=56, ge=48, le=64, description="length of the prefixes that the pool gives"
    )
    pool_rest: float = Field(
        default=600.0,
        ge=0,
        description="seconds before the pool gives a prefix again that was given back: routers, and nodes that do not "
        "hear of it, may have routes to its last node for as long as a broker or a router is away",
    )
    router_outside: bool = Field(
        default=False,
        description="the routers of this cluster run outside it and write no endpoint: no attachment is NotRouted for "
        "lack of one",
    )
    unattached_after: float = Field(
        default=30.0,
        gt=0,
        description="seconds that a pod may run without its VPC interface before PodNotAttached reports it",
    )
    evict_unattached: bool = Field(
        default=False,
        description="evict pods that run without their VPC interface, so that their owners replace them; respects "
        "PodDisruptionBudgets, and leaves pods without an owner alone",
    )
    namespace_networks: int = Field(
        default=8192,
        ge=0,
        description="addresses and terminated networks that the attachments of one namespace may hold in a VPC of "
        "another namespace; 0: any number",
    )
    scaled_down_retention: float = Field(
        default=86400.0,
        ge=0,
        description="seconds for which the attachments of a StatefulSet's pods, and so their addresses, are kept after "
        "a scale-down; 0: they are released with the pods",
    )
    remove_node_taint: bool = Field(
        default=True,
        description="remove the taint galactic.datumapis.com/agent-not-ready from a Node once pods can be "
        "attached there",
    )
    set_node_taint: bool = Field(
        default=False,
        description="add that taint (NoSchedule) to a Node on which pods can no longer be attached",
    )

    gateway_addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="networks from which VPCGateways may take addresses, and to which the networks of VPCs without "
        "SNAT belong; none: any, as then only cluster administrators may make VPCGateways",
    )
    gateway_node_selector: dict[str, str] = Field(
        default_factory=dict, description="labels of the Nodes that VPCGateways may use; none: all"
    )
    gateway_forbidden: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="destinations that no VPCGateway leads to, besides the cluster's own networks and addresses",
    )
    gateway_allowed: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="parts of the cluster's own networks that VPCGateways lead to nevertheless",
    )

    publish_entitlements: bool = Field(
        default=False,
        description="publish what the cluster's attachments entitle to at the broker (mqtt_url), for routers outside "
        "of the cluster; the user is the cluster's name",
    )
    issue_broker_certificates: bool = Field(
        default=False,
        description="issue the nodes' client certificates at the broker (request_broker_certificate of the node); the "
        "CA is in the Secret galactic-broker-clients",
    )

    @model_validator(mode="after")
    def _taint(self) -> Self:
        if self.set_node_taint and not self.remove_node_taint:
            raise ValueError("set_node_taint without remove_node_taint would close Nodes for good; give both")
        return self

    @model_validator(mode="after")
    def _pool(self) -> Self:
        if self.pool_prefix is None:
            return self
        if self.pool_prefix.prefixlen > self.pool_length:
            raise ValueError(
                f"pool_prefix {self.pool_prefix} has no prefixes of pool_length {self.pool_length}"
            )
        if self.srv6_block and not self.pool_prefix.subnet_of(self.srv6_block):
            raise ValueError(f"pool_prefix {self.pool_prefix} lies outside srv6_block {self.srv6_block}")
        return self

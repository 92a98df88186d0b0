"""Settings of the operator."""

from ipaddress import IPv6Network
from typing import Self

from pydantic import Field, model_validator

from galactic.settings.process import Settings


class OperatorSettings(Settings):
    """The operator's."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks instead of warning about them",
    )
    mtu: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="MTU of attachments; 0: what each node's underlay leaves room for",
    )
    segments: dict[str, str] = Field(
        default_factory=dict, description="the SRv6 prefixes of Nodes that no annotation gives one, by name"
    )
    pool_prefix: IPv6Network | None = Field(
        default=None,
        description="the network that all other Nodes get SRv6 prefixes from; none: they wait for one",
    )
    pool_length: int = Field(default=56, ge=48, le=64, description="length of the prefixes from the pool")
    router_outside: bool = Field(
        default=False,
        description="this cluster's routers run outside of it and write nothing into it: no attachment is called "
        "NotRouted for that",
    )
    unattached_after: float = Field(
        default=30.0,
        gt=0,
        description="seconds after which a pod that runs without its VPC interface is reported (PodNotAttached)",
    )
    evict_unattached: bool = Field(
        default=False,
        description="evict such pods, so that their owners make others; a PodDisruptionBudget is respected, and a pod "
        "without an owner is left alone",
    )
    remove_node_taint: bool = Field(
        default=True,
        description="take the taint galactic.datumapis.com/agent-not-ready off a Node on which pods can be attached",
    )
    set_node_taint: bool = Field(
        default=False,
        description="put that taint (NoSchedule) on a Node on which pods cannot be attached any more",
    )

    @model_validator(mode="after")
    def _taint(self) -> Self:
        if self.set_node_taint and not self.remove_node_taint:
            raise ValueError("set_node_taint without remove_node_taint would close Nodes for ever; give both")
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

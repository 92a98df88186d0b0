"""Settings that every program has."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "GALACTIC_"


def _address(value: Any) -> Any:
    """Empty is none, as a chart's value has it."""
    return (ip_address(value) if value else None) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Settings of every program."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=False,
        cli_avoid_json=True,
    )

    cluster: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)] = Field(
        default="default", description="name of this cluster, unique among the clusters that share a broker"
    )
    srv6_block: IPv6Network | None = Field(
        default=None,
        description="SRv6 block: the IPv6 network that contains the prefixes of all nodes, e.g. 2001:db8:ff00::/40",
    )
    metrics_port: int = Field(
        default=9090, ge=0, le=65535, description="TCP port of /metrics and /healthz; 0: no server"
    )
    metrics_address: Annotated[IPv4Address | IPv6Address | None, BeforeValidator(_address)] = Field(
        default=None,
        description="address of this host at which /metrics and /healthz are served; none: all of its addresses. The "
        "chart gives programs on the host's network the Node's address",
    )
    metrics_secure: bool = Field(
        default=False,
        description="serve /metrics and /healthz by HTTPS, and /metrics only to clients whose token the API server "
        "knows, and whose user may `get` the non-resource URL /metrics",
    )
    metrics_cert_file: Path | None = Field(
        default=None,
        description="serving certificate (PEM) of metrics_secure, read again when it changes; none: a self-signed one",
    )
    metrics_key_file: Path | None = Field(default=None, description="key of metrics_cert_file (PEM)")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level that is logged"
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="log format: json for log collectors, console for a terminal"
    )

    @model_validator(mode="after")
    def _metrics_certificate(self) -> Self:
        if (self.metrics_cert_file is None) != (self.metrics_key_file is None):
            raise ValueError("metrics_cert_file and metrics_key_file belong together: give both or neither")
        if self.metrics_cert_file is not None and not self.metrics_secure:
            raise ValueError("metrics_cert_file is not served without metrics_secure: give that as well")
        return self

"""Settings of the admission webhook."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from galactic.settings.process import Settings


def _networks(text: str) -> str:
    for one in filter(None, (part.strip() for part in text.split(","))):
        try:
            ip_network(one)
        except ValueError as error:
            raise ValueError(
                f"{error}; write networks, separated by commas: 10.96.0.0/12,fd00::/108"
            ) from error
    return text


class WebhookSettings(Settings):
    """Settings of the admission webhook."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks; false: warn",
    )
    patience: float = Field(
        default=10.0,
        ge=0,
        le=11,
        description="seconds to wait for a pod's attachment to be ready before the pod is refused",
    )
    drain_seconds: float = Field(
        default=5.0,
        ge=0,
        le=20,
        description="seconds for which requests are still answered after SIGTERM, until no API server sends any",
    )
    node_identities: str = Field(
        default="system:node:{node},galactic-node-{node},system:serviceaccount:galactic-system:galactic-node",
        description="user names of node controllers, separated by commas; {node} stands for the Node's "
        "name; without it "
        "the service account's token names the Node",
    )
    pod_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="pod networks besides the Nodes' podCIDRs, separated by commas"
    )
    service_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="Service networks besides the cluster's ServiceCIDRs, separated by commas"
    )
    port: int = Field(default=9443, ge=1, le=65535, description="HTTPS port of the webhook")
    webhook_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = Field(
        default="galactic-webhook",
        description="name of the Service and the Secret",
    )
    configuration_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = (
        Field(
            default="galactic-admission",
            description="name of the two webhook configurations, in which the webhook enters its CAs",
        )
    )
    namespace: str = Field(default="galactic-system", description="namespace of the Service and the Secret")
    webhook_url: Annotated[str, Field(pattern=r"^(https://[^/?#]+)?$")] = Field(
        default="", description="URL at which the API server reaches the webhook; empty: through the Service"
    )
    configure: bool = Field(
        default=True,
        description="enter the CAs in the webhook configurations; false: they are managed elsewhere",
    )
    certificate_hours: float = Field(
        default=2160.0, gt=0, description="validity of self-made certificates, in hours"
    )
    cert_file: Path | None = Field(
        default=None,
        description="serving certificate (PEM) that is issued elsewhere; none: the webhook makes and renews its own",
    )
    key_file: Path | None = Field(default=None, description="key of cert_file (PEM)")
    ca_file: Path | None = Field(
        default=None,
        description="CA certificates (PEM) for the webhook configurations; none: they are entered elsewhere",
    )
    client_ca_file: Path | None = Field(
        default=None,
        description="CA certificates (PEM) of the API server's client certificate, without which no request is "
        "answered; none: every client is answered",
    )
    client_names: str = Field(
        default="",
        description="common names of client certificates that are accepted, separated by commas; empty: every "
        "certificate of client_ca_file",
    )
    max_in_flight: int = Field(
        default=512,
        ge=2,
        description="requests that are answered at a time; a client's address gets half of it",
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.client_names and self.client_ca_file is None:
            raise ValueError("client_names needs client_ca_file: give the CA of those certificates as well")
        return self

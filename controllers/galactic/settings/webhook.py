"""Settings of the admission webhook."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

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
    """The admission webhooks'."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks instead of warning about them",
    )
    patience: float = Field(
        default=10.0,
        ge=0,
        le=11,
        description="seconds for which a pod waits for its attachment to be ready before it is refused",
    )
    node_identities: str = Field(
        default="system:node:{node},galactic-node-{node},system:serviceaccount:galactic-system:galactic-node",
        description="users that are a node, separated by commas; {node} stands for its name, and without it the node "
        "is the one that the service account's token is for",
    )
    pod_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="networks of the cluster's pods, besides the Nodes' podCIDRs"
    )
    service_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="networks of the cluster's services, besides its ServiceCIDRs"
    )
    port: int = Field(default=9443, ge=1, le=65535, description="port of the webhooks (HTTPS)")
    webhook_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = Field(
        default="galactic-webhook", description="name of the configurations, the Service and the Secret"
    )
    namespace: str = Field(default="galactic-system", description="namespace of the Service and the Secret")
    webhook_url: Annotated[str, Field(pattern=r"^(https://[^/?#]+)?$")] = Field(
        default="", description="how the API server reaches the webhooks; empty: as the Service"
    )
    configure: bool = Field(
        default=True, description="write the webhook configurations; false: somebody else does"
    )
    pod_failure_policy: Literal["Fail", "Ignore"] = Field(
        default="Fail", description="what becomes of pods while no webhook server is there"
    )
    certificate_hours: float = Field(
        default=2160.0, gt=0, description="for how long certificates of our own are valid"
    )
    cert_file: Path | None = Field(
        default=None, description="a certificate that others make (PEM); none: our own, renewed by us"
    )
    key_file: Path | None = Field(default=None, description="its key (PEM)")
    ca_file: Path | None = Field(
        default=None, description="the CAs to enter into the configurations (PEM); none: left to others"
    )
    inject_ca_from: str = Field(
        default="", description="cert-manager's Certificate, namespace/name, whose CA its injector enters"
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or neither")
        return self

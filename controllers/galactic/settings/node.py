"""Settings of the node controller."""

import os
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from galactic.settings.mqtt import MqttSettings


def _socket(path: Path) -> Path:
    if len(os.fsencode(path)) > 107:
        raise ValueError("a unix socket's path has at most 107 bytes (unix(7))")
    return path


class NodeSettings(MqttSettings):
    """Settings of the node controller."""

    node_name: str = Field(default="", description="name of this Node; the DaemonSet sets spec.nodeName")
    underlay_interface: str = Field(
        default="", description="interface of the underlay; empty: the interface of the default route"
    )
    socket: Annotated[Path, AfterValidator(_socket)] = Field(
        default=Path("/var/run/galactic/agent.sock"), description="unix socket for the CNI plugin"
    )
    cni_conf_dir: Path | None = Field(
        default=None,
        description="folder of the container runtime's CNI configurations, in which that of Multus must be the first "
        "(condition MultusConfigured); none: not checked",
    )
    drop_external_sids: bool = Field(
        default=True,
        description="drop packets to this node's SIDs from sources outside the SRv6 block (RFC 8754 §5.1)",
    )
    attachment_metrics: int = Field(
        default=250,
        ge=0,
        description="attachments of this node that have metrics of their own, about ten series each; 0: none. VPCs "
        "have theirs all the same",
    )
    usage_interval: float = Field(
        default=60.0,
        ge=0,
        description="seconds between two messages with the traffic of this node's attachments, which a router with a "
        "database records; 0: none",
    )
    request_broker_certificate: bool = Field(
        default=False,
        description="ask the operator for this node's client certificate at the broker (issue_broker_certificates of "
        "the operator), instead of mqtt_cert_file; it is kept beside the socket",
    )

    @model_validator(mode="after")
    def _requested(self) -> Self:
        if not self.request_broker_certificate:
            return self
        if self.mqtt_cert_file is not None:
            raise ValueError("give mqtt_cert_file or request_broker_certificate, not both")
        if urlsplit(self.mqtt_url).scheme not in ("mqtts", "wss"):
            raise ValueError(
                f"request_broker_certificate is for mqtts:// and wss://, and mqtt_url is {self.mqtt_url}"
            )
        return self

"""Settings of the node controller."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from galactic.settings.mqtt import MqttSettings


def _socket(path: Path) -> Path:
    if len(os.fsencode(path)) > 107:
        raise ValueError("a unix socket's path has at most 107 bytes (unix(7))")
    return path


class NodeSettings(MqttSettings):
    """The node controller's."""

    node_name: str = Field(default="", description="the Node's name; in the DaemonSet spec.nodeName")
    underlay_interface: str = Field(
        default="", description="the interface of the underlay; empty: the default route's"
    )
    socket: Annotated[Path, AfterValidator(_socket)] = Field(
        default=Path("/var/run/galactic/agent.sock"), description="unix socket that the CNI plugin talks to"
    )
    cni_conf_dir: Path | None = Field(
        default=None,
        description="folder of the container runtime's network configurations, of which Multus' must be the first "
        "(condition MultusConfigured); none: not looked at",
    )
    drop_external_sids: bool = Field(
        default=True,
        description="drop what is sent to this node's SIDs from outside the SRv6 block (RFC 8754 §5.1)",
    )

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

"""A node's configurations in /etc/cni/net.d: that of the default network, and one that sorts before it."""

import json
from collections.abc import Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final

from galactic_lab.node import kubelet, multus

DEFINITION: Final = "00-multus.conflist"
"""The configuration of the stand-in for Multus. It sorts before that of the default network, as Multus' own does."""


def configure(pods: IPv6Network, kubeconfig: Path, plugins: Sequence[Path]) -> None:
    """Writes the configurations of the default network and of the stand-in, which sorts first."""
    plugin = {
        "type": multus.NAME,
        "delegate": kubelet.network(pods),
        "kubeconfig": str(kubeconfig),
        "state": "/run/cni/multus",
        "plugins": [str(path) for path in plugins],
    }
    define(pods, {"cniVersion": "1.0.0", "name": "multus", "plugins": [plugin]})


def define(pods: IPv6Network, first: dict[str, Any] | None) -> None:
    """Writes the default network's configuration, and ``first``, if any, to sort before it."""
    folder = kubelet.DEFINITIONS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10-pods.conflist").write_text(json.dumps(kubelet.network(pods)))
    if first:
        (folder / DEFINITION).write_text(json.dumps(first))

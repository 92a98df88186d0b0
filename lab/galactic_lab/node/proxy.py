"""kube-proxy on a node: Services lead to pods, and to the API server, by nftables or by iptables."""

import json
import os
from pathlib import Path
from typing import Any, Final

from galactic_lab.node import containerd
from galactic_lab.state import Node, State

PROGRAM: Final = "nft"
PACKAGE: Final = "nftables"
"""The package of that program, which kube-proxy runs."""
PODS: Final = "fd01::/16"
"""The addresses of all nodes' pods in the default network."""
MODES: Final = ("nftables", "iptables")
"""The nodes of a lab use these modes in turn."""


def mode(state: State, member: Node) -> str:
    """kube-proxy's mode on that node."""
    return MODES[state.members.index(member) % len(MODES)]


def configuration(name: str, kubeconfig: Path, mode: str) -> dict[str, Any]:
    """kube-proxy's configuration for a namespace that may not set limits of connection tracking."""
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": mode,
        "hostnameOverride": name,
        "clusterCIDR": PODS,
        "bindAddress": "::",
        "conntrack": untouched,
    }


def start(binary: Path, state: State, member: Node) -> None:
    """Becomes kube-proxy."""
    settings = configuration(member.name, state.identity("kube-proxy"), mode(state, member))
    path = containerd.STATE / "kube-proxy.json"
    path.write_text(json.dumps(settings, indent=2))
    os.execv(binary, [str(binary), f"--config={path}"])  # noqa: S606 - no shell is the point

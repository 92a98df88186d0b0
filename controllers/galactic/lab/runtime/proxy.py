"""kube-proxy on a node: Services lead to pods, and to the API server, by nftables."""

import json
import os
from pathlib import Path
from typing import Any, Final

from galactic.lab.runtime import containerd

PROGRAM: Final = "nft"
PACKAGE: Final = "nftables"
"""kube-proxy runs the program, which is in that package."""
PODS: Final = "fd01::/16"
"""The addresses of all nodes' pods in the default network."""


def configuration(name: str, kubeconfig: Path) -> dict[str, Any]:
    """Of a node whose network namespace may not set limits of the kernel's connection tracking."""
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "hostnameOverride": name,
        "clusterCIDR": PODS,
        "bindAddress": "::",
        "conntrack": untouched,
    }


def start(binary: Path, name: str, kubeconfig: Path) -> None:
    """Becomes kube-proxy."""
    path = containerd.STATE / "kube-proxy.json"
    path.write_text(json.dumps(configuration(name, kubeconfig), indent=2))
    os.execv(binary, [str(binary), f"--config={path}"])  # noqa: S606 - no shell is the point

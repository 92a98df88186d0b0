"""kubelet on a node: its configuration, and that of the default network."""

import json
import os
import socket
import time
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final

from galactic_lab.node import containerd
from galactic_lab.state import DNS, DOMAIN

DEFINITIONS: Final = Path("/etc/cni/net.d")
ROOT: Final = Path("/var/lib/kubelet")
CONTAINERD_SECONDS: Final = 60.0
PORT: Final = 10250


def configuration(domain: str = DOMAIN) -> dict[str, Any]:
    """The configuration of a node in memory: no eviction for a full disk, no systemd, no authorization."""
    never = dict.fromkeys(
        (
            "memory.available",
            "nodefs.available",
            "nodefs.inodesFree",
            "imagefs.available",
            "imagefs.inodesFree",
        ),
        "0%",
    )
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": "::",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
        "evictionHard": never,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "enforceNodeAllocatable": ["none"],
        "nodeStatusUpdateFrequency": "10s",
        "nodeLeaseDurationSeconds": 40,
        "runtimeRequestTimeout": "2m",
        "volumePluginDir": str(ROOT / "volumeplugins"),
        "clusterDomain": domain,
        "clusterDNS": [DNS],
        "resolvConf": "",
    }


def network(pods: IPv6Network) -> dict[str, Any]:
    """The default network of a node: a bridge with that prefix."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni/ipam",
        "ranges": [[{"subnet": str(pods)}]],
        "routes": [{"dst": "::/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def start(binary: Path, name: str, address: str, kubeconfig: Path) -> None:
    """Becomes kubelet, once containerd answers."""
    deadline = time.monotonic() + CONTAINERD_SECONDS
    while not _answers(containerd.SOCKET) and time.monotonic() < deadline:
        time.sleep(0.05)
    ROOT.mkdir(parents=True, exist_ok=True)
    path = containerd.STATE / "kubelet.json"
    path.write_text(json.dumps(configuration(), indent=2))
    argv = [
        str(binary),
        f"--config={path}",
        f"--kubeconfig={kubeconfig}",
        f"--node-ip={address}",
        f"--hostname-override={name}",
        f"--root-dir={ROOT}",
        f"--cert-dir={ROOT / 'pki'}",
    ]
    os.execv(binary, argv)  # noqa: S606 - no shell is the point


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True

"""A real Multus on a node, from a given folder: its thin plugin, or its daemon with the shim.

``multus`` alone is thin: called for each pod, configured by the lab. ``multus-daemon`` and ``multus-shim`` are thick,
as Multus' own DaemonSet runs them: the daemon writes its configuration itself, and removes it when it ends.
"""

import json
import os
from collections.abc import Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from galactic.errors import Rejected
from galactic_lab.kubeconfig import Access
from galactic_lab.node import containerd, kubelet, networks

SETTING: Final = "GALACTIC_LAB_MULTUS"
"""The variable that names the folder."""
THIN: Final = "multus"
DAEMON: Final = "multus-daemon"
SHIM: Final = "multus-shim"
DEFINITION: Final = "00-multus.conf"
"""The file name of the daemon's configuration."""
SECRETS: Final = Path("/run/secrets/kubernetes.io/serviceaccount")
"""The daemon's credentials for the API server, as in a container. All nodes share the folder."""
VERSION: Final = "1.0.0"


def given(folder: str) -> str:
    """The folder's absolute path; empty where none is given. Raises Rejected where a program is missing."""
    if not folder:
        return ""
    path = Path(folder).resolve()
    if not has(path, THIN) and not thick(str(path)):
        raise Rejected(
            f"{path} has neither the program `{THIN}` nor `{DAEMON}` and `{SHIM}`: build them, or leave it out",
            field=SETTING,
        )
    return str(path)


def has(folder: Path, program: str) -> bool:
    return (folder / program).is_file() and os.access(folder / program, os.X_OK)


def thick(folder: str) -> bool:
    """Whether the folder has the daemon and the shim: nodes then run these."""
    return bool(folder) and has(Path(folder), DAEMON) and has(Path(folder), SHIM)


def definition(folder: str) -> str:
    """The file name of Multus' configuration in /etc/cni/net.d, with that folder or with none."""
    return DEFINITION if thick(folder) else networks.DEFINITION


def configure(folder: str, pods: IPv6Network, kubeconfig: Path) -> None:
    """Writes the default network's configuration, and the thin plugin's before it."""
    if thick(folder):
        networks.define(pods, None)
        return
    plugin: dict[str, Any] = {
        "type": THIN,
        "delegates": [kubelet.network(pods)],
        "kubeconfig": str(kubeconfig),
        "cniDir": "/run/cni/multus",
    }
    networks.define(pods, {"cniVersion": VERSION, "name": "multus", "plugins": [plugin]})


def start(folder: str, node: str, kubeconfig: Path, plugins: Sequence[Path]) -> None:
    """Becomes the daemon. ``plugins``: the folders of CNI plugins."""
    access = Access.read(kubeconfig)
    server = urlsplit(access.server)
    SECRETS.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("token", access.token),
        ("ca.crt", Path(access.authority).read_text()),
    ):
        partial = SECRETS / f"{name}.{node}"  # another node's daemon reads all or nothing
        partial.write_text(text)
        partial.rename(SECRETS / name)
    sockets = str(containerd.STATE / "multus")
    settings = {
        "cniVersion": VERSION,
        "cniConfigDir": str(kubelet.DEFINITIONS),
        "multusAutoconfigDir": str(kubelet.DEFINITIONS),
        "multusConfigFile": "auto",
        "socketDir": sockets,
        "daemonSocketDir": sockets,
        "cniDir": "/run/cni/multus",
        "logToStderr": True,
        "logLevel": "verbose",
    }
    path = containerd.STATE / "multus-daemon.json"
    path.write_text(json.dumps(settings, indent=2))
    variables = os.environ | {
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "MULTUS_NODE_NAME": node,
        "CNI_PATH": os.pathsep.join(map(str, plugins)),
    }
    program = Path(folder) / DAEMON
    os.execve(program, [str(program), "-config", str(path)], variables)  # noqa: S606 - no shell is the point

"""containerd on a node: its configuration, and its root folder with the shared images."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from galactic_lab.images.base import PAUSE

ROOT: Final = Path("/var/lib/containerd")
STATE: Final = Path("/run/containerd")
SOCKET: Final = STATE / "containerd.sock"
CONTENT: Final = "io.containerd.content.v1.content"
SNAPSHOTS: Final = "io.containerd.snapshotter.v1.overlayfs"
METADATA: Final = "io.containerd.metadata.v1.bolt"
UNUSED: Final = (
    *("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper", "snapshotter.v1.blockfile"),
    *("snapshotter.v1.erofs", "differ.v1.erofs", "internal.v1.opt", "tracing.processor.v1.otlp"),
    *("internal.v1.tracing", "nri.v1.nri"),
)
"""Plugins that cost start-up time and do nothing on a node of the lab."""


def configuration(plugins: Sequence[Path], definitions: Path) -> str:
    """``plugins``: folders of CNI plugins; ``definitions``: the folder of the default network's configuration."""
    disabled = ", ".join(f'"io.containerd.{name}"' for name in UNUSED)
    folders = ", ".join(f'"{path}"' for path in plugins)
    return f"""version = 3
root = "{ROOT}"
state = "{STATE}"
disabled_plugins = [{disabled}]
[grpc]
address = "{SOCKET}"
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
disable_apparmor = true
tolerate_missing_hugetlb_controller = true
disable_hugetlb_controller = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{folders}]
conf_dir = "{definitions}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
"""


def fill_root(template: Path, root: Path = ROOT) -> None:
    """A root with all images of ``template``: its two databases are copied, blobs and snapshots are links to it.

    Layers are read-only. An existing root stays: it has the node's containers.
    """
    if (root / METADATA).exists():
        return
    blobs, snapshots = root / CONTENT / "blobs", root / SNAPSHOTS / "snapshots"
    for path in (root / CONTENT / "ingest", blobs, snapshots):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / SNAPSHOTS / "metadata.db", root / SNAPSHOTS)
    (blobs / "sha256").symlink_to(template / CONTENT / "blobs" / "sha256")
    for layer in (template / SNAPSHOTS / "snapshots").iterdir():
        (snapshots / layer.name).symlink_to(layer)
    shutil.copytree(template / METADATA, root / f"{METADATA}.partial")
    (root / f"{METADATA}.partial").rename(root / METADATA)


def start(binary: Path, plugins: Sequence[Path], definitions: Path, template: Path) -> None:
    """Becomes containerd. Its shim and runc are found in PATH."""
    fill_root(template)
    path = STATE / "config.toml"
    path.write_text(configuration(plugins, definitions))
    os.environ["PATH"] = f"{binary.parent}:{os.environ['PATH']}"
    os.execv(binary, [str(binary), "--config", str(path)])  # noqa: S606 - no shell is the point

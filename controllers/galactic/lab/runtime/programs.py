"""The programs that a node runs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Programs:
    """``plugins``: the folder of the CNI plugins; ``images``: containerd's root with the images that all nodes have."""

    kubelet: Path
    containerd: Path
    plugins: Path
    images: Path


def found() -> Programs:
    folder = Path("/root/.cache/galactic/dev-real/bin")
    return Programs(folder / "kubelet", folder / "containerd", folder, Path("/root/.cache/galactic/dev-real/images/root"))

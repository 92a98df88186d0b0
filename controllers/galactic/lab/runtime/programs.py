"""The programs that a node runs, each from a build of ours."""

from dataclasses import dataclass
from pathlib import Path

from galactic.errors import Rejected
from galactic.lab import build_modules
from galactic.lab.builds import Build
from galactic.lab.runtime import images


@dataclass(frozen=True, slots=True)
class Programs:
    """``plugins``: the folder of the CNI plugins; ``images``: containerd's root with the images that all nodes have."""

    kubelet: Path
    containerd: Path
    plugins: Path
    images: Path


def needed(kubernetes: str = "") -> list[Build]:
    """What a node of that version of Kubernetes is built from, in an order in which it can be built."""
    containerd = build_modules.containerd()
    return [build_modules.kubernetes(kubernetes), containerd, images.build(containerd)]


def find(kubernetes: str = "") -> Programs:
    """The programs. Raises Rejected with what to do while one is missing."""
    builds = needed(kubernetes)
    for one in builds:
        if not one.built():
            raise Rejected(f"{one.name} is not built; run `galactic lab build`", field="nodes")
    kubelets, containerds, rooted = (one.home for one in builds)
    return Programs(kubelets / "kubelet", containerds / "containerd", containerds, rooted / "root")

"""The programs of a node, each from a cached build."""

from dataclasses import dataclass
from pathlib import Path

from galactic.errors import Rejected
from galactic_lab.builds import build_modules
from galactic_lab.builds.build import Build
from galactic_lab.images import base as images
from galactic_lab.images import chart as chart_images


@dataclass(frozen=True, slots=True)
class Programs:
    """``plugins``: the folder of the CNI plugins; ``images``: containerd's root with the images that all nodes have."""

    kubelet: Path
    proxy: Path
    containerd: Path
    plugins: Path
    images: Path


def needed(kubernetes: str = "") -> list[Build]:
    """The builds for a node of that version of Kubernetes, in an order in which they can be built."""
    containerd = build_modules.containerd()
    return [build_modules.kubernetes(kubernetes), containerd, images.build(containerd)]


def chart(kubernetes: str = "") -> tuple[Build, list[Build]]:
    """The build of the chart's images; and all builds for them and the cluster's DNS, in order."""
    _, containerd, base = needed(kubernetes)
    root = chart_images.build(containerd, base)
    return root, [containerd, base, root, build_modules.coredns()]


def find(kubernetes: str = "", root: str = "") -> Programs:
    """The programs, with the images in the build ``root`` if one is given.

    Raises Rejected with a remedy while one is missing.
    """
    builds = needed(kubernetes)
    for one in builds:
        if not one.built():
            raise Rejected(f"{one.name} is not built; run `galactic lab build`", field="nodes")
    servers, containerd, rooted = (one.home for one in builds)
    return Programs(
        kubelet=servers / "kubelet",
        proxy=servers / "kube-proxy",
        containerd=containerd / "containerd",
        plugins=containerd,
        images=(Path(root) if root else rooted) / "root",
    )

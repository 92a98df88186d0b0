"""The containerd root of nodes in a lab with the chart: Galactic's image, a broker's, and those of all labs.

Galactic's image has its name in the chart's defaults. The broker is Debian's Mosquitto, with a name of its own.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import yaml

from galactic_lab.builds import cache
from galactic_lab.builds.build import Build, Job
from galactic_lab.images import base as images
from galactic_lab.images.store import BROKER_FILE, NEWER, PACKAGES, SUITE, Store
from galactic_lab.state import State, checkout, labs

NAME: Final = "chart-images"
COPIED: Final = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "controllers", "src")
"""The parts of the checkout that .dockerignore admits."""
BROKER: Final = f"lab.local/mosquitto:{SUITE}"
KEPT: Final = 1
"""The number of roots of other versions that stay when a new one is built: each takes 600 MB."""


def galactic(chart: Path) -> str:
    """The full name of Galactic's image in the chart's defaults, as containerd has it."""
    image = yaml.safe_load((chart / "values.yaml").read_text())["image"]
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    return f"docker.io/library/{image['repository']}:{image['tag'] or version}"


def content(root: Path) -> str:
    """A hash of the files that the image is built from."""
    digest = hashlib.sha256()
    for path in sorted(_files(root)):
        digest.update(f"{path.relative_to(root)} {path.stat().st_mode & 0o777:o}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for top in COPIED:
        for path in [root / top] if (root / top).is_file() else (root / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def make(job: Job, containerd: Path, base: Path, tags: tuple[str, str]) -> None:
    """Builds the folder ``root`` from ``base``, a root with the other images. Raises BuildFailed."""
    forget()
    store, archives = Store(), (job.work / "galactic.tar", job.work / "broker.tar")
    with store.alone():
        store.tidy()
        steps: list[tuple[str, float, Callable[[], str]]]
        steps = [("galactic", 100, partial(store.build, "image")), ("mosquitto", 20, store.broker)]
        for (title, seconds, step), tag, path in zip(steps, tags, archives, strict=True):
            job.advance(job.done, f"building the image {title}")
            store.export(step(), tag, path)
            job.done += seconds
    root = job.out / "root"
    shutil.copytree(base, root, symlinks=True)
    images.unpack(job, containerd, root, dict.fromkeys(archives, 10))


def forget() -> None:
    """Removes the roots of other versions of the checkout, except the latest and those of labs that are up."""
    used = {state.images for name in labs() if (state := State.load(name))}
    homes = cache.root().glob(f"{NAME}-" + "[0-9a-f]" * 12)
    unused = [path for path in homes if str(path) not in used]
    for path in sorted(unused, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def build(containerd: Build, base: Build) -> Build:
    """The root for this checkout and its chart."""
    tags = (galactic(checkout() / "charts/galactic"), BROKER)
    return Build(
        name=NAME,
        files=("root",),
        inputs=f"1 {base.inputs} {content(checkout())} {tags} {SUITE} {NEWER} {BROKER_FILE} {PACKAGES}",
        seconds=150,
        make=partial(_make, containerd=containerd, base=base, tags=tags),
    )


def _make(job: Job, containerd: Build, base: Build, tags: tuple[str, str]) -> None:
    make(job, containerd.home, base.home / "root", tags)

"""Images built on this machine with nothing but Debian's packages: buildah, on a base that debootstrap makes.

The cache keeps the base, named after what it is made of, and the layers that buildah finds unchanged.
"""

import fcntl
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from galactic_lab.builds import cache, packages
from galactic_lab.builds.build import BuildFailed
from galactic_lab.builds.fetching import fetched
from galactic_lab.images import mirrors
from galactic_lab.state import checkout

SUITE: Final = "bookworm"
NEWER: Final = "trixie"
"""That Galactic's image has a newer nft of."""
MAKING: Final = "making-"
"""The prefix of folders of a running build."""
ENOUGH: Final = 12 << 30
"""Bytes of layers above which all of them are removed."""
PACKAGES: Final = ("buildah", "debootstrap")
LATER: Final = "netavark"
"""Buildah of Debian 13 starts with it alone, though no image here needs a network of its own."""
BROKER_FILE: Final = """\
ARG BASE
FROM ${BASE}
RUN apt-get update --quiet \\
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends mosquitto \\
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
USER 1883:1883
CMD ["mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"]
"""
"""Debian's Mosquitto, as the user that the chart runs it as."""
Done = subprocess.CompletedProcess[str]


class Store:
    """Buildah's images and containers, apart from those of the machine."""

    def __init__(self) -> None:
        packages.install(PACKAGES if mirrors.debian() == SUITE else (*PACKAGES, LATER))
        self.folder = cache.root() / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._config, self._limits = self.folder / "storage.conf", self.folder / "limits.conf"
        self.environment = os.environ | {
            "CONTAINERS_STORAGE_CONF": str(self._config),
            "CONTAINERS_CONF_OVERRIDE": str(self._limits),
            "BUILDAH_ISOLATION": "chroot",
        }
        self.environment.pop("STORAGE_DRIVER", None)
        self._containers: list[str] = []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time builds."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._config.write_text(
                f'[storage]\ndriver = "{_driver()}"\n'
                f'graphroot = "{self.folder}/graph"\nrunroot = "{self.folder}/run"\n'
            )
            self._limits.write_text(_limits())
            yield

    def buildah(self, *words: str | Path) -> str:
        """The output of buildah. Raises BuildFailed."""
        command = ["buildah", *map(str, words)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return _succeeded(command, done).stdout.strip()

    def tidy(self) -> None:
        """Removes containers and folders that a killed run left, and all layers where there are too many."""
        self.buildah("rm", "--all")
        for left in self.folder.glob(f"{MAKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        sizes = subprocess.run(["du", "-sxb", self.folder], capture_output=True, text=True, check=False)
        if int(sizes.stdout.split()[0]) > ENOUGH:
            self.buildah("rmi", "--all", "--force")

    def base(self, suite: str = SUITE, *packages: str) -> str:
        """Builds an image of minimal Debian, with those packages, by debootstrap; its name."""
        source = mirrors.mirror(suite)
        parts = " ".join(("2", suite, source, *packages))
        name = f"localhost/base:{hashlib.sha256(parts.encode()).hexdigest()[:12]}"
        if self.buildah("images", "--quiet", "--filter", f"reference={name}"):
            return name
        with self._folder() as folder:
            root = folder / "root"
            # In a mount namespace of its own: debootstrap's mounts end with it.
            words = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
            words += [f"--include={','.join(packages)}"] if packages else []
            words += [suite, str(root), source]

            def make() -> Done:
                shutil.rmtree(root, ignore_errors=True)
                return subprocess.run(words, capture_output=True, text=True, check=False)

            _succeeded(words, fetched(make))
            empty = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")
            for path in empty:
                shutil.rmtree(root / path)
                (root / path).mkdir()
            container = self.buildah("from", "scratch")
            self.buildah("add", "--quiet", container, root, "/")
            self.buildah("commit", "--quiet", "--rm", container, name)
        return name

    def build(self, target: str) -> str:
        """Builds a target of Galactic's Dockerfile, as `make image` does; its name. Raises BuildFailed."""
        name = f"localhost/galactic-{target}:built"
        words = [sys.executable, "-m", "release.image", "--engine=buildah", f"--tag={name}"]
        words += [f"--base={self.base()}", f"--newer={self.base(NEWER, 'nftables')}", f"--target={target}"]
        with self._folder() as folder:
            lent = ["--layers", *mirrors.options(folder, SUITE)]
            self._fetch([*words, *(f"--option={option}" for option in lent)])
        return name

    def broker(self) -> str:
        """Builds an image of Debian's Mosquitto; its name. Raises BuildFailed."""
        name = "localhost/mosquitto:built"
        with self._folder() as folder:
            (folder / "Dockerfile").write_text(BROKER_FILE)
            (folder / "context").mkdir()
            words = ["buildah", "build", "--layers", f"--file={folder}/Dockerfile", f"--tag={name}"]
            words += [f"--build-arg=BASE={self.base()}", *mirrors.options(folder, SUITE)]
            self._fetch([*words, str(folder / "context")])
        return name

    def export(self, name: str, tag: str, path: Path) -> None:
        """Writes the image as an archive for containerd, with the name ``tag`` and uncompressed layers."""
        self.buildah("push", "--quiet", name, f"docker-archive:{path}:{tag}")

    def mount(self, name: str) -> Path:
        """The root file system of a new container of that image."""
        container = self.buildah("from", "--pull-never", name)
        self._containers.append(container)
        return Path(self.buildah("mount", container))

    def close(self) -> None:
        """Removes the containers that were mounted."""
        for container in self._containers:
            self.buildah("rm", container)

    def _fetch(self, words: Sequence[str]) -> None:
        environment = self.environment | {"PYTHONPATH": str(checkout() / "tools")}

        def make() -> Done:
            return subprocess.run(
                words, cwd=checkout(), env=environment, capture_output=True, text=True, check=False
            )

        _succeeded(words, fetched(make))

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=MAKING) as folder:
            yield Path(folder)


def _succeeded(words: Sequence[str], done: Done) -> Done:
    if done.returncode:
        shown = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}".strip()
        raise BuildFailed(f"`{' '.join(words)}` ended with {done.returncode}:\n{shown}")
    return done


def _limits() -> str:
    """containers.conf(5) with this process's own limits: Buildah of Debian 13 raises them to 1,048,576, for which a
    container has no right.
    """
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    both = {name: resource.getrlimit(kind) for name, kind in kinds.items()}
    finite = {name: pair for name, pair in both.items() if resource.RLIM_INFINITY not in pair}
    limits = ", ".join(f'"{name}={soft}:{hard}"' for name, (soft, hard) in finite.items())
    return f"[containers]\ndefault_ulimits = [{limits}]\n"


def _driver() -> str:
    """The storage driver: overlay, or vfs, which copies, where the kernel refuses overlay on this file system."""
    cache.root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.root()) as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        command = f"mount -t overlay overlay -o {options} {folder}/merged"
        done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, check=False)
    return "overlay" if done.returncode == 0 else "vfs"

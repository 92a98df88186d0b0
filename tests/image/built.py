"""Images built here for real, with nothing but Debian's packages: buildah, on a base that debootstrap makes.

What takes long is kept in the cache: the base by what it is made of, and the layers that buildah finds unchanged. How
this machine reaches Debian and PyPI is mounted while something is built, and is in no image.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from galactic.lab import cache, packages
from release import image
from release.distributions import ROOT

SUITE = "bookworm"
MACHINE = "/run/machine"
MAKING = "making-"
"""What folders are called that are in use while something is built."""
ENOUGH = 12 << 30
"""Bytes of layers from which on all of them are thrown away."""
FETCH_TRIES = 3
FETCH_PAUSE_SECONDS = 10


class Store:
    """Buildah's images and containers, apart from those of the machine."""

    def __init__(self) -> None:
        packages.install(["buildah", "debootstrap"])
        self.folder = cache.root() / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._config = self.folder / "storage.conf"
        self.environment = os.environ | {
            "CONTAINERS_STORAGE_CONF": str(self._config),
            "BUILDAH_ISOLATION": "chroot",
        }
        self.environment.pop("STORAGE_DRIVER", None)
        self.said = image.facts()
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
            yield

    def buildah(self, *words: str | Path) -> str:
        done = subprocess.run(
            ["buildah", *words], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"buildah {words[0]}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def tidy(self) -> None:
        """Containers and folders that a killed run left are gone, and all layers where there are too many."""
        self.buildah("rm", "--all")
        for left in self.folder.glob(f"{MAKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        sizes = subprocess.run(["du", "-sxb", self.folder], capture_output=True, text=True, check=False)
        if int(sizes.stdout.split()[0]) > ENOUGH:
            self.buildah("rmi", "--all", "--force")

    def base(self) -> str:
        """An image of Debian and nothing else, as small as debootstrap can; its name."""
        name = f"localhost/base:{hashlib.sha256(f'2 {SUITE} {_mirror()}'.encode()).hexdigest()[:12]}"
        if not self.buildah("images", "--quiet", "--filter", f"reference={name}"):
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=MAKING) as folder:
                root = Path(folder) / "root"
                # Mounts of its own: what it mounts there is gone with it, however it ends.
                words = [
                    "unshare",
                    "--mount",
                    "debootstrap",
                    "--variant=minbase",
                    SUITE,
                    str(root),
                    _mirror(),
                ]

                def made() -> "subprocess.CompletedProcess[str]":
                    shutil.rmtree(root, ignore_errors=True)
                    return subprocess.run(words, capture_output=True, text=True, check=False)

                done = _fetching(made)
                assert done.returncode == 0, done.stdout[-4000:]
                for path in (
                    "var/cache/apt/archives",
                    "var/lib/apt/lists",
                    "usr/share/doc",
                    "usr/share/locale",
                ):
                    shutil.rmtree(root / path)
                    (root / path).mkdir()
                container = self.buildah("from", "scratch")
                self.buildah("add", "--quiet", container, root, "/")
                self.buildah("commit", "--quiet", "--rm", container, name)
        return name

    def build(self, target: str) -> str:
        """The Dockerfile's target, as `make image` builds it; its name."""
        name = f"localhost/galactic-{target}:test"
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=MAKING) as folder:
            more = ["--layers", *_mounts(Path(folder))]
            words = image.command("buildah", name, self.said, base=self.base(), target=target, more=more)
            done = _fetching(
                lambda: subprocess.run(
                    words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
                )
            )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return name

    def mount(self, name: str) -> Path:
        """The root file system of a new container of that image."""
        container = self.buildah("from", "--pull-never", name)
        self._containers.append(container)
        return Path(self.buildah("mount", container))

    def close(self) -> None:
        for container in self._containers:
            self.buildah("rm", container)


def _fetching(make: "Callable[[], subprocess.CompletedProcess[str]]") -> "subprocess.CompletedProcess[str]":
    """How it ended: the last of some tries, as a mirror may be away for a moment. What was made is not made again."""
    for _ in range(FETCH_TRIES - 1):
        if (done := make()).returncode == 0:
            return done
        time.sleep(FETCH_PAUSE_SECONDS)
    return make()


def _driver() -> str:
    """Overlay, or where the kernel refuses that on this file system the one that copies."""
    with tempfile.TemporaryDirectory(dir=_made(cache.root())) as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        command = f"mount -t overlay overlay -o {options} {folder}/merged"
        done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, check=False)
    return "overlay" if done.returncode == 0 else "vfs"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sources() -> Iterator[tuple[Path, str]]:
    """Of the machine's apt sources those that serve the suite: file and content."""
    apt = Path("/etc/apt")
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text()
        if path.suffix == ".sources":
            stanzas = [
                each
                for each in re.split(r"\n\s*\n", text)
                if re.search(rf"^Suites:.*\b{SUITE}(\s|-|$)", each, re.MULTILINE)
            ]
        else:
            stanzas = [
                line for line in text.splitlines() if re.match(rf"deb\s(\[.*\]\s)?\S+\s{SUITE}(\s|-)", line)
            ]
        if stanzas:
            yield path, "\n\n".join(stanzas) + "\n"


def _mirror() -> str:
    """Where this machine gets Debian from."""
    for path, text in _sources():
        found = re.search(
            r"^URIs:\s*(\S+)" if path.suffix == ".sources" else r"(\w+://\S+)", text, re.MULTILINE
        )
        if found:
            return found[1]
    raise AssertionError(f"no apt source of this machine serves {SUITE}")


def _mounts(folder: Path) -> list[str]:
    """Buildah's options that lend this machine's ways to Debian and PyPI to what runs while something is built."""
    apt, machine = folder / "apt", folder / "machine"
    shutil.copytree("/etc/apt", apt)
    (apt / "sources.list").unlink(missing_ok=True)
    shutil.rmtree(apt / "sources.list.d")
    (apt / "sources.list.d").mkdir()
    for path, text in _sources():
        (apt / "sources.list.d" / path.name).write_text(text)
    machine.mkdir()
    volumes = [f"{apt}:/etc/apt:ro", f"{machine}:{MACHINE}:ro"]
    settings = {}
    for name, value in _pip().items():
        words = []
        for number, word in enumerate(value.split()):
            path = Path(word.removeprefix("file://"))
            inside = f"{MACHINE}/{name}-{number}"
            if (
                path.is_absolute() and path.is_dir()
            ):  # with what lies beside it: an index names files relative to it
                volumes.append(f"{path.parent}:{inside}:ro")
                (machine / f"{name}-{number}").mkdir()
                inside = f"{inside}/{path.name}"
            elif path.is_absolute() and path.is_file():
                shutil.copy(path, machine / f"{name}-{number}")
            else:
                inside = word
            words.append(f"file://{inside}" if word.startswith("file://") else inside)
        settings[name] = " ".join(words)
    lines = [f"{name} = {value}\n" for name, value in settings.items()]
    (machine / "pip.conf").write_text("[global]\n" + "".join(lines))
    options = [word for volume in volumes for word in ("--volume", volume)]
    return [*options, "--build-arg", f"PIP_CONFIG_FILE={MACHINE}/pip.conf"]


def _pip() -> dict[str, str]:
    """Pip's settings on this machine, wherever they are made."""
    listed = subprocess.run(
        [ROOT / ".venv/bin/pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, Any] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.removeprefix(":env:.").removeprefix("global.").removeprefix("user.").removeprefix("site.")
        found[name] = value.strip("'\"").replace("\\n", " ")
    return found

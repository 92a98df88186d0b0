"""`make image`: controllers/Dockerfile, built by whatever builds images here.

``python -m release.image [--tag NAME] [--base IMAGE] [--engine docker|podman|buildah] [--target image|dev]
[--option=WORD …]``

What the image says of itself (version, commit, time) comes from pyproject.toml and Git. With SOURCE_DATE_EPOCH set, or
without it by the time of the last commit, two builds of one commit carry the same times.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from galactic_lab.images import pip_settings
from release import lending
from release.distributions import ROOT, project

ENGINES: Final = {
    "docker": ("docker", "version", "--format", "{{.Server.Version}}"),
    "podman": ("podman", "info", "--format", "{{.Version.Version}}"),
    "buildah": ("buildah", "info"),
}
"""What builds images, in the order of preference, and a command of each that ends well if it can."""
DOCKERFILE: Final = "controllers/Dockerfile"
TARGETS: Final = ("image", "dev")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the image's labels say. ``epoch``: seconds, the time that all its files get where the engine can do that."""

    version: str
    revision: str
    source: str
    epoch: int

    @property
    def labels(self) -> dict[str, str]:
        """OCI annotations. Given as options, because buildah's layer cache does not see arguments within LABEL."""
        created = datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = {"version": self.version, "revision": self.revision, "created": created, "source": self.source}
        return {f"org.opencontainers.image.{name}": value for name, value in said.items()}


def facts(environment: Mapping[str, str] = os.environ) -> Facts:
    """Of this checkout; without Git there is no revision, and the time is the beginning of 1970 unless it is given."""
    revision = _git("rev-parse", "HEAD")
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", "controllers", "src", "pyproject.toml"
    )
    epoch = environment.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or "0"
    if not epoch.isdigit():
        raise SystemExit(f"image: SOURCE_DATE_EPOCH is {epoch!r}; give seconds since 1970")
    return Facts(
        version=project()["version"],
        revision=f"{revision}-changed" if revision and changed else revision,
        source=source(_git("config", "--get", "remote.origin.url")),
        epoch=int(epoch),
    )


def source(remote: str) -> str:
    """The web address of a remote, without credentials; "" for one that is none, such as a folder."""
    if found := re.fullmatch(r"(?:ssh://)?git@([\w.-]+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote):
        return f"https://{found[1]}/{found[2]}"
    if found := re.fullmatch(r"https://(?:[^@/]*@)?(.+?)(?:\.git)?/?", remote):
        return f"https://{found[1]}"
    return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def usable(engine: str) -> str | None:
    """Why it cannot build images here; None if it can."""
    if not shutil.which(engine):
        return "is not installed"
    done = subprocess.run(ENGINES[engine], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines() or [f"ended with {done.returncode}"]
    return f"does not work: {said[-1]}"


def engine(asked: str = "", try_out: Callable[[str], str | None] = usable) -> str:
    """The one to build with. Raises SystemExit that says what was tried."""
    reasons = {}
    for name in [asked] if asked else ENGINES:
        reason = try_out(name)
        if reason is None:
            return name
        reasons[name] = reason
    told = "".join(f"\n  {name} {reason}" for name, reason in reasons.items())
    raise SystemExit(
        f"image: nothing here builds images:{told}\n"
        "Install one, or start its service. Where none can run as a service, buildah can without: "
        "apt-get install buildah, then STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot make image (docs/image.md)."
    )


def command(
    name: str, tag: str, said: Facts, *, base: str = "", target: str = "image", more: Sequence[str] = ()
) -> list[str]:
    """What that engine is called with, in the project's folder."""
    arguments = {"BASE": base} if base else {}
    times = [f"--timestamp={said.epoch}"]
    if name == "docker":  # BuildKit takes it as an argument
        arguments["SOURCE_DATE_EPOCH"] = str(said.epoch)
        times = []
    return [
        name,
        *("build", "--file", DOCKERFILE, "--target", target, "--tag", tag, *times, *more),
        *(word for key, value in said.labels.items() for word in ("--label", f"{key}={value}")),
        *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")),
        ".",
    ]


def main() -> int:
    parser = argparse.ArgumentParser("python -m release.image", description="Builds Galactic's image.")
    parser.add_argument("--tag", default="", help="its name; galactic:VERSION unless given")
    parser.add_argument("--base", default="", help="the image to start from; the Dockerfile's unless given")
    parser.add_argument("--engine", default="", choices=["", *ENGINES], help="what to build with")
    parser.add_argument("--target", default="image", choices=TARGETS, help="dev: for the Tiltfile")
    parser.add_argument(
        "--pip",
        default="",
        choices=["", "machine"],
        help="machine: its pip's settings and CAs, for the build alone",
    )
    parser.add_argument("--option", action="append", default=[], help="one more word for the engine's build")
    given = parser.parse_args()
    said = facts()
    tag = given.tag or f"galactic:{said.version}"
    name = engine(given.engine)
    with tempfile.TemporaryDirectory(prefix="galactic-image-") as folder:
        settings = pip_settings.read() if given.pip else {}
        lent = lending.options(Path(folder), settings, os.environ) if given.pip else []
        words = command(name, tag, said, base=given.base, target=given.target, more=[*given.option, *lent])
        sys.stderr.write(f"{' '.join(words)}\n")
        done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode == 0:
        sys.stderr.write(f"built {tag} with {name}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

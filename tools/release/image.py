"""`make image`: builds controllers/Dockerfile with the first engine that works on this machine.

``python -m release.image [--tag NAME] [--base IMAGE] [--newer IMAGE] [--engine docker|podman|buildah]
[--target image|dev] [--option=WORD …]``

The image's labels (version, commit, time) come from pyproject.toml and Git. The time is SOURCE_DATE_EPOCH, else that of
the last commit: two builds of one commit have the same times.
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
"""Engines in order of preference, each with a command that succeeds if the engine works."""
DOCKERFILE: Final = "controllers/Dockerfile"
TARGETS: Final = ("image", "dev")


@dataclass(frozen=True, slots=True)
class Facts:
    """The image's labels. ``epoch``: seconds since 1970, the time of all its files where the engine supports that."""

    version: str
    revision: str
    source: str
    epoch: int

    @property
    def labels(self) -> dict[str, str]:
        """OCI annotations. Given as options, because buildah's layer cache does not see arguments within LABEL."""
        created = datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        own = {"version": self.version, "revision": self.revision, "created": created, "source": self.source}
        return {f"org.opencontainers.image.{name}": value for name, value in own.items()}


def facts(environment: Mapping[str, str] = os.environ) -> Facts:
    """The labels of this checkout. Without Git there is no revision, and the time is 1970-01-01 unless it is given."""
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
    """The reason why the engine does not work here; None if it works."""
    if not shutil.which(engine):
        return "is not installed"
    done = subprocess.run(ENGINES[engine], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    output = (done.stderr or done.stdout).strip().splitlines() or [f"ended with {done.returncode}"]
    return f"does not work: {output[-1]}"


def engine(asked: str = "", try_out: Callable[[str], str | None] = usable) -> str:
    """The engine to build with. Raises SystemExit with the reason for each engine that does not work."""
    reasons = {}
    for name in [asked] if asked else ENGINES:
        reason = try_out(name)
        if reason is None:
            return name
        reasons[name] = reason
    tried = "".join(f"\n  {name} {reason}" for name, reason in reasons.items())
    raise SystemExit(
        f"image: nothing here builds images:{tried}\n"
        "Install one, or start its service. Where none can run as a service, buildah can without: "
        "apt-get install buildah, then STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot make image (docs/image.md)."
    )


def command(
    name: str,
    tag: str,
    subject: Facts,
    *,
    base: str = "",
    newer: str = "",
    target: str = "image",
    more: Sequence[str] = (),
) -> list[str]:
    """The engine's argv, to run in the project's folder."""
    arguments = {key: image for key, image in (("BASE", base), ("NEWER", newer)) if image}
    times = [f"--timestamp={subject.epoch}"]
    if name == "docker":  # BuildKit takes it as an argument
        arguments["SOURCE_DATE_EPOCH"] = str(subject.epoch)
        times = []
    return [
        name,
        *("build", "--file", DOCKERFILE, "--target", target, "--tag", tag, *times, *more),
        *(word for key, value in subject.labels.items() for word in ("--label", f"{key}={value}")),
        *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")),
        ".",
    ]


def main() -> int:
    parser = argparse.ArgumentParser("python -m release.image", description="Builds Galactic's image.")
    parser.add_argument("--tag", default="", help="its name; galactic:VERSION unless given")
    parser.add_argument("--base", default="", help="the image to start from; the Dockerfile's unless given")
    parser.add_argument("--newer", default="", help="the image that the newer nft is from; likewise")
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
    subject = facts()
    tag = given.tag or f"galactic:{subject.version}"
    name = engine(given.engine)
    with tempfile.TemporaryDirectory(prefix="galactic-image-") as folder:
        settings = pip_settings.read() if given.pip else {}
        lent = lending.options(Path(folder), settings, os.environ) if given.pip else []
        more = [*given.option, *lent]
        words = command(
            name, tag, subject, base=given.base, newer=given.newer, target=given.target, more=more
        )
        sys.stderr.write(f"{' '.join(words)}\n")
        done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode == 0:
        sys.stderr.write(f"built {tag} with {name}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

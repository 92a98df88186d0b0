"""Settings of apt and pip of this machine, mounted while an image is built. The image has nothing of them."""

import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from galactic_lab.builds.build import BuildFailed
from galactic_lab.images import pip_settings

APT: Final = Path("/etc/apt")
MACHINE: Final = "/run/machine"
"""The mount point of pip's settings during a build."""


def sources(suite: str, apt: Path = APT, release: str = "") -> list[tuple[Path, str]]:
    """The machine's apt sources of the suite: file and content.

    Where it has none, those of its own ``release`` of Debian with the suite in its place: a mirror serves both.
    """
    if found := list(_of(suite, apt)):
        return found
    release = release or debian()
    return [(path, re.sub(rf"\b{release}\b", suite, text)) for path, text in _of(release, apt) if release]


def debian() -> str:
    """The name of this machine's release of Debian; empty on other systems."""
    system = platform.freedesktop_os_release()
    return system.get("VERSION_CODENAME", "") if system.get("ID") == "debian" else ""


def _of(suite: str, apt: Path) -> Iterator[tuple[Path, str]]:
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text()
        if path.suffix == ".sources":
            pattern = rf"^Suites:.*\b{suite}(\s|-|$)"
            stanzas = [
                stanza for stanza in re.split(r"\n\s*\n", text) if re.search(pattern, stanza, re.MULTILINE)
            ]
        else:
            pattern = rf"deb\s(\[.*\]\s)?\S+\s{suite}(\s|-)"
            stanzas = [line for line in text.splitlines() if re.match(pattern, line)]
        if stanzas:
            yield path, "\n\n".join(stanzas) + "\n"


def mirror(suite: str, apt: Path = APT, release: str = "") -> str:
    """The URL that this machine fetches the suite from. Raises BuildFailed where no source has it."""
    for path, text in sources(suite, apt, release):
        pattern = r"^URIs:\s*(\S+)" if path.suffix == ".sources" else r"(\w+://\S+)"
        if found := re.search(pattern, text, re.MULTILINE):
            return found[1]
    raise BuildFailed(f"no apt source of this machine serves {suite}")


def options(folder: Path, suite: str) -> list[str]:
    """Buildah's options that mount copies of the machine's settings of apt and pip; the copies are in ``folder``."""
    apt, machine = folder / "apt", folder / "machine"
    shutil.copytree(APT, apt)
    (apt / "sources.list").unlink(missing_ok=True)
    shutil.rmtree(apt / "sources.list.d")
    (apt / "sources.list.d").mkdir()
    for path, text in sources(suite):
        (apt / "sources.list.d" / path.name).write_text(text)
    machine.mkdir()
    volumes = [f"{apt}:/etc/apt:ro", f"{machine}:{MACHINE}:ro"]
    settings = {}
    for name, value in pip_settings.read().items():
        words = []
        for number, word in enumerate(value.split()):
            path = Path(word.removeprefix("file://"))
            inside = f"{MACHINE}/{name}-{number}"
            if path.is_absolute() and path.is_dir():
                # With its siblings: an index names files relative to it.
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
    arguments = f"--build-arg=PIP_CONFIG_FILE={MACHINE}/pip.conf"
    return [*(f"--volume={volume}" for volume in volumes), arguments]

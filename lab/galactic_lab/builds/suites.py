"""Packages of another Debian suite: a private configuration of apt, beside the machine's own.

Its sources are the machine's with the suite replaced: mirror and keys are those of the machine.
"""

import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from galactic.errors import Unreachable
from galactic_lab.builds.fetching import fetched

SOURCES: Final = Path("/etc/apt")


def entries(suite: str, release: str, folder: Path = SOURCES) -> list[str]:
    """Lines of a sources.list for ``suite``, from the machine's lines for its own ``release``."""
    found = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            found += [_line(stanza, suite, release) for stanza in path.read_text().split("\n\n")]
        elif path.suffix == ".list" and path.is_file():
            for line in path.read_text().splitlines():
                match = re.match(rf"deb\s+(\[.*?\]\s+)?(\S+)\s+{re.escape(release)}/?\s", line)
                if match:
                    found.append(f"deb {match[1] or ''}{match[2]} {suite} main")
    return list(dict.fromkeys(line for line in found if line))


def _line(stanza: str, suite: str, release: str) -> str:
    """A deb822 stanza as a line, if it is for the release; else empty."""
    text = re.sub(r"(?m)^#.*\n?", "", stanza)
    fields = {key.lower(): value.strip() for key, value in re.findall(r"(?m)^([\w-]+):(.*)$", text)}
    if fields.get("enabled") == "no" or "deb" not in fields.get("types", "").split():
        return ""
    if release not in fields.get("suites", "").split():
        return ""
    key = f"[signed-by={fields['signed-by']}] " if fields.get("signed-by") else ""
    return f"deb {key}{fields['uris'].split()[0]} {suite} main"


@contextmanager
def private(suite: str) -> Iterator[list[str]]:
    """Apt's options for that suite alone, with its own lists. Raises Unreachable where the mirror lacks it."""
    lines = entries(suite, platform.freedesktop_os_release().get("VERSION_CODENAME", ""))
    if not lines:
        raise Unreachable("apt", f"the machine's sources name no archive of Debian, to look for {suite}")
    with TemporaryDirectory(prefix="galactic-apt-") as name:
        folder = Path(name)
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "suite.list").write_text("\n".join(lines) + "\n")
        settings = {
            "Dir::Etc::SourceList": str(folder / "suite.list"),
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": str(folder / "lists"),
            "Dir::Cache::srcpkgcache": "",
            "Dir::Cache::pkgcache": "",
            "APT::Sandbox::User": "root",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        command = ["apt-get", *options, "update", "-q"]
        done = fetched(partial(subprocess.run, command, capture_output=True, text=True, check=False))
        if done.returncode:
            raise Unreachable("apt", f"{suite} cannot be read: {done.stderr[-1000:]}")
        yield options

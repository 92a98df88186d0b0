"""The guest kernel: User Mode Linux from Debian's ``linux-source`` of the machine's own release."""

import os
import re
from pathlib import Path
from typing import Final

from galactic.lab import packages
from galactic.lab.builds import Build, BuildFailed, Job

NEEDS: Final = ("gcc", "make", "libc6-dev", "flex", "bison", "bc", "xz-utils")
FRAGMENT: Final = Path(__file__).with_name("guest.config")
PASSING: Final = frozenset({"CONFIG_UML_NET"})
"""Options that only some releases have: there they are what another option of the fragment depends on."""
TARBALLS: Final = Path("/usr/src")


def wanted(fragment: str) -> list[str]:
    """The options a fragment switches on, in its order."""
    return re.findall(r"(?m)^(CONFIG_\w+)=y$", fragment)


def refused(fragment: str, config: str) -> list[str]:
    """Options of the fragment that are not in the resulting configuration: unknown, or something they need is off."""
    got = set(re.findall(r"(?m)^(CONFIG_\w+)=y$", config))
    return [option for option in wanted(fragment) if option not in got | PASSING]


def _tarball(job: Job) -> Path:
    """The kernel's source: where the package is installed already, else out of the package without installing it."""
    if found := sorted(TARBALLS.glob("linux-source-*.tar.xz")):
        return found[-1]
    packages.refresh()
    depends = packages.depends("linux-source")
    name = next((package for package in depends if re.fullmatch(r"linux-source-[\d.]+", package)), None)
    if name is None:
        raise BuildFailed("apt has no package linux-source")
    job.fetch(
        ["apt-get", "-o", "APT::Sandbox::User=root", "download", name],
        seconds=15,
        lines=2,
        title="downloading",
    )
    package = next(job.work.glob("linux-source-*.deb"))
    job.run(["dpkg-deb", "--extract", package.name, "package"], seconds=5, title="extracting")
    return next((job.work / "package/usr/src").glob("linux-source-*.tar.xz"))


def make(job: Job) -> None:
    """The file ``linux``. Raises BuildFailed, also when the source lacks an option the lab needs."""
    job.advance(0, "installing the C toolchain")
    packages.install(NEEDS)
    source = _tarball(job)
    job.run(["tar", "--extract", "--file", str(source)], seconds=25, title="extracting")
    tree = next(path for path in job.work.glob("linux-source-*") if path.is_dir())
    fragment = FRAGMENT.read_text()
    job.run(["make", "ARCH=um", "tinyconfig"], seconds=8, lines=30, title="configuring", cwd=tree)
    with (tree / ".config").open("a") as config:
        config.write(fragment)
    job.run(["make", "ARCH=um", "olddefconfig"], seconds=2, lines=5, title="configuring", cwd=tree)
    if off := refused(fragment, (tree / ".config").read_text()):
        raise BuildFailed(f"{source.name} does not take these options: {', '.join(off)}")
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    title = f"compiling Linux {tree.name.removeprefix('linux-source-')}"
    job.run(["make", "ARCH=um", jobs, "linux"], seconds=200, lines=1150, title=title, cwd=tree)
    job.run(["strip", "-o", str(job.out / "linux"), str(tree / "linux")], seconds=1, title=title)


LINUX: Final = Build(
    name="linux", files=("linux",), inputs=f"1 {FRAGMENT.read_text()}", seconds=255, make=make
)

"""A guest kernel: User Mode Linux from one version of a Debian package ``linux-source-…``."""

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from galactic_lab.builds import guest_sources, packages, suites
from galactic_lab.builds.build import Build, BuildFailed, Job
from galactic_lab.builds.guest_clock import CLOCK
from galactic_lab.builds.guest_memory import MEMORY, TRACED

NEEDS: Final = ("gcc", "make", "libc6-dev", "flex", "bison", "bc", "xz-utils")
FRAGMENT: Final = Path(__file__).with_name("guest.config")
PASSING: Final = frozenset(
    {
        "CONFIG_UML_NET",
        "CONFIG_PROC_SYSCTL",
        "CONFIG_NETFILTER_XTABLES_LEGACY",
        "CONFIG_IP_NF_IPTABLES_LEGACY",
        "CONFIG_IP6_NF_IPTABLES_LEGACY",
    }
)
"""Options of some releases only, where another option of the fragment depends on them."""
TARBALLS: Final = Path("/usr/src")
"""The folder of the package's tarball when it is installed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Debian package with a kernel's source, in one version. As a string: ``package=version``, as apt takes it."""

    package: str
    version: str
    suite: str = ""
    """The suite of Debian's archive, where it is not the machine's."""

    @property
    def wanted(self) -> str:
        """``package=version``, as apt takes it."""
        return f"{self.package}={self.version}"

    def __str__(self) -> str:
        return self.wanted + (f"@{self.suite}" if self.suite else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The source from its string."""
        package, _, rest = text.partition("=")
        version, _, suite = rest.partition("@")
        return cls(package, version, suite)


def wanted(fragment: str) -> list[str]:
    """The options that a fragment enables, in its order."""
    return re.findall(r"(?m)^(CONFIG_\w+)=y$", fragment)


def refused(fragment: str, config: str) -> list[str]:
    """Options of the fragment that the resulting configuration lacks: unknown ones, or with an unmet dependency."""
    got = set(re.findall(r"(?m)^(CONFIG_\w+)=y$", config))
    return [option for option in wanted(fragment) if option not in got | PASSING]


def tarball(job: Job, source: Source) -> Path:
    """The kernel's source: from ``TARBALLS`` if this version is installed, else downloaded without installing it."""
    if packages.version(source.package) == source.version:
        path = TARBALLS / f"{source.package}.tar.xz"
        if path.exists():
            return path
    packages.refresh()
    with ExitStack() as stack:
        options = stack.enter_context(suites.private(source.suite)) if source.suite else []
        command = ["apt-get", *options, "-o", "APT::Sandbox::User=root", "download", source.wanted]
        job.fetch(command, seconds=15, lines=2, title="downloading")
    package = next(job.work.glob(f"{source.package}_*.deb"))
    job.run(["dpkg-deb", "--extract", package.name, "package"], seconds=5, title="extracting")
    return job.work / f"package/usr/src/{source.package}.tar.xz"


def changes(source: Source) -> tuple[guest_sources.Change, ...]:
    """The changes of that source, where it is as expected."""
    return (CLOCK, MEMORY) if guest_sources.seccomp(source.package) else (TRACED,)


def make(job: Job, source: Source) -> None:
    """The file ``linux``. Raises BuildFailed, also when the source lacks an option the lab needs."""
    job.advance(0, "installing the C toolchain")
    packages.install(NEEDS)
    archive = tarball(job, source)
    job.run(["tar", "--extract", "--file", str(archive)], seconds=25, title="extracting")
    tree = next(path for path in job.work.glob("linux-source-*") if path.is_dir())
    for change in changes(source):
        if not change.put(tree):
            text = f"{source} keeps its own {change.name}, which is not as expected: its guests are slower\n"
            job.log.write(text.encode())
    fragment = FRAGMENT.read_text()
    job.run(["make", "ARCH=um", "tinyconfig"], seconds=8, lines=30, title="configuring", cwd=tree)
    with (tree / ".config").open("a") as config:
        config.write(fragment)
    job.run(["make", "ARCH=um", "olddefconfig"], seconds=2, lines=5, title="configuring", cwd=tree)
    if off := refused(fragment, (tree / ".config").read_text()):
        raise BuildFailed(f"{source} lacks these options, or what they depend on: {', '.join(off)}")
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    title = f"compiling Linux {source.version}"
    job.run(["make", "ARCH=um", jobs, "linux"], seconds=200, lines=1150, title=title, cwd=tree)
    job.run(["strip", "-o", str(job.out / "linux"), str(tree / "linux")], seconds=1, title=title)


def build(source: Source) -> Build:
    """The build of that source. Its name and inputs have the version: each version is a build of its own."""
    return Build(
        name=f"linux-{source.version}",
        files=("linux",),
        inputs=f"2 {source} {FRAGMENT.read_text()}{' '.join(change.inputs for change in changes(source))}",
        seconds=255,
        make=partial(make, source=source),
    )

"""Kubernetes, etcd, containerd, the CNI plugins and CoreDNS from Go modules, compiled by the Go toolchain alone.

``modules/`` has a go.mod and a go.sum for each build: the programs, their versions and checksums. The build copies
them: it writes nothing into the checkout. For a version of Kubernetes other than that of ``modules/kubernetes``, the
go.mod is derived from ours and its own; Go writes the go.sum and checks it by its checksum database. Both files stay
beside the programs.
"""

import os
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from galactic.errors import Rejected
from galactic_lab.builds import go_toolchain, packages
from galactic_lab.builds.build import Build, BuildFailed, Job
from galactic_lab.builds.go_toolchain import Toolchain

MODULES: Final = Path(__file__).with_name("modules")
SETTING: Final = "GALACTIC_LAB_KUBERNETES"
TOOL_LINES: Final = "1.24.0"
"""The lowest go line of a go.mod with tool lines."""
KUBERNETES: Final = "k8s.io/kubernetes"
SERVERS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The programs of one folder of ``modules/``, with the seconds that the build takes on two processors."""

    folder: str
    module: str
    """The programs have the version of this module."""
    programs: tuple[str, ...]
    seconds: float
    packages: int
    """The number of compiled packages: Go prints a line for each."""
    stamps: tuple[str, ...]
    """Variables that the linker sets; {version} is such as 1.37.2, {minor} then 37."""
    tags: str = ""
    c_compiler: tuple[str, ...] = ()
    """Debian's packages of one, where the programs have parts in C."""

    def file(self, name: str) -> str:
        return (MODULES / self.folder / name).read_text()


KUBERNETES_RECIPE: Final = Recipe(
    "kubernetes",
    KUBERNETES,
    (*SERVERS, "kubectl", "kubelet", "kube-proxy"),
    seconds=330,
    packages=2800,
    stamps=tuple(
        f"k8s.io/{package}.{variable}"
        for package in ("component-base/version", "client-go/pkg/version")
        for variable in ("gitVersion=v{version}", "gitMajor=1", "gitMinor={minor}", "gitTreeState=archive")
    ),
)
"""One build: kubelet and kube-proxy share nearly all packages with the servers, and add 40 s to 300 s."""
ETCD_RECIPE: Final = Recipe(
    "etcd", "go.etcd.io/etcd/server/v3", ("etcd",), seconds=40, packages=550, stamps=()
)
CONTAINERD_RECIPE: Final = Recipe(
    "containerd",
    "github.com/containerd/containerd/v2",
    (
        *("containerd", "containerd-shim-runc-v2", "ctr"),
        *("bridge", "host-local", "loopback", "portmap", "ptp"),
    ),
    seconds=75,
    packages=1000,
    stamps=("github.com/containerd/containerd/v2/version.Version={version}",),
    tags="no_btrfs,no_zfs",  # they need C libraries
)
COREDNS_RECIPE: Final = Recipe(
    "coredns", "github.com/coredns/coredns", ("coredns",), seconds=150, packages=1300, stamps=()
)

KIND_RECIPE: Final = Recipe("kind", "sigs.k8s.io/kind", ("kind",), seconds=20, packages=200, stamps=())
"""For a test alone, in which kind parses kind-config.yaml."""
TILT_RECIPE: Final = Recipe(
    "tilt",
    "github.com/tilt-dev/tilt",
    ("tilt",),
    seconds=240,
    packages=1860,
    stamps=(),
    c_compiler=("gcc", "libc6-dev"),
)
"""For a test alone, in which Tilt loads the Tiltfile."""
POLICIES_RECIPE: Final = Recipe(
    "networkpolicies",
    "sigs.k8s.io/kube-network-policies",
    ("kube-network-policies",),
    seconds=60,
    packages=900,
    stamps=(),
)
"""For a story alone, in which it enforces NetworkPolicies of the default network."""


def required(gomod: str, module: str) -> str:
    """The version in which a go.mod requires the module, without its ``v``. Raises BuildFailed."""
    found = re.search(rf"(?m)^(?:require)?\s+{re.escape(module)} v(\S+)", gomod)
    if not found:
        raise BuildFailed(f"go.mod requires no {module}")
    return found[1]


def go_line(gomod: str) -> str:
    """The Go version that a go.mod requires, such as ``1.26.0``. Raises BuildFailed."""
    found = re.search(r"(?m)^go (\S+)$", gomod)
    if not found:
        raise BuildFailed("go.mod has no go line")
    return found[1]


def derived(gomod: str, own: str, version: str) -> str:
    """A go.mod for another version of Kubernetes: the tools of our go.mod, the replacements of ``own``, its go.mod.

    Kubernetes' staging modules, folders in its repository, are published as v0.MINOR.PATCH.
    """
    head = re.match(r"(?s)(module \S+\n\n)go \S+\n\n(tool \(.*?\n\)\n)", gomod)
    staged = re.findall(r"(?m)^\s+(\S+) => \./staging/", own)
    if not head or not staged:
        raise BuildFailed(
            f"the go.mod of {KUBERNETES} {version} has another form: no go line, or no staging modules"
        )
    least = max(go_line(own), TOOL_LINES, key=go_toolchain.numbers)
    replaced = "".join(f"\t{module} => {module} v0.{version.removeprefix('1.')}\n" for module in staged)
    return f"{head[1]}go {least}\n\n{head[2]}\nrequire {KUBERNETES} v{version}\n\nreplace (\n{replaced})\n"


def linker(recipe: Recipe, version: str) -> str:
    """Flags of the linker: no debugging information, and the version that the programs print."""
    minor = version.split(".")[1]
    stamps = (stamp.format(version=version, minor=minor) for stamp in recipe.stamps)
    return " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in stamps)])


def build(recipe: Recipe, wanted: str = "") -> Build:
    """The build of a recipe; of Kubernetes also in another version, 1.MINOR (its newest patch) or 1.MINOR.PATCH."""
    gomod, gosum = recipe.file("go.mod"), recipe.file("go.sum")
    toolchain = go_toolchain.chosen(go_line(gomod))
    version = wanted or required(gomod, recipe.module)
    flags = (linker(recipe, version), recipe.tags, toolchain.version, toolchain.flags)
    return Build(
        name=f"{recipe.folder}-{version}",
        files=recipe.programs,
        inputs=f"1 {gomod} {gosum} {recipe.programs} {flags}",
        seconds=recipe.seconds,
        make=partial(make, recipe=recipe, toolchain=toolchain, wanted=wanted),
    )


def kubernetes(wanted: str = "") -> Build:
    """Kubernetes as in ``modules/``, or in the wanted version (1.34, 1.34.4). Raises Rejected for another form."""
    if wanted and not re.fullmatch(r"1\.\d+(\.\d+)?", wanted):
        raise Rejected(f"{wanted!r} is no version of Kubernetes such as 1.34 or 1.34.4", field="kubernetes")
    ours = default_version()
    return build(KUBERNETES_RECIPE, "" if f"{ours}.".startswith(f"{wanted}.") else wanted)


def default_version() -> str:
    """The version of Kubernetes in ``modules/``."""
    return required(KUBERNETES_RECIPE.file("go.mod"), KUBERNETES)


def etcd() -> Build:
    return build(ETCD_RECIPE)


def containerd() -> Build:
    return build(CONTAINERD_RECIPE)


def coredns() -> Build:
    return build(COREDNS_RECIPE)


def kind() -> Build:
    return build(KIND_RECIPE)


def tilt() -> Build:
    return build(TILT_RECIPE)


def policies() -> Build:
    return build(POLICIES_RECIPE)


def _environment(job: Job, recipe: Recipe, toolchain: Toolchain) -> dict[str, str]:
    """Go's variables.

    Go's caches are in the work folder and removed with it: for Kubernetes 600 MB of modules and 4 GB of objects.
    ``GOCACHE`` and ``GOMODCACHE`` of the user override that.
    """
    caches = {name: str(job.work / name.lower()) for name in ("GOCACHE", "GOMODCACHE")}
    places = {"GOTMPDIR": str(job.work), "GOWORK": "off", "CGO_ENABLED": str(int(bool(recipe.c_compiler)))}
    mine = {name: path for name, path in caches.items() if not os.environ.get(name)}
    return places | mine | toolchain.environment


def make(job: Job, recipe: Recipe, toolchain: Toolchain, wanted: str) -> None:
    """Builds the programs and keeps their go.mod and go.sum. Raises BuildFailed."""
    go, environment = str(toolchain.ensure(job.advance)), _environment(job, recipe, toolchain)
    if recipe.c_compiler:
        job.advance(0, "installing a C compiler")
        packages.install(recipe.c_compiler)
    module = job.work / "module"
    shutil.copytree(MODULES / recipe.folder, module)
    gomod = module / "go.mod"
    if wanted:
        query = [go, "list", "-m", "-f", "{{.Version}} {{.GoMod}}", f"{KUBERNETES}@v{wanted}"]
        title = f"looking for Kubernetes {wanted}"
        answer = job.fetch(query, seconds=2, lines=1, title=title, environment=environment)
        found = re.search(r"(?m)^v(\S+) (/.+)$", answer)
        if not found:
            raise BuildFailed(f"there is no {KUBERNETES}@v{wanted}")
        gomod.write_text(derived(gomod.read_text(), Path(found[2]).read_text(), found[1]))
        (module / "go.sum").unlink()
    version = required(gomod.read_text(), recipe.module)
    name = f"{recipe.folder.capitalize()} {version}"
    flags = [
        "-mod=mod" if wanted else "-mod=readonly",
        "-modcacherw",
        "-buildvcs=false",
        "-tags",
        recipe.tags,
    ]
    job.fetch(
        [
            go,
            "list",
            *flags,
            "-deps",
            "-f",
            '{{""}}',
            "tool",
        ],  # downloads the modules; prints errors alone
        seconds=recipe.seconds / 20,
        lines=200,
        title=f"downloading the modules of {name}",
        cwd=module,
        environment=environment,
    )
    # Go names several programs after their packages; a single one gets its usual name.
    output = job.out / recipe.programs[0] if len(recipe.programs) == 1 else f"{job.out}/"
    job.run(
        [
            go,
            "build",
            *flags,
            "-v",
            "-trimpath",
            "-ldflags",
            linker(recipe, version),
            "-o",
            str(output),
            "tool",
        ],
        seconds=recipe.seconds * 19 / 20,
        lines=recipe.packages,
        title=f"compiling {name}",
        cwd=module,
        environment=environment,
    )
    for file in ("go.mod", "go.sum"):
        shutil.copy(module / file, job.out)

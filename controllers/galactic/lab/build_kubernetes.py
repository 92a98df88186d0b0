"""kube-apiserver, kube-controller-manager and kube-scheduler from Debian's source package ``kubernetes``.

The source comes from the machine's own apt sources, with source packages switched on in a temporary configuration.
Two vendored modules of that time do not stand a newer Go. With its reflect2 a server crashes on the first object of a
CRD, so Debian's current one takes its place. And its go-openapi/validate takes an empty string for null, because the
two now have the same zero value in memory: that comparison goes.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Final

from galactic.lab import packages
from galactic.lab.builds import Build, BuildFailed, Job

PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
NEEDS: Final = (
    "golang-1.19-go",
    "rsync",
    "dpkg-dev",
    "make",
    "golang-github-modern-go-reflect2-dev",
    "gcc",
    "libc6-dev",
)
GO: Final = "/usr/lib/go-1.19/bin"
REFLECT2: Final = "github.com/modern-go/reflect2"
SHARED: Final = Path("/usr/share/gocode/src")
VALIDATE: Final = "vendor/github.com/go-openapi/validate/type.go"
EMPTY_IS_NULL: Final = (
    "if data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {"
)
VERSION_PACKAGES: Final = tuple(
    f"k8s.io/kubernetes/vendor/k8s.io/{name}" for name in ("component-base/version", "client-go/pkg/version")
)
"""Where the linker finds the version's variables: in GOPATH mode a vendored package is known by its whole path."""
SOURCES: Final = Path("/etc/apt")


def source_entries(folder: Path = SOURCES) -> dict[str, str]:
    """The machine's apt sources with source packages instead of binary ones: file name → content."""
    entries = {}
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            entries[path.name] = re.sub(r"(?m)^Types:.*$", "Types: deb-src", text)
        elif path.suffix == ".list":
            lines = [
                re.sub(r"^deb\s", "deb-src ", line)
                for line in text.splitlines()
                if re.match(r"deb(-src)?\s", line)
            ]
            entries[path.name] = "\n".join(dict.fromkeys(lines)) + "\n"
    return entries


def apt(work: Path) -> list[str]:
    """Options that make apt use the temporary configuration in ``work``."""
    parts, lists = work / "apt/sources.list.d", work / "apt/lists"
    parts.mkdir(parents=True)
    (lists / "partial").mkdir(parents=True)
    for name, text in source_entries().items():
        (parts / name).write_text(text)
    options = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": str(parts),
        "Dir::State::Lists": str(lists),
        "APT::Sandbox::User": "root",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Cache::pkgcache": "",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def version(tree: Path) -> str:
    """The version of an extracted source tree, such as ``1.20.2``, from its newest changelog entry."""
    head = (tree / "debian/changelog").read_text().split("\n", 1)[0]
    match = re.search(r"\((?:[^()]*really)?(\d+\.\d+\.\d+)", head)
    if not match:
        raise BuildFailed(f"no version in {head!r}")
    return match[1]


def linker_flags(number: str, commit: str) -> str:
    """What ``kubectl version`` shows of the server."""
    major, minor, _ = number.split(".")
    facts = {
        "gitVersion": f"v{number}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": commit,
        "gitTreeState": "archive",
        "buildDate": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return " ".join(
        ["-s", "-w"]
        + [f"-X {package}.{key}={value}" for package in VERSION_PACKAGES for key, value in facts.items()]
    )


def mend(path: Path, wrong: str, right: str) -> None:
    """Replaces the one place where the file says ``wrong``. Raises BuildFailed if there is not exactly one."""
    text = path.read_text()
    if text.count(wrong) != 1:
        raise BuildFailed(
            f"{path.name} is not what it was when its mend was written: {text.count(wrong)} times {wrong!r}"
        )
    path.write_text(text.replace(wrong, right))


def make(job: Job) -> None:
    """The three programs. Raises BuildFailed."""
    job.advance(0, "installing the Go toolchain")
    packages.install(NEEDS)
    options = apt(job.work)
    job.fetch(["apt-get", *options, "update"], seconds=10, lines=10, title="looking for the source")
    job.fetch(
        ["apt-get", *options, "source", "--download-only", "kubernetes"],
        seconds=10,
        lines=8,
        title="downloading",
    )
    description = next(job.work.glob("kubernetes_*.dsc"), None)
    if description is None:
        raise BuildFailed("apt has no source package named kubernetes")
    tree = job.work / "go/src/k8s.io/kubernetes"
    tree.parent.mkdir(parents=True)
    job.run(
        ["dpkg-source", "--extract", description.name, str(tree)], seconds=20, lines=20, title="extracting"
    )

    vendored = tree / "vendor" / REFLECT2
    shutil.rmtree(vendored)
    shutil.copytree(SHARED / REFLECT2, vendored)
    mend(tree / VALIDATE, EMPTY_IS_NULL, "if data == nil {")
    number = version(tree)
    environment = {
        "GOPATH": str(job.work / "go"),
        "GOCACHE": str(job.work / "gocache"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "PATH": f"{GO}:/usr/sbin:/usr/bin:/sbin:/bin",
        "KUBE_GIT_VERSION": f"v{number}",
        "KUBE_GIT_COMMIT": "archive",
        "KUBE_GIT_TREE_STATE": "archive",
    }
    commit = description.name.removesuffix(".dsc").partition("_")[2]
    job.run(
        ["make", "generated_files"],
        seconds=75,
        lines=60,
        title="generating",
        cwd=tree,
        environment=environment,
    )
    job.run(
        [
            *("go", "build", "-v", "-tags", "providerless", "-ldflags", linker_flags(number, commit)),
            *("-o", f"{job.out}/", *(f"./cmd/{name}" for name in PROGRAMS)),
        ],
        seconds=240,
        lines=1500,
        title=f"compiling Kubernetes {number}",
        cwd=tree,
        environment=environment,
    )


KUBERNETES: Final = Build(
    name="kubernetes",
    files=PROGRAMS,
    inputs=f"3 {NEEDS} {PROGRAMS} providerless {VERSION_PACKAGES}",
    seconds=360,
    make=make,
)

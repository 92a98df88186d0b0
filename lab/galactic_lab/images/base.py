"""The container images of every node, imported once into a containerd root that all nodes share.

Each is the same image of one static program, Debian's busybox: enough for pods that sleep, ping and change their
addresses. It has the names of the images that examples, tutorials and tests run.
"""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from galactic_lab.builds import packages
from galactic_lab.builds.build import Build, BuildFailed, Job

PACKAGE: Final = "busybox-static"
PAUSE: Final = "lab.local/pause:1"
"""The image of every sandbox."""
NAMES: Final = (
    PAUSE,
    "docker.io/nicolaka/netshoot:v0.13",
    "docker.io/nicolaka/netshoot:latest",
    "docker.io/library/netshoot:latest",
    "docker.io/library/nginx:latest",
    "docker.io/library/busybox:latest",
)
SLEEP: Final = ("/bin/sh", "-c", "trap exit TERM; sleep 1000000 & wait")
"""The default command of an image: it waits, and ends at once on SIGTERM."""
IMPORT_SECONDS: Final = 60.0
OFF: Final = (
    *("grpc.v1.cri", "cri.v1.images", "cri.v1.runtime", "snapshotter.v1.btrfs", "snapshotter.v1.zfs"),
    *("snapshotter.v1.devmapper", "snapshotter.v1.blockfile", "snapshotter.v1.erofs", "differ.v1.erofs"),
    *("internal.v1.opt", "nri.v1.nri"),
)


def layer(program: bytes, applets: Sequence[str]) -> bytes:
    """A tar with busybox, a link for each applet, and the folders that programs expect."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "usr", "usr/bin", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
        for applet in applets:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        for name, text in (("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def archive(content: bytes, names: Sequence[str], architecture: str) -> bytes:
    """An OCI image layout (image-spec 1.1) as a tar: one image of one layer, by each of ``names``."""
    blobs: dict[str, bytes] = {}

    def descriptor(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    def encoded(value: dict[str, Any]) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": list(SLEEP), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", encoded(config)),
        "layers": [descriptor("layer.v1.tar+gzip", gzip.compress(content, 6, mtime=0))],
    }
    image = descriptor("manifest.v1+json", encoded(manifest))
    index = {
        "schemaVersion": 2,
        "manifests": [{**image, "annotations": {"io.containerd.image.name": name}} for name in names],
    }
    files = blobs | {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": encoded(index)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _busybox(job: Job) -> tuple[bytes, list[str]]:
    """The program from its package, which is not installed, and the names of its applets."""
    packages.refresh()
    job.fetch(
        ["apt-get", "-o", "APT::Sandbox::User=root", "download", PACKAGE],
        seconds=3,
        lines=2,
        title="downloading",
    )
    package = next(job.work.glob(f"{PACKAGE}_*.deb"))
    job.run(["dpkg-deb", "--extract", package.name, "package"], seconds=1, title="extracting")
    program = extracted(job.work / "package")
    applets = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout
    return program.read_bytes(), [name for name in applets.split() if name != "busybox"]


def extracted(package: Path) -> Path:
    """The program in the extracted package: in /bin, from Debian 13 on in /usr/bin. Raises BuildFailed."""
    found = next(
        (path for place in ("usr/bin", "bin") if (path := package / place / "busybox").is_file()), None
    )
    if found is None:
        raise BuildFailed(f"{PACKAGE} has no busybox in /usr/bin or /bin")
    return found


def make(job: Job, programs: Path, architecture: str = "amd64") -> None:
    """Builds the folder ``root``, containerd's root with the images. ``programs``: the folder of containerd and ctr."""
    tar = job.work / "images.tar"
    tar.write_bytes(archive(layer(*_busybox(job)), NAMES, architecture))
    unpack(job, programs, job.out / "root", {tar: 2})


def unpack(job: Job, programs: Path, root: Path, archives: Mapping[Path, float]) -> None:
    """Imports the images of these archives into the containerd root ``root``; the values are seconds, estimated.

    Raises BuildFailed.
    """
    state, configuration = job.work / "state", job.work / "containerd.toml"
    disabled = ", ".join(f'"io.containerd.{name}"' for name in OFF)
    configuration.write_text(
        f'version = 3\nroot = "{root}"\nstate = "{state}"\ndisabled_plugins = [{disabled}]\n'
        f'[grpc]\naddress = "{state / "grpc.sock"}"\n[ttrpc]\naddress = "{state / "ttrpc.sock"}"\n'
    )
    job.advance(job.done, "importing images")
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    command = [str(programs / "containerd"), "--config", str(configuration)]
    server = subprocess.Popen(command, stdout=job.log, stderr=job.log, env=environment)
    try:
        client = [str(programs / "ctr"), "--address", str(state / "grpc.sock"), "--namespace", "k8s.io"]
        deadline = time.monotonic() + IMPORT_SECONDS
        while subprocess.run([*client, "version"], capture_output=True, check=False).returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise BuildFailed("containerd does not start")
            time.sleep(0.1)
        for path, seconds in archives.items():
            words = [*client, "images", "import", "--local", "--snapshotter", "overlayfs", str(path)]
            job.run(words, seconds=seconds, title=f"importing {path.stem}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def build(programs: Build) -> Build:
    """The images, imported by that build of containerd."""
    return Build(
        name="images",
        files=("root",),
        inputs=f"1 {programs.inputs} {PACKAGE} {NAMES} {SLEEP}",
        seconds=8,
        make=lambda job: make(job, programs.home),
    )

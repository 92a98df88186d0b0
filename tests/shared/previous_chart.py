"""The chart of the version before (tests/chart/previous/README.md), unpacked."""

import tarfile
from pathlib import Path


def unpack(folder: Path) -> Path:
    """The chart's folder, below ``folder``."""
    (archive,) = (Path(__file__).parents[1] / "chart/previous").glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "galactic"

"""`make sbom`: the image's libraries from PyPI, as CycloneDX: ``python -m release.sbom [FILE]``.

cyclonedx-py reads an environment. `.venv` has more than the image, so it reads one with the metadata of the image's
libraries alone. The same libraries give the same file.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import Distribution
from pathlib import Path
from typing import Final

from release.distributions import IMAGE, ROOT, closure, project

FORMAT: Final = "1.6"


def main() -> int:
    version = project()["version"]
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / f"dist/galactic-{version}.cdx.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder) / "environment", closure(IMAGE))
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "cyclonedx_py",
                    "environment",
                    "--pyproject",
                    ROOT / "pyproject.toml",
                ),
                *("--mc-type", "application", "--spec-version", FORMAT, "--output-reproducible"),
                *("--output-format", "JSON", "--output-file", target, environment),
            ],
            check=True,
            cwd=folder,
        )
    components = json.loads(target.read_text())["components"]
    sys.stdout.write(f"{target}: {len(components)} libraries\n")
    return 0


def _environment(folder: Path, listed: dict[str, Distribution]) -> Path:
    """An environment of nothing but these libraries' metadata; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for one in listed.values():
        metadata = Path(str(one.locate_file(""))) / f"{_stem(one)}.dist-info"
        shutil.copytree(metadata, site / metadata.name)
    return folder / "bin/python"


def _stem(one: Distribution) -> str:
    """The stem of its dist-info folder, from its list of files."""
    return next(
        file.parts[0].removesuffix(".dist-info")
        for file in one.files or ()
        if file.parts[0].endswith(".dist-info")
    )


if __name__ == "__main__":
    sys.exit(main())

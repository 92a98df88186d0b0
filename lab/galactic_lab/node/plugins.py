"""The lab's folder of CNI plugins: scripts that run Galactic's plugin and the stand-in for Multus from the checkout."""

import sys
from collections.abc import Sequence
from pathlib import Path

from galactic_lab.node import multus, multus_shim
from galactic_lab.state import checkout, sources


def write(folder: Path, *, galactic: bool) -> None:
    """Writes the scripts; with the chart the DaemonSet installs Galactic's plugin (``galactic`` is False)."""
    folder.mkdir(parents=True, exist_ok=True)
    if galactic:
        _write(folder / "galactic", "cni_plugin.main", [checkout() / "src"])
    _write(folder / multus.NAME, multus_shim.__name__, sources())


def _write(path: Path, module: str, paths: Sequence[Path]) -> None:
    """The script runs isolated: neither the environment nor the user's packages change it."""
    path.write_text(
        f"#!{sys.executable} -ISE\nimport sys\n\nsys.path[:0] = {[str(path) for path in paths]!r}\n"
        f"from {module} import main\n\nsys.exit(main())\n"
    )
    path.chmod(0o755)

"""Sub-commands and cluster access of this distribution, by entry points (``galactic.cli.extensions``).

``lab`` and ``demo`` are the sub-commands; ``cluster_access``: a lab as a
``galactic.cli.cluster_access.ClusterAccess``. Each ``galactic --help`` loads this module: it imports little.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from galactic.cli.extensions import Command

if TYPE_CHECKING:
    from galactic_lab.commands.cluster_access import LabAccess

LAB: Final = Command("galactic_lab.commands.lab", "app", "A cluster on this machine.", reaches=False)
DEMO: Final = Command(
    "galactic_lab.commands.demo", "demo", "Galactic's main job, shown in a lab.", reaches=False
)


def site_of(files: Sequence[Path]) -> "LabAccess | None":
    """The lab that one of these kubeconfig files belongs to; None for other clusters, and for a lab with the chart."""
    from galactic_lab.state import HOME  # noqa: PLC0415

    if not any(path.resolve().is_relative_to(HOME) for path in files):
        return None
    from galactic_lab.commands.cluster_access import lab_of  # noqa: PLC0415

    return lab_of(files)

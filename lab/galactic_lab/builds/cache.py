"""Where builds are kept between labs: ``$XDG_CACHE_HOME/galactic``, or ``~/.cache/galactic``."""

import os
from pathlib import Path


def root() -> Path:
    """The folder; it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "galactic"

"""Prints the requirements of pyproject.toml, one a line: ``requirements.py [runtime] [EXTRA…]``, in its folder.

The image's build fetches libraries by it, before there is a package to install.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    for name in sys.argv[1:]:
        found = project["dependencies"] if name == "runtime" else project["optional-dependencies"][name]
        print(*found, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()

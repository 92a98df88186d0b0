"""What pyproject.toml requires, one requirement a line: ``requirements.py [runtime] [EXTRA…]``, in its folder.

For the image's build, which fetches libraries before there is a package to install.
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

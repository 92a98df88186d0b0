"""Changes of a guest kernel's source: files that are put into it, and places that come to use them.

They make guests faster. A source that is not as expected stays as it is.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SINCE: Final = (6, 16)


def seccomp(package: str) -> bool:
    """Whether guests of a package ``linux-source-…`` have a seccomp mode. Those of others are traced (ptrace(2))."""
    numbers = re.search(r"(\d+)\.(\d+)$", package)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= SINCE


@dataclass(frozen=True, slots=True)
class Change:
    """``folder``: files, which become those of the tree's folder ``into``. ``edits``: (file of the tree, text that it
    has once, text in its place).
    """

    name: str
    folder: Path
    into: str
    edits: tuple[tuple[str, str, str], ...]

    @property
    def inputs(self) -> str:
        """The part of a build's inputs that comes from here."""
        return " ".join([*(path.read_text() for path in sorted(self.folder.iterdir())), repr(self.edits)])

    def put(self, tree: Path) -> bool:
        """Changes a source tree. False, and no change, where it is not as expected."""
        texts = {name: (tree / name).read_text() for name, _, _ in self.edits if (tree / name).exists()}
        for name, old, new in self.edits:
            if texts.get(name, "").count(old) != 1:
                return False
            texts[name] = texts[name].replace(old, new)
        for path in self.folder.iterdir():
            shutil.copy(path, tree / self.into)
        for name, text in texts.items():
            (tree / name).write_text(text)
        return True

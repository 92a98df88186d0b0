"""The docstring of a package names each of its modules and packages."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    path.parent
    for folder in ("controllers", "lab", "src", "tools")
    for path in (ROOT / folder).rglob("__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstring_names_what_is_inside(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    inside = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    inside |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert not sorted(name for name in inside if not re.search(rf"\b{name}\b", docstring))


def test_there_are_packages() -> None:
    assert len(PACKAGES) > 30

"""The wheels: Galactic's has nothing of the lab, the lab's has all that its kernels and programs are built from."""

import subprocess
import sys
from configparser import ConfigParser
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from release.distributions import LAB, ROOT, project


class Wheel:
    """A wheel, built from the checkout."""

    def __init__(self, source: Path, target: Path) -> None:
        words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
        subprocess.run(words, cwd=source, check=True, capture_output=True, text=True)
        (self.path,) = target.glob("*.whl")
        with ZipFile(self.path) as file:
            self.files = set(file.namelist())
        self.info = next(name.partition("/")[0] for name in self.files if ".dist-info/" in name)

    def text(self, name: str) -> str:
        with ZipFile(self.path) as file:
            return file.read(f"{self.info}/{name}").decode()

    @property
    def metadata(self) -> Message:
        return HeaderParser().parsestr(self.text("METADATA"))

    @property
    def points(self) -> ConfigParser:
        entry_points = ConfigParser()
        entry_points.read_string(self.text("entry_points.txt"))
        return entry_points


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT, tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT / LAB, tmp_path_factory.mktemp("lab"))


def test_galactics_wheel_has_its_two_packages_and_nothing_of_the_lab(product: Wheel) -> None:
    assert {name.partition("/")[0] for name in product.files} == {"galactic", "cni_plugin", product.info}
    folders = {part for name in product.files for part in Path(name).parts}
    assert {"lab", "galactic_lab", "demo.py", "guest.config", "go.mod", "multus.yaml"}.isdisjoint(folders)
    assert "galactic/node/__main__.py" in product.files


def test_galactics_wheel_requires_and_adds_nothing_for_the_lab(product: Wheel) -> None:
    required = product.metadata.get_all("Requires-Dist") or []
    assert not [line for line in required if line.startswith(("supervisor", "galactic-lab"))]
    assert "lab" not in (product.metadata.get_all("Provides-Extra") or [])
    assert product.points.sections() == ["console_scripts"]
    assert not [value for _, value in product.points["console_scripts"].items() if "lab" in value]


def test_the_labs_wheel_has_what_it_builds_from_and_adds_its_commands(lab: Wheel) -> None:
    assert {name.partition("/")[0] for name in lab.files} == {"galactic_lab", lab.info}
    carried = {
        path.relative_to(ROOT / LAB).as_posix()
        for path in (ROOT / LAB / "galactic_lab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"galactic_lab/builds/guest.config", "galactic_lab/builds/modules/etcd/go.sum"} <= carried
    assert carried == {name for name in lab.files if name.startswith("galactic_lab/")}
    assert set(lab.points.sections()) == {"galactic.commands", "galactic.sites"}
    assert set(lab.points["galactic.commands"]) == {"lab", "demo"}
    required = lab.metadata.get_all("Requires-Dist") or []
    assert {line.partition(">")[0] for line in required} == {"galactic[cli]", "supervisor", "urllib3"}


def test_both_have_one_version(product: Wheel, lab: Wheel) -> None:
    assert product.metadata["Version"] == lab.metadata["Version"] == project()["version"]

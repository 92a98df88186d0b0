"""The image's contents: the libraries of constraints.txt and no others, nothing of the builder's machine."""

import importlib.metadata
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from release.distributions import IMAGE, ROOT, closure, constraints, normal

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def site(image) -> Path:
    (found,) = (image.root / "opt/galactic/lib").glob("python3*/site-packages")
    return found


def installed(image) -> dict[str, str]:
    found = importlib.metadata.distributions(path=[str(site(image))])
    return {normal(one.name): one.version for one in found}


def test_libraries_are_the_pinned_dependencies(image):
    there = installed(image)
    assert there.pop("galactic") == PROJECT["version"]
    assert there.keys() == closure(IMAGE).keys()
    pinned = constraints()
    assert there == {name: pinned[name] for name in there}


def test_the_sbom_lists_the_contents(image, tmp_path):
    words = [sys.executable, "-m", "release.sbom", str(tmp_path / "sbom.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "sbom.json").read_text())
    assert (listed["bomFormat"], listed["metadata"]["component"]["name"]) == ("CycloneDX", "galactic")
    there = installed(image)
    there.pop("galactic")
    assert {normal(part["name"]): part["version"] for part in listed["components"]} == there
    assert str(ROOT) not in (tmp_path / "sbom.json").read_text()


def test_its_labels_are_those_of_the_commit(image, built_facts):
    labels = {
        key.removeprefix("org.opencontainers.image."): value for key, value in image.config["Labels"].items()
    }
    assert labels["title"] == "Galactic"
    assert labels["licenses"] == PROJECT["license"]
    assert labels["version"] == PROJECT["version"]
    assert labels["revision"] == built_facts.revision
    created = datetime.strptime(labels["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert int(created.timestamp()) == built_facts.epoch
    assert labels["base.name"].startswith("localhost/base:")
    assert "://" not in labels["source"] or labels["source"].startswith("https://")
    assert "@" not in labels["source"]


def test_it_runs_as_an_unnamed_user(image):
    assert image.config["User"] == "65532:65532"
    assert "Entrypoint" not in image.config
    shadow = (image.root / "etc/passwd").read_text()
    assert "\ngalactic:x:65532:65532:" in shadow


def test_no_file_is_setuid_or_writable(image):
    for path in image.root.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), path
            assert status.st_uid == 0, path
            assert not status.st_mode & stat.S_IWOTH, path


def test_no_build_tools_and_no_paths_of_the_builder(image):
    assert not list((image.root / "run/machine").glob("*"))
    assert not (image.root / "etc/pip.conf").exists()
    assert not list((image.root / "var/lib/apt/lists").iterdir())
    for name in ("pip", "pip3", "gcc", "cc", "curl", "wget"):
        for folder in ("usr/bin", "opt/galactic/bin"):
            assert not (image.root / folder / name).exists(), name
    assert {"pip", "supervisor", "pytest", "setuptools"}.isdisjoint(installed(image))
    words = re.compile(rb"PIP_|/run/machine|index-url")
    history = json.dumps(image.config).encode()
    assert not words.search(history)


def test_the_lab_is_not_in_it(image):
    """Neither its modules nor what it builds kernels and programs from."""
    names = {path.name for path in (image.root / "opt/galactic").rglob("*")}
    assert {"lab", "galactic_lab", "guest.config", "go.mod"}.isdisjoint(names)
    assert not [name for name in names if name.startswith(("galactic_lab", "galactic-lab"))]


def test_modules_are_compiled_with_unchecked_hashes(image):
    """PEP 552: the flags after the magic number; 1 is a hash that is not checked. A stale one would be compiled at each
    start.
    """
    sources = [*(site(image) / "galactic").rglob("*.py"), *image.root.glob("usr/lib/python3.*/**/*.py")]
    assert len(sources) > 600
    for source in sources:
        (compiled,) = source.parent.glob(f"__pycache__/{source.stem}.cpython-*[0-9].pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", source


def test_the_documented_size_is_true(image):
    """docs/image.md has the size; a tenth more needs a change there."""
    done = subprocess.run(["du", "-sxm", image.root], capture_output=True, text=True, check=True)
    size = int(done.stdout.split()[0])
    documented = re.search(r"some (\d+) MB", (ROOT / "docs/image.md").read_text())
    assert documented
    assert size < 1.1 * int(documented[1])

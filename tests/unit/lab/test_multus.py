"""Which Multus the nodes of a lab have, and what its configuration is."""

import json
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic_lab.node import kubelet, multus, networks, real_multus

PODS = IPv6Network("fd01:1::/64")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /etc/cni/net.d."""
    monkeypatch.setattr(kubelet, "DEFINITIONS", tmp_path / "net.d")
    return tmp_path / "net.d"


def plugin(folder: Path) -> dict[str, object]:
    first = min(folder.iterdir(), key=lambda path: path.name)
    (only,) = json.loads(first.read_text())["plugins"]
    return dict(only)


def program(folder: Path, name: str, mode: int = 0o755) -> None:
    (folder / name).write_text("#!/bin/sh")
    (folder / name).chmod(mode)


def test_without_a_folder_it_is_the_stand_in(folder: Path) -> None:
    assert real_multus.given("") == ""
    assert not real_multus.thick("")
    networks.configure(PODS, Path("/k"), [Path("/bin")])
    path = plugin(folder)
    assert (path["type"], path["plugins"]) == (multus.NAME, ["/bin"])
    assert path["delegate"] == kubelet.network(PODS)
    assert (folder / real_multus.definition("")).exists()


def test_a_thin_one_comes_first_as_well(folder: Path, tmp_path: Path) -> None:
    program(tmp_path, "multus")
    given = real_multus.given(str(tmp_path))
    assert not real_multus.thick(given)
    real_multus.configure(given, PODS, Path("/k"))
    path = plugin(folder)
    assert (path["type"], path["kubeconfig"]) == ("multus", "/k")
    assert path["delegates"] == [kubelet.network(PODS)]
    assert (folder / real_multus.definition(given)).exists()


def test_a_thick_one_writes_its_configuration_itself(folder: Path, tmp_path: Path) -> None:
    for name in ("multus", "multus-daemon", "multus-shim"):
        program(tmp_path, name)
    given = real_multus.given(str(tmp_path))
    assert real_multus.thick(given)
    real_multus.configure(given, PODS, Path("/k"))
    assert [path.name for path in folder.iterdir()] == ["10-pods.conflist"]
    assert real_multus.definition(given) == "00-multus.conf"


@pytest.mark.parametrize(
    ("programs", "mode"),
    [([], 0o755), (["multus"], 0o644), (["multus-daemon"], 0o755), (["multus-shim"], 0o755)],
    ids=["nothing", "no-program", "daemon-alone", "shim-alone"],
)
def test_the_folder_has_the_programs(tmp_path: Path, programs: list[str], mode: int) -> None:
    for name in programs:
        program(tmp_path, name, mode)
    with pytest.raises(Rejected, match="has neither the program `multus` nor `multus-daemon` and") as refusal:
        real_multus.given(str(tmp_path))
    assert refusal.value.field == "GALACTIC_LAB_MULTUS"

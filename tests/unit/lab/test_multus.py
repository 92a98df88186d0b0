"""Which Multus the nodes of a lab have, and what its configuration is."""

import json
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic.lab.runtime import kubelet, multus

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


def test_without_a_folder_it_is_the_stand_in(folder: Path) -> None:
    assert multus.given("") == ""
    multus.configure(PODS, Path("/k"), [Path("/bin")])
    found = plugin(folder)
    assert (found["type"], found["plugins"]) == (multus.NAME, ["/bin"])
    assert found["delegate"] == kubelet.network(PODS)


def test_a_real_one_comes_first_as_well(folder: Path) -> None:
    multus.configure(PODS, Path("/k"), [Path("/bin")], real=True)
    found = plugin(folder)
    assert (found["type"], found["kubeconfig"]) == ("multus", "/k")
    assert found["delegates"] == [kubelet.network(PODS)]


def test_the_folder_has_the_program(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="has no program `multus`; a Multus with a daemon"):
        multus.given(str(tmp_path))
    (tmp_path / "multus").write_text("#!/bin/sh")
    with pytest.raises(Rejected):
        multus.given(str(tmp_path))
    (tmp_path / "multus").chmod(0o755)
    assert multus.given(str(tmp_path)) == str(tmp_path)

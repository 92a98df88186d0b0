"""The modules that a host is prepared with, by a stand-in for modprobe that makes what the kernel would make."""

from pathlib import Path

import pytest

from galactic.node import prepare

MODPROBE = """#!/bin/sh
# As drivers/net/dummy.c does: numdummies devices when it is loaded, one if nothing is said.
[ "$1" = --quiet ] || exit 2
shift
[ "$1" = {refused} ] && exit 1
echo "$1" >> {folder}/loaded
[ "$1" = dummy ] || exit 0
[ "$2" = numdummies=0 ] || touch {folder}/dummy0
"""


@pytest.fixture
def modprobe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what it did."""
    install(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def install(folder: Path, refused: str = "none") -> None:
    program = folder / "modprobe"
    program.write_text(MODPROBE.format(folder=folder, refused=refused))
    program.chmod(0o755)


def test_all_modules_are_loaded_and_no_device_is_left(modprobe: Path) -> None:
    assert prepare._modules().state == "ok"
    assert (modprobe / "loaded").read_text().split() == [*prepare.MODULES]
    assert not (modprobe / "dummy0").exists()


def test_a_module_that_is_refused_is_named(modprobe: Path) -> None:
    install(modprobe, refused="vrf")
    row = prepare._modules()
    assert row.state == "later"
    assert "not loaded: vrf;" in row.message

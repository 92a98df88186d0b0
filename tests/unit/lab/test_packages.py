"""The machine's programs are found where users and administrators have them, and nowhere else."""

from pathlib import Path

import pytest

from galactic.lab import packages


def program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "kubectl"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_labs_own_link_is_no_program_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's PATH begins with it: a lab that came up again linked its kubectl to itself."""
    monkeypatch.setattr(packages, "HOME", tmp_path / "labs")
    linked = program(tmp_path / "labs/default/bin")
    monkeypatch.setenv("PATH", str(linked.parent))
    assert packages.program("kubectl") is None
    own = program(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{linked.parent}:{own.parent}")
    assert packages.program("kubectl") == str(own)


def test_an_administrators_programs_are_found_without_their_folder_in_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert packages.program("ldconfig")

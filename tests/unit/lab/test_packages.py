"""The machine's programs are found where users and administrators have them, and nowhere else."""

import fcntl
from pathlib import Path

import pytest

from galactic.errors import Unreachable
from galactic_lab.builds import cache, packages


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


class Apt:
    """An apt-get that installs after ``failures`` tries, writes down what it was called with, and what it saw."""

    def __init__(self, folder: Path, failures: int) -> None:
        self._log = folder / "log"
        self.policy = folder / "policy-rc.d"
        programs = folder / "bin"
        programs.mkdir()
        self._write(
            programs / "dpkg-query",
            f"test -e {folder}/there && for each in $3 $4; do echo $each installed; done",
        )
        self._write(
            programs / "apt-get",
            f"case $* in *update*) echo update >> {self._log}; exit 100;; esac\n"
            f"flock --nonblock {cache.root()}/packages.lock true || alone=alone\n"
            f"test -x {self.policy} && quiet=quiet\n"
            f"echo install $alone $quiet >> {self._log}\n"
            f"test $(grep -c install {self._log}) -gt {failures} || {{ echo no route >&2; exit 100; }}\n"
            f"touch {folder}/there",
        )

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines()

    @staticmethod
    def _write(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Apt:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = Apt(tmp_path, request.param)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "POLICY", made.policy)
    monkeypatch.setattr(packages, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return made


@pytest.mark.parametrize("apt", [packages.TRIES - 1], indirect=True)
def test_what_a_mirror_does_not_give_at_once_is_asked_for_again(apt: Apt) -> None:
    """Alone each time, and with services kept from starting, which nothing is left of."""
    packages.install(["a", "b"])
    assert apt.calls == [*["install alone quiet", "update"] * (packages.TRIES - 1), "install alone quiet"]
    assert not apt.policy.exists()
    packages.install(["a", "b"])
    assert len(apt.calls) == 2 * packages.TRIES - 1, "what is there is not installed"


@pytest.mark.parametrize("apt", [packages.TRIES], indirect=True)
def test_a_mirror_that_stays_away_is_an_error(apt: Apt) -> None:
    with pytest.raises(Unreachable, match="cannot install a b:\nno route"):
        packages.install(["a", "b"])
    assert not apt.policy.exists()


@pytest.mark.parametrize("apt", [0], indirect=True)
def test_the_switch_of_a_running_installation_is_left_alone(apt: Apt) -> None:
    apt.policy.write_text(f"#!/bin/sh\n{packages.MARK}exit 101\n")
    cache.root().mkdir(parents=True)
    with (cache.root() / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages.tidy()
        assert apt.policy.exists()
    packages.tidy()
    assert not apt.policy.exists(), "it was left by one that was killed"


def test_versions_that_apt_offers_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        "thing | 2-1 | a security",
        "thing | 2-1 | b security",
        "thing | 1-1 | a main",
        "thing | 1-1 | a main Sources",
    ]
    (tmp_path / "apt-cache").write_text("#!/bin/sh\n" + "".join(f"echo ' {row}'\n" for row in rows))
    (tmp_path / "apt-cache").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert packages.served("thing") == ["2-1", "1-1"]
    assert packages.served("other") == []
    monkeypatch.setenv("PATH", "")
    assert packages.served("thing") == []


def test_the_version_of_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(text: str) -> str | None:
        (tmp_path / "dpkg-query").write_text(f"#!/bin/sh\nprintf '{text}'\n")
        (tmp_path / "dpkg-query").chmod(0o755)
        return packages.version("thing")

    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert installed("installed 1:2-3") == "1:2-3"
    assert installed("config-files 1:2-3") is None
    assert installed("") is None

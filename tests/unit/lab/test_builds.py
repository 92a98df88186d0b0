"""A build is made once for all callers, and leaves nothing half-done behind."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from galactic_lab.builds import build as builds
from galactic_lab.builds import cache, fetching
from galactic_lab.builds.build import Build, BuildFailed, Job
from galactic_lab.builds.build_linux import FRAGMENT, PASSING, refused, wanted


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def build(made: list[str], *, held: Callable[[], object] = bool, script: str = "exit 0") -> Build:
    def make(job: Job) -> None:
        made.append("made")
        held()
        job.run(["sh", "-c", script], seconds=1)
        (job.out / "file").write_text("content")

    return Build("thing", ("file",), "inputs", 1.0, make)


def ignore(_done: float, _title: str) -> None:
    pass


def test_it_is_built_once_however_many_ask() -> None:
    """The first pauses until the others wait for it."""
    made: list[str] = []
    others = threading.Semaphore(0)

    def advance(_done: float, title: str) -> None:
        if title == "another process is building it":
            others.release()

    made_build = build(made, held=lambda: [others.acquire() for _ in range(2)])
    threads = [threading.Thread(target=made_build.ensure, args=(advance,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made"]
    assert (made_build.home / "file").read_text() == "content"


def test_other_inputs_are_another_build() -> None:
    one, other = (Build("thing", ("file",), inputs, 1.0, lambda _job: None) for inputs in ("a", "b"))
    assert one.home != other.home


def test_a_failure_shows_the_end_of_the_log_and_leaves_nothing() -> None:
    made_build = build([], script="echo something went wrong; exit 3")
    with pytest.raises(BuildFailed, match="something went wrong") as failure:
        made_build.ensure(ignore)
    assert str(cache.root() / "thing.log") in str(failure.value)
    assert not made_build.home.exists()
    assert not list(cache.root().glob("thing.building-*"))


def made_at(tries: int) -> Build:
    """A build that succeeds at that try."""

    def make(job: Job) -> None:
        script = f"echo try >> tries; test $(wc -l < tries) -ge {tries} && touch {job.out}/file"
        job.fetch(["sh", "-c", script], seconds=1, lines=1, title="fetching")

    return Build("thing", ("file",), "inputs", 1.0, make)


def test_what_a_mirror_does_not_give_at_once_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", (0.0, 0.0))
    with pytest.raises(BuildFailed):
        made_at(fetching.TRIES + 1).ensure(ignore)
    assert (made_at(fetching.TRIES).ensure(ignore) / "file").exists()


def test_what_a_killed_build_left_is_swept() -> None:
    stale = cache.root() / "thing.building-dead"
    stale.mkdir(parents=True)
    build([]).ensure(ignore)
    assert not stale.exists()


def test_a_build_that_makes_nothing_has_failed() -> None:
    empty = builds.Build("thing", ("file",), "inputs", 1.0, lambda _job: None)
    with pytest.raises(BuildFailed):
        empty.ensure(ignore)


def test_options_the_kernel_did_not_take_are_named() -> None:
    fragment = "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n"
    assert wanted(fragment) == ["CONFIG_A", "CONFIG_B"]
    assert refused(fragment, "CONFIG_A=y\n# CONFIG_B is not set\n") == ["CONFIG_B"]
    assert not set(PASSING) - set(wanted(FRAGMENT.read_text()))


def test_a_command_is_run_until_it_succeeds_or_the_tries_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", paused.append)
    codes = iter([1, 0, 1, 1, 1])
    run = lambda: subprocess.CompletedProcess(["apt-get"], next(codes), "", "")  # noqa: E731
    assert fetching.fetched(run).returncode == 0
    assert len(paused) == 1
    assert fetching.fetched(run).returncode == 1
    assert len(paused) == fetching.TRIES
    assert next(codes, None) is None, "no try is left out"

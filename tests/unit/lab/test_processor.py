"""Which processor a guest gets."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from galactic_lab.builds import cache
from galactic_lab.kernel import processor

MINE = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("guests", "expected"),
    [
        ([], 0),
        ([{0}], 1),
        ([{0}, {1}], 0),
        ([{0}, {1}, {0}], 1),
        ([{0, 1}, {0}], 1),
        ([{7}], 0),
    ],
    ids=["none", "one", "equal", "fewest", "not-settled", "somewhere-else"],
)
def test_the_processor_with_the_fewest_guests(
    guests: list[set[int]], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "guests", lambda: iter(guests))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert processor.least_pinned() == expected


def scheduler() -> int:
    """The real-time one, unless this machine refuses it."""
    command = [sys.executable, "-c", "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"]
    allowed = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return os.SCHED_RR if allowed else os.SCHED_OTHER


def test_a_guest_is_known_by_its_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts once, however many processes it has."""
    monkeypatch.setattr(processor, "GUEST", "linux-of-this-test")
    linux = tmp_path / processor.GUEST
    linux.write_bytes(Path("/bin/sleep").read_bytes())
    linux.chmod(0o755)
    command = [sys.executable, "-P", "-m", "galactic_lab.kernel.processor", str(linux), "600"]
    running = [subprocess.Popen(command) for _ in range(2)]
    try:
        lock = cache.root() / processor.LOCK
        while not all(Path(f"/proc/{process.pid}/exe").readlink() == linux for process in running):
            assert all(process.poll() is None for process in running)
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # it is free again
        assert all(len(os.sched_getaffinity(process.pid)) == 1 for process in running)
        assert {os.sched_getscheduler(process.pid) for process in running} == {scheduler()}
        (guest,) = processor.guests()
        assert guest <= set(MINE)
    finally:
        for process in running:
            process.kill()
            process.wait()

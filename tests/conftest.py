"""Tests that stay in one worker with ``-n 3 --dist loadfile``, because they share what is made once, and the order of
the pieces.

Hypothesis tries the same cases at each run, without a time limit for one. ``GALACTIC_RANDOM_HISTORIES=1000`` tries
new ones.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from pieces import piece, rank
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import NodeManager, WorkerController

INTERRUPTED_SECONDS: Final = 60
"""After Ctrl-C, for each worker to take down what it made; ten, which is usual, are too short for a lab."""

FILES_SHOWN: Final = 15

FIXED: Final = "GALACTIC_RANDOM_HISTORIES" not in os.environ

settings.register_profile(
    "galactic",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=FIXED,
    database=None,
    print_blob=True,
)
settings.load_profile("galactic")
if FIXED:  # or constants of whatever else a worker has imported by then are among the cases
    providers._get_local_constants = providers.Constants


class Together(LoadFileScheduling):
    """Workers get the pieces of work of ``pieces.piece``; LONG comes first."""

    def _split_scope(self, nodeid: str) -> str:
        return piece(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """A worker has no more ahead of it than it must know of: the test after the one that runs."""
        if not self.workqueue or self._pending_of(self.assigned_work[node]) <= 1:
            super()._reschedule(node)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--versions",
        type=float,
        metavar="SINCE",
        help="print at the end the files that took longest and what the run took from the machine; what was built "
        "after SINCE (seconds since 1970) was built in this run",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With ``-n`` only the process that prints has a terminal: the table is printed once."""
    since: float | None = config.getoption("versions")
    if since is not None:
        reports = [
            report for reports_of_kind in terminalreporter.stats.values() for report in reports_of_kind
        ]
        terminalreporter.section("the files that took longest", "-")
        for line in longest(reports):
            terminalreporter.line(line)
        from galactic_lab import provenance  # what a test of one file need not wait for

        terminalreporter.section("what this run took from the machine", "-")
        for line in provenance.table(provenance.facts(since)):
            terminalreporter.line(line)


def longest(reports: Iterable[object]) -> list[str]:
    """The files with the most seconds in a worker, set-up and teardown included; each with its slowest test."""
    tests: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        if isinstance(report, pytest.TestReport):
            file, _, test = report.nodeid.partition("::")
            tests[file][test] += report.duration
    files = sorted(tests.items(), key=lambda item: item[1].total(), reverse=True)
    whole = sum(durations.total() for durations in tests.values())
    return [
        f"{durations.total():7.1f} s  {len(durations):4} tests  {file} ({slowest} {seconds:.1f} s)"
        for file, durations in files[:FILES_SHOWN]
        for slowest, seconds in durations.most_common(1)
    ] + [f"{whole:7.1f} s  {sum(map(len, tests.values())):4} tests  all {len(tests)} files, in all workers"]


def pytest_configure() -> None:
    NodeManager.EXIT_TIMEOUT = INTERRUPTED_SECONDS


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return Together(config, log) if config.getoption("dist") == "loadfile" else None

"""Tests of a release on several kernels and versions of Kubernetes: ``python -m release.proven [--kubernetes 1.34]
[--kubernetes 1.37] [--report 1.37=FILE]``.

Runs the chart's tests and the stories once for each version of Kubernetes, and tests/kernel in every guest kernel, and
writes docs/proven.md: versions, date, commit, and how each file of tests ended. Exit code 1 if any of them failed.
A run takes about twenty minutes for each version on two quiet processors, and six more to build a version for the first
time.

``make test`` runs the same files. Its report serves instead of a second run, if it is of the same commit::

    make test PYTEST_ADDOPTS="-o junit_family=xunit1 --junitxml=FILE"
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.etree import ElementTree  # noqa: ICN001 - no alias

from galactic_lab import provenance
from galactic_lab.builds import build_modules, guest_kernels
from release.distributions import ROOT

OLDEST, NEWEST = "1.34", "1.37"
"""Minors of Kubernetes: the oldest and the newest that can be built."""
STORIES: Final = ("tests/chart", "tests/e2e")
"""Files that are run with each version."""
KERNELS: Final = "tests/kernel/test_in_guest.py"
WORKERS: Final = "3"
ENDINGS: Final = ("failed", "skipped", "passed")
HEAD: Final = """# What was tried

For those who run the cluster, or release Galactic.

`python -m release.proven` writes this page before a release: it runs the chart's tests and the stories on the oldest
and the newest Kubernetes that can be built from Go modules, and tests/kernel in each
[guest kernel](lab.md#guest-kernels).
A number is that of tests that passed.
"""
GUESTS: Final = "A test there is one boot, in which all tests of the file that are for this kernel passed."


@dataclass(slots=True)
class Run:
    """One run of pytest: by file, how many tests ended in which way (``ENDINGS``)."""

    title: str
    files: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return not self.files or any(counts["failed"] for counts in self.files.values())

    def cell(self, file: str) -> str:
        """The cell of the table for a file, also for one that was not run."""
        counts = self.files.get(file)
        if not counts:
            return "not run"
        return ", ".join(
            str(counts[ending]) if ending == "passed" else f"**{counts[ending]} {ending}**"
            for ending in ENDINGS
            if counts[ending]
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A test in a JUnit report."""

    module: str
    """Its dotted name."""
    name: str
    ending: str
    files: tuple[str, ...]
    """Names of files in tests/kernel that test_in_guest.py ran in the guest."""


def _cases(report: Path) -> Iterator[Case]:
    """The tests of a JUnit report in pytest's form ``xunit1``."""
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by pytest
        kinds = {child.tag for child in case}
        ending = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        files = tuple(properties.get("files", "").split())
        yield Case(case.get("classname", ""), case.get("name", ""), ending, files)


def read(report: Path, title: str, names: Mapping[str, str]) -> Run:
    """The chart's tests and the stories of a JUnit report. ``names``: the file of each module, by its dotted name."""
    run = Run(title)
    for case in _cases(report):
        file = names.get(case.module, case.module)
        if file.replace(".", "/").startswith(STORIES):
            run.files.setdefault(file, Counter())[case.ending] += 1
    return run


def by_kernel(report: Path) -> list[Run]:
    """The runs of tests/kernel in a guest: one for each kernel, by file. A case's id is ``BOOT@KERNEL``."""
    runs: dict[str, Run] = {}
    for case in _cases(report):
        if case.module.endswith(Path(KERNELS).stem):
            kernel = case.name.rstrip("]").rpartition("@")[2]
            run = runs.setdefault(kernel, Run(f"Linux {kernel}"))
            for file in case.files or (case.name,):
                run.files.setdefault(f"tests/kernel/{file}", Counter())[case.ending] += 1
    return list(runs.values())


def story(file: Path) -> str:
    """The first sentence of a test file's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
    first, dot, _ = text.partition(". ")
    return first.rstrip(".") if dot else text.rstrip(".")


def table(runs: Sequence[Run]) -> list[str]:
    """A row for each file that was run, a column for each run."""
    files = sorted({file for run in runs for file in run.files})
    lines = [
        f"| {' | '.join(['file', 'promise', *(run.title for run in runs)])} |",
        f"|---|---|{'---|' * len(runs)}",
    ]
    for file in files:
        path = ROOT / file
        promise = story(path) if path.is_file() else ""
        cells = [f"`{file.removeprefix('tests/')}`", promise, *(run.cell(file) for run in runs)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(
    facts: Iterable[provenance.Fact], kubernetes: Sequence[Run], kernels: Sequence[Run], when: str
) -> str:
    """The page, in Markdown."""
    shown = [fact for fact in facts if not fact.name.startswith(("cache", "libraries", "kube"))]
    lines = [
        *(HEAD, f"Run on {when}.", "", "## Kubernetes", "", *table(kubernetes), ""),
        *("## Guest kernels", "", GUESTS, ""),
        *(*table(kernels), "", "## Versions", "", "| what | version |", "|---|---|"),
        *(f"| {fact.name} | {fact.version} |" for fact in shown),
    ]
    return "\n".join(lines) + "\n"


def tried(paths: Sequence[str], report: Path, **variables: str) -> None:
    """Runs pytest, whose exit code is in the report."""
    command = [sys.executable, "-m", "pytest", *paths, "-n", WORKERS, "--dist", "loadfile"]
    command += ["-o", "junit_family=xunit1", f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False)
    if not report.exists():
        raise SystemExit(f"proven: pytest of {' '.join(paths)} wrote no report")


def _given_report(text: str) -> tuple[str, Path]:
    version, _, path = text.partition("=")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(
            f"{text}: want VERSION=FILE, such as 1.37=report.xml, of a file that exists"
        )
    return version, Path(path)


def main() -> int:
    parser = argparse.ArgumentParser("python -m release.proven", description="Writes docs/proven.md.")
    parser.add_argument(
        "--kubernetes", action="append", metavar="VERSION", help=f"default: {OLDEST} and {NEWEST}"
    )
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        type=_given_report,
        metavar="VERSION=FILE",
        help="a report that `make test` wrote with this version, on this commit; it serves for the guests as well",
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs/proven.md", help="what is written")
    given = parser.parse_args()
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    reports = dict(given.report)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for version in given.kubernetes or (OLDEST, NEWEST):
            report = reports.get(version, Path(folder) / f"{version}.xml")
            if version not in reports:
                tried(STORIES, report, **{build_modules.SETTING: version})
            runs.append(read(report, f"Kubernetes {version}", names))
        kernels = [run for report in reports.values() for run in by_kernel(report)]
        if not kernels:
            report = Path(folder) / "kernels.xml"
            tried([KERNELS], report)
            kernels = by_kernel(report)
    when = f"{datetime.now(UTC):%Y-%m-%d} at commit {commit}"
    given.page.write_text(page(provenance.facts(), runs, kernels, when))
    known = {source.version for name in guest_kernels.KERNELS if (source := guest_kernels.known(name))}
    failed = [run.title for run in (*runs, *kernels) if run.failed]
    if lacking := known - {run.title.removeprefix("Linux ") for run in kernels}:
        failed.append(f"no result of {', '.join(sorted(lacking))}")
    sys.stderr.write(f"wrote {given.page}: {'failed: ' + ', '.join(failed) if failed else 'all passed'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

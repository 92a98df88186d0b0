"""The page of what a release was tried on: what failed, was skipped or was not run is on it as that."""

from pathlib import Path

import pytest

from galactic_lab.provenance import Fact
from release import proven

REPORT = """<testsuites><testsuite>
<testcase classname="tests.e2e.test_a" name="test_one"/>
<testcase classname="tests.e2e.test_a" name="test_two"><failure/></testcase>
<testcase classname="tests.e2e.test_b" name="test_three"><skipped/></testcase>
<testcase classname="tests.e2e.test_b" name="test_four"><error/></testcase>
</testsuite></testsuites>"""
GUESTS = """<testsuites><testsuite>
<testcase classname="tests.kernel.test_in_guest" name="test_in_a_guest[others@6.1.1-1]">
<properties><property name="files" value="test_plan.py test_peering.py"/></properties></testcase>
<testcase classname="tests.kernel.test_in_guest" name="test_in_a_guest[others-2@7.3-1~bpo]">
<properties><property name="files" value="test_plan.py"/></properties><failure/></testcase>
<testcase classname="tests.unit.test_a" name="test_five"><failure/></testcase>
</testsuite></testsuites>"""
NAMES = {
    "tests.e2e.test_a": "tests/e2e/test_a.py",
    "tests.unit.test_a": "tests/unit/test_a.py",
    "tests.kernel.test_in_guest": "tests/kernel/test_in_guest.py",
}


@pytest.fixture
def report(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "report.xml"
        path.write_text(text)
        return path

    return write


def test_each_ending_is_counted_by_file(report):
    run = proven.read(report(REPORT), "Kubernetes 1.34", NAMES)
    assert run.cell("tests/e2e/test_a.py") == "**1 failed**, 1"
    assert run.cell("tests.e2e.test_b") == "**1 failed**, **1 skipped**"
    assert run.cell("tests/e2e/test_c.py") == "not run"
    assert run.failed
    assert proven.Run("nothing ran").failed


def test_kernels_are_distinguished(report):
    old, new = proven.by_kernel(report(GUESTS))
    assert (old.title, old.failed) == ("Linux 6.1.1-1", False)
    assert (new.title, new.failed) == ("Linux 7.3-1~bpo", True)
    assert new.cell("tests/kernel/test_plan.py") == "**1 failed**"
    assert old.cell("tests/kernel/test_peering.py") == "1"
    assert new.cell("tests/kernel/test_peering.py") == "not run"
    assert not proven.read(report(GUESTS), "Kubernetes 1.34", NAMES).files, (
        "a whole run has other tests as well"
    )


def test_the_page(report):
    run = proven.read(report(REPORT), "Kubernetes 1.34", NAMES)
    facts = [Fact("mosquitto", "2.0.11", "here"), Fact("cache", "3", "")]
    text = proven.page(facts, [run], proven.by_kernel(report(GUESTS)), "2001-02-03 at commit abc")
    assert "Run on 2001-02-03 at commit abc." in text
    assert "| `e2e/test_a.py` |  | **1 failed**, 1 |" in text
    assert "| mosquitto | 2.0.11 |" in text
    assert "cache" not in text


def test_the_promise_of_a_file_is_the_first_sentence_of_its_docstring(tmp_path: Path):
    file = tmp_path / "test_x.py"
    file.write_text('"""It holds\nacross lines. And more."""\n')
    assert proven.story(file) == "It holds across lines"

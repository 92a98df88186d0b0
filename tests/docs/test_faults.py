"""The page of faults names tests, alerts, reasons and sentences that exist."""

import re

import pytest
from blocks import DOCS, ROOT

PAGE = (DOCS / "operations" / "faults.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][1:]
CLI = "".join(path.read_text() for path in (ROOT / "controllers/galactic/cli").rglob("*.py"))
NODE = "".join(path.read_text() for path in (ROOT / "controllers/galactic/node").rglob("*.py"))
SENTENCES = sorted(set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", PAGE)))
REASONS = sorted(set(re.findall(r"`[A-Z]\w+`: `([A-Z]\w+)`", PAGE)))


def test_there_are_rows() -> None:
    assert len(ROWS) >= 16
    assert {len(row) for row in ROWS} == {5}
    assert len(SENTENCES) >= 9
    assert len(REASONS) >= 7


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_fault_is_provoked_and_its_alert_exists(row: list[str]) -> None:
    *_, alert, provoked = row
    path, _, name = provoked.strip("`").partition("::")
    assert f"def {name or 'test_'}" in (ROOT / path).read_text()
    alerts = (ROOT / "charts/galactic/files/alerts/galactic.yaml").read_text()
    assert alert == "none" or f"- alert: {alert.strip('`')}\n" in alerts


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_tool_has_the_sentence(sentence: str) -> None:
    assert sentence in re.sub(r'"\s*\n\s*f?"', "", CLI + NODE)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_in_the_reference(reason: str) -> None:
    assert f"`{reason}`" in (DOCS / "reference" / "reasons.md").read_text() or f'"{reason}"' in NODE

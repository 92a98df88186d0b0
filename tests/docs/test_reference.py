"""The reference pages have everything that the code has."""

import re
from pathlib import Path

import pytest
from blocks import DOCS, ROOT

from reference import __main__ as reference
from reference import metrics, reasons, settings

SOURCES = ROOT / "controllers" / "galactic"


def test_it_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check", str(DOCS)]) == 0, capsys.readouterr().err


def test_the_check_names_outdated_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([str(tmp_path)]) == 0
    (tmp_path / "reference" / "metrics.md").write_text("nothing")
    (tmp_path / "reference" / "left-over.md").write_text("of before")
    assert reference.main(["--check", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "metrics.md" in errors
    assert "left-over.md" in errors
    assert "kinds.md" not in errors


def test_all_metrics_are_known() -> None:
    """Every module that declares metrics is in the list that the page is made from."""
    declaring = set()
    for path in SOURCES.rglob("*.py"):
        text = path.read_text()
        called = set(re.findall(r"\b(?:Counter|Gauge|Histogram|Summary)(?=\()", text))
        if called and "prometheus_client" in text:
            declaring.add("galactic." + ".".join(path.relative_to(SOURCES).with_suffix("").parts))
    assert declaring - {"galactic.metrics"} == {module for _, module, _ in metrics.CLASSES}


def test_every_literal_reason_is_on_the_page() -> None:
    page = (DOCS / "reference" / "reasons.md").read_text()
    for path in SOURCES.rglob("*.py"):
        if path.name != "memory.py" and path.relative_to(SOURCES).parts[0] != "cli":
            for word in re.findall(r'reason="([A-Z]\w+)"', path.read_text()):
                assert f"`{word}`" in page, f"{path.name}: {word}"


def test_conditions_are_those_of_the_code() -> None:
    assert {"Ready", "Conflict", "EndDT46", "Synced", "IPv6", "Underlay"} <= reasons.types()


def test_every_setting_is_on_the_page() -> None:
    page = (DOCS / "reference" / "settings.md").read_text()
    for kind in settings.COMMANDS.values():
        for name in kind.model_fields:
            assert f"| `--{name.replace('_', '-')}`<br>" in page

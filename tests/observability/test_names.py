"""Dashboards and rules use only metrics and labels that the processes register."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from galactic.router.metrics import REASONS
from galactic_lab.controlplane import prometheus
from galactic_lab.state import State
from observability import __main__ as writing
from observability import promql
from observability.boards import BOARDS
from observability.grafana import model
from reference.metrics import CLASSES, families
from reference.reasons import reasons

OF_TARGETS = {"job", "instance", "node"}
"""The labels that a scrape adds (the chart's monitors, the lab)."""
ELSEWHERE = ("router/database/", "router/kubernetes/status_writer.py", "router/kubernetes/router_events.py")
"""Modules with reasons of something other than rejections: database failures, a condition, Events on a Pod."""
FOREIGN = {"up": set(), "ALERTS": {"alertname", "alertstate"}}


def registered() -> dict[str, set[str]]:
    """The labels of each metric, by the name that a query has."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for _, _, register in CLASSES:
        for name, kind, labels, _ in families(register):
            for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
                found[name + suffix] = {*labels, *(("le",) if suffix == "_bucket" else ())}
    return found | {"process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}


def expressions(alerts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((name, rule["expr"]) for name, rule in alerts.items())
    for board in BOARDS:
        for panel in board.panels:
            yield from ((f"{board.uid}: {panel.title}", query.expression) for query in panel.queries)
        yield from ((f"{board.uid}: {variable.title}", variable.selector) for variable in board.variables)


def test_every_queried_metric_and_label_exists(alerts: dict[str, Any]) -> None:
    known = registered()
    for where, expression in expressions(alerts):
        names = promql.metrics(expression)
        assert names, where
        assert names <= known.keys(), where
        for metric, label in promql.matched(expression):
            assert label in known[metric] | OF_TARGETS, f"{where}: {metric} has no label {label}"
        of_any = set().union(*(known[name] for name in names))
        assert promql.grouped(expression) <= of_any | OF_TARGETS, where


def test_counters_alone_end_in_total() -> None:
    for _, _, register in CLASSES:
        for name, kind, _, _ in families(register):
            assert name.endswith("_total") == (kind == "counter"), name


def test_the_labels_of_variables_exist() -> None:
    known = registered()
    for board in BOARDS:
        for variable in board.variables:
            (metric,) = promql.metrics(variable.selector)
            assert variable.label in known[metric] | OF_TARGETS


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_has_a_description(board: Any) -> None:
    assert board.description
    for panel in board.panels:
        assert panel.question.endswith((".", "?", ")")), panel.title
        assert panel.unit, panel.title
        assert all(query.legend for query in panel.queries), panel.title
    titles = [panel.title for panel in board.panels]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_names_no_instance_and_its_panels_fit(board: Any) -> None:
    made = model(board)
    assert "id" not in made
    assert made["templating"]["list"][0]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


def test_links_lead_to_dashboards_that_exist() -> None:
    known = {board.uid for board in BOARDS}
    assert {panel.leads_to for board in BOARDS for panel in board.panels} - {""} <= known


def test_the_chart_has_the_dashboards_as_they_are_described() -> None:
    assert writing.main(["--check"]) == 0


def test_each_alert_has_its_runbook_and_each_runbook_its_alert(alerts: dict[str, Any]) -> None:
    pages = {
        path.stem: path.read_text() for path in (Path(__file__).parents[2] / "docs/runbooks").glob("*.md")
    }
    del pages["index"]
    assert set(pages) == set(alerts)
    for name, page in pages.items():
        assert page.startswith(f"# {name}\n"), name
        for heading in ("## Meaning", "## Impact", "## Diagnosis", "## Mitigation"):
            assert page.count(f"\n{heading}\n") == 1, f"{name}: {heading}"


def test_rejections_of_every_reason_are_counted_from_zero() -> None:
    """A series that begins with 1 has no increase: its alert would miss the first failure."""
    counted = {
        reason.word
        for reason in reasons()
        if reason.module.startswith("router/") and not reason.module.startswith(ELSEWHERE)
    }
    assert counted <= set(REASONS)


def test_the_lab_is_scraped_with_the_labels_of_the_charts_monitors() -> None:
    jobs = {job["job_name"]: job for job in prometheus.targets(State("any", nodes=2, routers=2))}
    assert set(jobs) == {f"galactic-{name}" for name in ("operator", "webhook", "router", "node")}
    assert [config["labels"]["node"] for config in jobs["galactic-node"]["static_configs"]] == [
        "node-1",
        "node-2",
    ]
    assert len(jobs["galactic-router"]["static_configs"]) == 2


def test_a_lab_that_gets_another_router_gets_another_prometheus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a new leader is not scraped, and the alert for a missing leader fires."""
    monkeypatch.setattr("galactic_lab.state.HOME", tmp_path)
    one, same, other = (prometheus.program(State("any", nodes=2, routers=number)) for number in (1, 1, 2))
    assert one == same
    assert one.argv != other.argv
    (file,) = [Path(word.partition("=")[2]) for word in other.argv if word.startswith("--config.file=")]
    jobs = {job["job_name"]: job for job in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert len(jobs["galactic-router"]["static_configs"]) == 2

"""Each alert fires for its problem and not for similar states, evaluated by Prometheus itself."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from galactic_lab.controlplane import prometheus

DAY = 86400


@dataclass(frozen=True)
class Case:
    """``series``: promtool's notation, a value per minute. ``fires``: the alert's labels at ``at``; None: no alert."""

    alert: str
    series: dict[str, str]
    fires: dict[str, str] | None = None
    at: str = "50m"


UP = {
    f'up{{job="galactic-{name}", instance="a"}}': "1x60" for name in ("operator", "webhook", "router", "node")
}


def up_but(component: str, values: str | None) -> dict[str, str]:
    name = f'up{{job="galactic-{component}", instance="a"}}'
    series = {key: value for key, value in UP.items() if key != name}
    return series if values is None else series | {name: values}


def router(metric: str, values: str, more: str = "") -> dict[str, str]:
    return {f'galactic_router_{metric}{{job="galactic-router", instance="a"{more}}}': values}


def node(metric: str, values: str, more: str = "") -> dict[str, str]:
    return {f'galactic_node_{metric}{{job="galactic-node", instance="n1:1", node="n1"{more}}}': values}


def pool(**prefixes: int) -> dict[str, str]:
    """The series of both replicas."""
    return {
        f'galactic_operator_pool_prefixes{{instance="{instance}", state="{state}"}}': f"{count}x60"
        for instance in "ab"
        for state, count in prefixes.items()
    }


def gateway(**conditions: str) -> dict[str, str]:
    """The conditions of a VPCGateway, as the leading operator has them."""
    labels = 'instance="a", gateway_namespace="blue", gateway="way"'
    return {
        f'galactic_operator_gateway_condition{{{labels}, type="{kind}"}}': values
        for kind, values in conditions.items()
    }


WAY = {"gateway_namespace": "blue", "gateway": "way"}
N1 = {"node": "n1"}
INFO = {
    'galactic_operator_vpc_info{instance="a", vpc="0000000004d2", vpc_name="blue/blue"}': "1x5 _x60",
    'galactic_operator_vpc_info{instance="b", vpc="0000000004d2", vpc_name="blue/blue"}': "_x4 1x20 _x60",
}
"""The lead changes, and no operator leads later."""
REVISIONS = router("revision", "100x20 200x40", ', vpc="0000000004d2"') | INFO
WAITS = ', le="{}", verb="add"'
OF_BLUE = 'vpc_name="blue/blue", family="4"'
CASES = [
    Case("GalacticComponentDown", UP),
    Case("GalacticComponentDown", up_but("router", "0x60"), {"job": "galactic-router"}),
    Case("GalacticComponentDown", up_but("router", None), {"job": "galactic-router"}),
    Case("GalacticComponentDown", up_but("operator", "1x46 0x20")),
    Case("GalacticComponentDown", up_but("node", "0x60") | {'up{job="galactic-node", instance="b"}': "1x60"}),
    Case("GalacticOperatorIdle", {'galactic_operator_leading{instance="a"}': "0x60"}, {}),
    Case(
        "GalacticOperatorIdle",
        {
            'galactic_operator_leading{instance="a"}': "0x60",
            'galactic_operator_leading{instance="b"}': "1x60",
        },
    ),
    Case("GalacticWebhookFailing", {'galactic_webhook_reviews_total{answer="failed"}': "0+5x60"}, {}),
    Case(
        "GalacticWebhookFailing",
        {
            'galactic_webhook_reviews_total{answer="failed"}': "3x60",
            'galactic_webhook_reviews_total{answer="refused"}': "0+5x60",
        },
    ),
    Case(
        "GalacticWebhookCertificateExpires",
        {'galactic_webhook_certificate_expiry_timestamp_seconds{instance="a"}': f"{6 * DAY}x100"},
        {"instance": "a"},
        at="90m",
    ),
    Case(
        "GalacticWebhookCertificateExpires",
        {'galactic_webhook_certificate_expiry_timestamp_seconds{instance="a"}': f"{8 * DAY}x100"},
        at="90m",
    ),
    Case(
        "GalacticNodeDown",
        {'up{job="galactic-node", node="n1", instance="n1:1"}': "1x30 0x30"},
        {"node": "n1", "instance": "n1:1", "job": "galactic-node"},
    ),
    Case("GalacticNodeDown", {'up{job="galactic-node", node="n1", instance="n1:1"}': "1x40 0x2 1x30"}),
    Case("GalacticNodeNotReady", node("condition", "0x60", ', type="Ready"'), N1),
    Case("GalacticNodeNotReady", node("condition", "0x60", ', type="ReducedEncapsulation"')),
    Case(
        "GalacticKernelNotAsPlanned",
        node("condition", "0x60", ', type="Synced"') | node("condition", "1x60", ', type="Ready"'),
        N1,
    ),
    Case(
        "GalacticKernelNotAsPlanned",  # the other alert covers nodes that are not Ready
        node("condition", "0x60", ', type="Synced"') | node("condition", "0x60", ', type="Ready"'),
    ),
    Case(
        "GalacticKernelDrift",
        node("drift_objects_total", "0+1x60") | node("filter_drift_chains_total", "0x60"),
        N1,
    ),
    Case(
        "GalacticKernelDrift",  # a single change is a mistake, not drift
        node("drift_objects_total", "0x30 5x30") | node("filter_drift_chains_total", "0x60"),
        at="59m",
    ),
    Case("GalacticMultusAway", node("condition", "0x60", ', type="MultusConfigured"'), N1),
    Case("GalacticMultusAway", node("condition", "1x46 0x2 1x20", ', type="MultusConfigured"')),
    Case("GalacticMultusAway", node("condition", "0x60", ', type="Ready"')),
    Case("GalacticNeighboursFailed", node("neighbours_failed", "2x60"), N1),
    Case("GalacticNeighboursFailed", node("neighbours_failed", "0x46 2x20")),  # for less than five minutes
    Case(
        "GalacticNodeBehind",
        REVISIONS | node("vpc_revision", "100x60", ', vpc_name="blue/blue"'),
        N1 | {"vpc_name": "blue/blue"},
    ),
    Case(
        "GalacticNodeBehind",  # a node of an earlier version
        REVISIONS | node("vpc_revision", "100x60", ', vpc="0000000004d2"'),
        N1 | {"vpc_name": "0000000004d2"},
    ),
    Case("GalacticNodeBehind", REVISIONS | node("vpc_revision", "100x21 200x40", ', vpc_name="blue/blue"')),
    Case(
        "GalacticNodeBehind",  # changes every minute, and the node is scraped before the router
        router("revision", "100+10x60", ', vpc="0000000004d2"')
        | INFO
        | node("vpc_revision", "90+10x60", ', vpc_name="blue/blue"'),
    ),
    Case("GalacticCNIErrors", node("cni_requests_total", "0+1x60", ', verb="add", code="11"'), N1),
    Case(
        "GalacticCNIErrors",
        node("cni_requests_total", "0+9x60", ', verb="add", code="0"')
        | node("cni_requests_total", "0x40 2x20", ', verb="add", code="11"'),
    ),
    Case(
        "GalacticCNISlow",
        node("cni_request_seconds_bucket", "0x60", WAITS.format("5.0"))
        | node("cni_request_seconds_bucket", "0+2x60", WAITS.format("15.0"))
        | node("cni_request_seconds_bucket", "0+2x60", WAITS.format("+Inf")),
        N1,
    ),
    Case(
        "GalacticCNISlow",
        node("cni_request_seconds_bucket", "0+2x60", WAITS.format("5.0"))
        | node("cni_request_seconds_bucket", "0+2x60", WAITS.format("+Inf")),
    ),
    Case(
        "GalacticBrokerUnreachable",
        {'galactic_mqtt_connected{job="galactic-node", instance="n1:1", node="n1"}': "0x60"},
        {"job": "galactic-node", "instance": "n1:1"},
    ),
    Case(
        "GalacticBrokerUnreachable",
        {'galactic_mqtt_connected{job="galactic-router", instance="a"}': "1x40 0x3 1x20"},
    ),
    Case("GalacticRouterWithoutLeader", router("leader", "1x40 0x20"), {}),
    Case(
        "GalacticRouterWithoutLeader",
        router("leader", "1x40 0x20")
        | {'galactic_router_leader{job="galactic-router", instance="b"}': "0x40 1x20"},
    ),
    Case(
        "GalacticTwoRouterLeaders",
        router("leader", "1x60") | {'galactic_router_leader{job="galactic-router", instance="b"}': "1x60"},
        {},
    ),
    Case(
        "GalacticTwoRouterLeaders",
        router("leader", "1x60") | {'galactic_router_leader{job="galactic-router", instance="b"}': "0x60"},
    ),
    Case("GalacticRouteChangesStuck", router("oldest_change_seconds", "0x40 1+60x20"), {}),
    Case("GalacticRouteChangesStuck", router("oldest_change_seconds", "20x60")),
    Case(
        "GalacticRegistrationsRejected",
        router("rejections_total", "0x45 1x20", ', reason="SidMismatch"'),
        {"reason": "SidMismatch"},
    ),
    Case("GalacticRegistrationsRejected", router("rejections_total", "0+3x60", ', reason="StaleEpoch"')),
    Case("GalacticRegistrationsRejected", router("rejections_total", "7x60", ', reason="SidMismatch"')),
    # A node is behind a change for a moment, or claims what is not its own.
    Case(
        "GalacticRegistrationsRejected",
        router("rejections_total", "0x45 1x20", ', reason="NotEntitled"')
        | router("rejected_endpoints", "0x44 1x1 0x20", ', reason="NotEntitled"'),
    ),
    Case(
        "GalacticRegistrationsRejected",
        router("rejected_endpoints", "0x45 1x20", ', reason="SidOutsidePrefix"'),
        {"reason": "SidOutsidePrefix"},
    ),
    Case(
        "GalacticPodsRefused",
        node("refused_total", "0x45 1x20", ', reason="OtherNamespace"'),
        N1 | {"reason": "OtherNamespace"},
    ),
    Case(
        "GalacticPodsRefused",
        node("refused_total", "0x45 1x20", ', reason="Detached"'),
        N1 | {"reason": "Detached"},
    ),
    Case(
        "GalacticPodsRefused",
        node("refused_total", "0x30 0+1x30", ', reason="NotCarried"'),
        N1 | {"reason": "NotCarried"},
    ),
    Case("GalacticPodsRefused", node("refused_total", "0x47 0+1x3 3x20", ', reason="NotCarried"')),
    Case("GalacticPodsRefused", node("refused_total", "0x36 1x20", ', reason="NotCarried"')),
    Case("GalacticPodsRefused", node("refused_total", "9x60", ', reason="OtherNamespace"')),
    Case("GalacticPathsUncarried", router("uncarried_paths", "0x45 1x20"), {}),
    Case("GalacticPathsUncarried", router("uncarried_paths", "0x44 1x2 0x20")),
    Case("GalacticRegistrationsRejected", router("rejections_total", "0x45 1x20", ', reason="NotCarried"')),
    Case("GalacticNodeFlooding", router("topics_aside", "1x60"), {}),
    Case("GalacticNodeFlooding", router("topics_aside", "0x44 1x20")),
    Case("GalacticConflicts", router("conflicts", "2x60"), {}),
    Case("GalacticConflicts", router("conflicts", "2x40 0x20")),
    Case("GalacticStatusLag", router("recording_lag_attachments", "5000x60"), {}),
    Case("GalacticStatusLag", router("recording_lag_attachments", "0x44 5000x20")),
    Case("GalacticHistoryLag", router("database_lag_seconds", "0x40 10+60x20"), {}),
    Case("GalacticHistoryLag", router("database_lag_seconds", "30x60")),
    Case(
        "GalacticPodsUnattached",
        {f'galactic_operator_pods_unattached{{instance="{instance}"}}': "0x45 2x15" for instance in "ab"},
        {},
    ),
    Case("GalacticPodsUnattached", {'galactic_operator_pods_unattached{instance="a"}': "0x48 1x1 0x10"}),
    Case("GalacticGatewayNotReady", gateway(Accepted="1x60", Ready="1x30 0x30"), WAY),
    Case("GalacticGatewayNotReady", gateway(Accepted="1x60", Ready="1x60", Redundant="0x60")),
    Case("GalacticGatewayNotReady", gateway(Accepted="1x60", Ready="1x47 0x2 1x20")),
    Case("GalacticGatewayNotRedundant", gateway(Ready="1x60", Redundant="1x20 0x60"), WAY),
    Case("GalacticGatewayNotRedundant", gateway(Ready="1x20 0x60", Redundant="1x20 0x60")),
    Case("GalacticGatewayNotRedundant", gateway(Ready="1x60", Redundant="1x40 0x20")),
    Case(
        "GalacticGatewayNodeSilent",
        node("gateway_node_answers", "1x40 0x20", ', gateway_node="n3"'),
        {"gateway_node": "n3"},
    ),
    Case("GalacticGatewayNodeSilent", node("gateway_node_answers", "1x49 0x20", ', gateway_node="n3"')),
    Case("GalacticGatewayNodeSilent", node("gateway_node_answers", "1x60", ', gateway_node="n3"')),
    *(
        Case("GalacticHostStopsPackets", node("condition", "1x40 0x20", f', type="{condition}"'), N1)
        for condition in ("PacketFilter", "HostSettings")
    ),
    Case("GalacticHostStopsPackets", node("condition", "1x46 0x20", ', type="PacketFilter"')),
    Case("GalacticHostStopsPackets", node("condition", "0x60", ', type="PathMTU"')),
    Case("GalacticAttachmentsNotApplied", node("condition", "1x40 0x20", ', type="DefinitionsApplied"'), N1),
    Case("GalacticAttachmentsNotApplied", node("condition", "1x60", ', type="DefinitionsApplied"')),
    Case(
        "GalacticPrefixRefused",
        {
            f'galactic_operator_refused_prefixes{{instance="{one}", reason="PrefixOverlap"}}': "1x60"
            for one in "ab"
        },
        {"reason": "PrefixOverlap"},
    ),
    Case(
        "GalacticPrefixRefused",
        {'galactic_operator_refused_prefixes{instance="a", reason="PrefixOverlap"}': "1x20 _x40"},
    ),
    Case(
        "GalacticObjectsNotReady",
        {'galactic_operator_unready_objects{instance="a", kind="VPC", reason="IdentifierTaken"}': "1x60"},
        {"kind": "VPC", "reason": "IdentifierTaken"},
    ),
    Case(
        "GalacticObjectsNotReady",
        {'galactic_operator_unready_objects{instance="a", kind="VPC", reason="NoStatus"}': "0x44 3x2 0x20"},
    ),
    Case(
        "GalacticVPCNearlyFull",
        {
            f"galactic_operator_vpc_addresses{{{OF_BLUE}}}": "253x60",
            f"galactic_operator_vpc_addresses_held{{{OF_BLUE}}}": "240x60",
        },
        {"vpc_name": "blue/blue", "family": "4"},
    ),
    Case(
        "GalacticVPCNearlyFull",
        {
            f"galactic_operator_vpc_addresses{{{OF_BLUE}}}": "253x60",
            f"galactic_operator_vpc_addresses_held{{{OF_BLUE}}}": "200x60",
        },
    ),
    Case("GalacticPrefixPoolNearlyEmpty", pool(used=15, free=1), {}),
    Case("GalacticPrefixPoolNearlyEmpty", pool(used=16, free=0), {}),
    Case("GalacticPrefixPoolNearlyEmpty", pool(used=8, free=8)),
    Case("GalacticPrefixPoolNearlyEmpty", pool(used=0, free=0)),
]


def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alerts: dict[str, Any]) -> None:
    assert {case.alert for case in CASES if case.fires is not None} == set(alerts)
    assert {case.alert for case in CASES if case.fires is None} == set(alerts)


def test_alerts_fire_as_their_cases_expect(promtool: str, alerts: dict[str, Any], tmp_path: Path) -> None:
    """An alert's cases are evaluated with its rule alone: all rules in each case cost ten times as much."""
    files = []
    for name, rule in alerts.items():
        rules, tests = tmp_path / f"{name}.rules.yaml", tmp_path / f"{name}.yaml"
        rules.write_text(json.dumps({"groups": [{"name": name, "rules": [rule]}]}))
        cases = [_test(number, case) for number, case in enumerate(CASES) if case.alert == name]
        tests.write_text(
            json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": cases})
        )
        files.append(tests)
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(number: int, case: Case) -> dict[str, Any]:
    labels = ", ".join(case.fires or ())
    firing = f'count by ({labels}) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    inside = ", ".join(f'{key}="{value}"' for key, value in (case.fires or {}).items())
    samples = [] if case.fires is None else [{"labels": f"{{{inside}}}", "value": 1}]
    return {
        "name": f"{number} {case.alert}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": case.at, "exp_samples": samples}],
    }


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.fires is not None], ids=lambda case: case.alert
)
def test_annotations_use_only_labels_of_the_alert(case: Case, alerts: dict[str, Any]) -> None:
    text = " ".join(alerts[case.alert]["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= set(case.fires or ())


def test_each_alert_has_severity_remedy_and_runbook(alerts: dict[str, Any]) -> None:
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["for"], name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"


def test_prometheus_accepts_them(promtool: str) -> None:
    for path in prometheus.rules():
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(path.read_text())["groups"]

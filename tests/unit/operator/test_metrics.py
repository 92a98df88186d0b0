"""Metrics of the operator that other parts of it count."""

from prometheus_client import CollectorRegistry, generate_latest

from galactic.operator.gauges import GatewayCondition, Pool
from galactic.operator.metrics import Metrics


def test_totals_are_counters_and_read_at_the_scrape() -> None:
    registry, requests = CollectorRegistry(), [3]
    Metrics(registry).read(
        waiting=float,
        requests=lambda: requests[0],
        dropped=lambda: 2,
        counts={},
        leads=lambda: True,
        holder=str,
        unready=dict,
        unattached=float,
        vpcs=tuple,
        pool=lambda: Pool(0, 0),
        refused_prefixes=dict,
        gateways=lambda: [GatewayCondition("blue", "way", "Ready", holds=False)],
    )
    requests[0] = 4
    lines = generate_latest(registry).decode().splitlines()
    assert "# TYPE galactic_operator_api_requests_total counter" in lines
    assert "galactic_operator_api_requests_total 4.0" in lines
    assert "galactic_operator_events_dropped_total 2.0" in lines
    labels = 'gateway="way",gateway_namespace="blue",type="Ready"'
    assert f"galactic_operator_gateway_condition{{{labels}}} 0.0" in lines

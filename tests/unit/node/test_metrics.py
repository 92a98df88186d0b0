from prometheus_client import CollectorRegistry

from galactic.node.metrics import Metrics


def test_a_vpc_that_left_a_node_leaves_no_series_behind():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.set_vpcs({"blue/blue": 2, "red/red": 1}, {"blue/blue": 17})
    metrics.set_vpcs({"blue/blue": 3}, {"blue/blue": 18})
    value = registry.get_sample_value
    assert value("galactic_node_vpc_endpoints", {"vpc_name": "blue/blue"}) == 3
    assert value("galactic_node_vpc_revision", {"vpc_name": "blue/blue"}) == 18
    assert value("galactic_node_vpc_endpoints", {"vpc_name": "red/red"}) is None

from prometheus_client import CollectorRegistry

from galactic.node.metrics import Metrics


def test_a_vpc_that_left_a_node_leaves_no_series_behind():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.set_vpcs({"0000000004d2": 2, "0000000004d3": 1}, {"0000000004d2": 17})
    metrics.set_vpcs({"0000000004d2": 3}, {"0000000004d2": 18})
    value = registry.get_sample_value
    assert value("galactic_node_vpc_endpoints", {"vpc": "0000000004d2"}) == 3
    assert value("galactic_node_vpc_revision", {"vpc": "0000000004d2"}) == 18
    assert value("galactic_node_vpc_endpoints", {"vpc": "0000000004d3"}) is None

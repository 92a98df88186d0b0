from prometheus_client import CollectorRegistry

from galactic.node.metrics import GATEWAY_NODES, Metrics


def test_a_vpc_that_left_a_node_leaves_no_series_behind():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.set_vpcs({"blue/blue": 2, "red/red": 1}, {"blue/blue": 17})
    metrics.set_vpcs({"blue/blue": 3}, {"blue/blue": 18})
    value = registry.get_sample_value
    assert value("galactic_node_vpc_endpoints", {"vpc_name": "blue/blue"}) == 3
    assert value("galactic_node_vpc_revision", {"vpc_name": "blue/blue"}) == 18
    assert value("galactic_node_vpc_endpoints", {"vpc_name": "red/red"}) is None


def test_nodes_of_gateways_are_bounded_and_silent_ones_come_first():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    value = registry.get_sample_value
    assert value("galactic_node_gateway_nodes", {"state": "silent"}) == 0, "the series exist from the start"
    many = {f"node-{number:03}": True for number in range(GATEWAY_NODES + 5)} | {"node-999": False}
    metrics.set_gateway_nodes(many)
    assert value("galactic_node_gateway_nodes", {"state": "answering"}) == GATEWAY_NODES + 5
    assert value("galactic_node_gateway_nodes", {"state": "silent"}) == 1
    (family,) = [one for one in registry.collect() if one.name == "galactic_node_gateway_node_answers"]
    assert len(family.samples) == GATEWAY_NODES
    assert value("galactic_node_gateway_node_answers", {"gateway_node": "node-999"}) == 0
    metrics.set_gateway_nodes({"node-001": True})
    assert value("galactic_node_gateway_node_answers", {"gateway_node": "node-001"}) == 1
    assert value("galactic_node_gateway_node_answers", {"gateway_node": "node-999"}) is None

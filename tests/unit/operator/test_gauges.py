from ipaddress import IPv6Network, ip_network

import pytest

from galactic.operator.allocator import Allocator
from galactic.operator.context import Rules
from galactic.operator.gauges import Family, GatewayCondition, Pool, gateways, pool, unready, vpcs
from galactic.operator.state import Caches

READY = {"type": "Ready", "status": "True", "reason": "Ready"}


def cached(name, spec, **status):
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}
    return {"metadata": meta, "spec": spec, "status": status}


def attachment(name, ready):
    reason = {"type": "Ready", "status": str(ready), "reason": "Ready" if ready else "AddressesExhausted"}
    return cached(name, {"vpc": {"name": "blue"}, "interface": {}}, ready=ready, conditions=[reason])


def caches():
    made = Caches()
    networks = ["10.1.1.0/24", "10.9.0.0/31", "fd00::/126"]
    made.vpcs.set(cached("blue", {"networks": networks}, identifier="0000000004d2", conditions=[READY]))
    made.vpcs.set(cached("odd", {"networks": []}))
    for name, ready in (("a", True), ("b", False), ("c", False)):
        made.attachments.set(attachment(name, ready))
    return made


def test_what_is_not_ready_is_counted_by_kind_and_reason():
    counts = unready(caches())
    assert counts["VPCAttachment", "AddressesExhausted"] == 2
    assert counts["VPC", "Invalid"] == 1
    assert counts["NodeSegment", "NoStatus"] == 0
    assert sum(counts.values()) == 3


def test_metrics_of_a_vpc_count_attachments_and_addresses():
    allocator = Allocator()
    networks = [ip_network(text) for text in ("10.1.1.5/32", "10.1.1.6/32", "172.16.0.0/16", "fd00::2/128")]
    allocator.of(("ns", "blue")).addresses.claim(("ns", "a"), networks)
    (blue,) = vpcs(caches(), allocator)
    assert (blue.name, blue.vpc, blue.ready, blue.unready) == ("ns/blue", "0000000004d2", 1, 2)
    # 253 of the /24, both of the /31; of the /126 there is one beside network, gateway and the last.
    assert blue.families == (Family(4, 255, 2), Family(6, 1, 1))


def test_what_was_given_back_is_no_longer_held():
    allocator = Allocator()
    addresses = allocator.of(("ns", "blue")).addresses
    addresses.claim(("ns", "a"), [ip_network("10.1.1.5/32")])
    addresses.claim(("ns", "a"), [ip_network("10.1.1.5/32"), ip_network("10.1.1.6/32")])
    assert addresses.hosts(4) == 2
    addresses.release(("ns", "a"))
    assert addresses.hosts(4) == 0


@pytest.mark.parametrize(
    ("prefixes", "used"),
    [
        pytest.param([], 0, id="nobody"),
        pytest.param(["2001:db8:ff01::/56", "2001:db8:ff01:100::/56"], 2, id="given-out"),
        pytest.param(["2001:db8:ff01::/64", "2001:db8:ff01:1::/64"], 1, id="smaller-ones-in-one"),
        pytest.param(["2001:db8:ff01::/55", "2001:db8:ff01:100::/56"], 2, id="overlapping-by-hand"),
        pytest.param(["2001:db8:ff00::/48", "2001:db8:ff09:100::/56", "nonsense"], 0, id="elsewhere"),
        pytest.param(["2001:db8:ff01::/48"], 256, id="all-of-it"),
    ],
)
def test_what_shares_an_address_with_the_pool_uses_it(prefixes, used):
    made = Caches()
    for number, prefix in enumerate(prefixes):
        made.segments.set({"metadata": {"name": f"n{number}"}, "spec": {"prefix": prefix}})
    rules = Rules(pool=IPv6Network("2001:db8:ff01::/48"), pool_length=56)
    assert pool(made, rules) == Pool(used, 256 - used)
    assert pool(made, Rules()) == Pool(0, 0)


def test_the_conditions_of_gateways_are_by_name():
    made = Caches()
    states = {"Accepted": "True", "Ready": "True", "Redundant": "False", "Other": "True"}
    conditions = [{"type": kind, "status": value, "reason": "r"} for kind, value in states.items()]
    made.gateways.set(cached("way", {"vpc": {"name": "blue"}}, conditions=conditions))
    made.gateways.set(cached("new", {"vpc": {"name": "blue"}}))
    made.gateways.set(cached("odd", {"vpc": {"name": "blue"}, "replicas": "many"}))
    assert [*gateways(made)] == [
        GatewayCondition("ns", "way", "Accepted", holds=True),
        GatewayCondition("ns", "way", "Ready", holds=True),
        GatewayCondition("ns", "way", "Redundant", holds=False),
        GatewayCondition("ns", "odd", "Accepted", holds=False),
        GatewayCondition("ns", "odd", "Ready", holds=False),
    ]

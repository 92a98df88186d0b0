"""Published ports on a node: what it understands of the status, the plan, and the rules."""

from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_network

import pytest

from galactic import names, srv6
from galactic.linux.objects import (
    MAIN_TABLE,
    UNREACHABLE_METRIC,
    WAY_OUT_METRIC,
    Encap,
    EndDT46,
    Unreachable,
    Via,
    route_key,
)
from galactic.node.dataplane import gateway_routes
from galactic.node.dataplane.gateway_rules import WayOut, table
from galactic.node.dataplane.plan import TABLES, Host
from galactic.node.kubernetes.gateways import kept, parsed
from galactic.node.state.gateways import Exit, Gateway, GatewayState, Published

VPC, FUNCTION, TABLE = 1234, 0x64, 1_000_001_234
OWN = TABLE + TABLES
FACTS = Host(IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40"), "eth0")
NETWORKS = (ip_network("10.1.1.0/24"), ip_network("2001:10:1:1::/64"))
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))
NUMBER = VPC, FUNCTION
WEB = Published(
    ip_address("203.0.113.1"),
    80,
    "tcp",
    "node-1",
    ip_address("10.1.1.130"),
    8080,
    tuple(map(ip_address, ("10.1.1.1", "10.1.1.2"))),
)
SIX = Published(
    ip_address("2001:db8:cafe::9"),
    53,
    "udp",
    "node-2",
    ip_address("2001:10:1:1::130"),
    5353,
    (ip_address("2001:10:1:1::1"),),
)


def exit_(node, *addresses):
    segment = srv6.sid(IPv6Network(f"2001:db8:ff0{node}:100::/56"), VPC, FUNCTION).address
    return Exit(f"node-{node}", segment, tuple(map(ip_address, addresses)), True)


EXITS = (exit_(1, "203.0.113.1"), exit_(2, "203.0.113.2"))


def gateway(*published):
    return Gateway("t/g", VPC, FUNCTION, frozenset({4, 6}), True, NETWORKS, (), EXITS, published)


def planned(node, made):
    state = GatewayState()
    state.node, state.all, state.filtered = f"node-{node}", {VPC: made}, frozenset({VPC})
    return gateway_routes.objects(
        replace(FACTS, prefix=IPv6Network(f"2001:db8:ff0{node}:100::/56")), VPC, TABLE, state
    )


def key(table, network, metric=0):
    return route_key(table, ip_network(network), metric)


def test_the_holder_has_a_vrf_between_the_vpcs_and_the_table_main():
    plan = planned(1, gateway(WEB, SIX))
    own, inner, join = (name(*NUMBER) for name in (names.gateway_vrf, names.inner_end, names.join_end))
    out, main = names.exit_end(*NUMBER), names.main_end(*NUMBER)
    assert {name: link.master for name, link in plan.links.items()} == {
        own: "",
        out: own,
        main: "",
        inner: own,
        join: names.vrf(VPC),
    }
    assert plan.links[own].table == OWN < 2**32
    routes = plan.routes
    assert routes[key(TABLE, "0.0.0.0/0", WAY_OUT_METRIC)].device == join
    assert routes[key(OWN, "0.0.0.0/0", WAY_OUT_METRIC)].device == out
    assert key(TABLE, "::/0", WAY_OUT_METRIC) not in routes, "no address for SNAT here"
    for network in NETWORKS:
        assert routes[key(OWN, network)].device == inner
    for everything in EVERYTHING:
        assert routes[key(OWN, everything, UNREACHABLE_METRIC)] == Unreachable()
    assert routes[key(MAIN_TABLE, "203.0.113.1/32")].device == main
    assert routes[key(MAIN_TABLE, f"{EXITS[0].segment}/128")] == EndDT46(names.vrf(VPC), TABLE)
    hops = {route.gateway for route in routes.values() if isinstance(route, Via)}
    for vrf, ends in ((own, (out, inner)), (names.vrf(VPC), (join,))):
        addresses = {address.ip.packed for device, address in plan.addresses if device in ends}
        used = {route.gateway for route in routes.values() if isinstance(route, Via) and route.device in ends}
        assert used <= hops - addresses, f"a next hop of {vrf} is not its own address"


def test_answers_are_led_to_the_node_that_holds_the_address():
    made = gateway(WEB, SIX)
    inside = [key(TABLE, f"{one.inside}/{one.inside.max_prefixlen}", WAY_OUT_METRIC) for one in (WEB, SIX)]
    ways = [Encap("lo-galactic", one.segment.packed, "encap.red") for one in EXITS]
    join = names.join_end(*NUMBER)
    assert [planned(3, made).routes[one] for one in inside] == ways
    at_first = [planned(1, made).routes[one] for one in inside]
    assert (at_first[0].device, at_first[1]) == (join, ways[1])
    at_second = [planned(2, made).routes[one] for one in inside]
    assert (at_second[0], at_second[1].device) == (ways[0], join)


def test_an_address_of_its_own_leads_in_but_is_no_source():
    plan = planned(2, gateway(SIX))
    assert plan.routes[key(MAIN_TABLE, "2001:db8:cafe::9/128")].device == names.main_end(*NUMBER)
    assert plan.routes[key(OWN, "::/0", WAY_OUT_METRIC)].device == names.exit_end(*NUMBER)
    rules = rules_of(2, gateway(SIX))
    assert not [rule for rule in rules["translated"] if "snat ip6 to 2001:db8:cafe::9" in rule]


def rules_of(node, made):
    here = next(one for one in made.exits if one.node == f"node-{node}")
    return {name: chain.rules for name, chain in table([WayOut(made, here)]).chains.items()}


def test_rules_are_for_what_the_node_holds_alone():
    made = gateway(WEB, SIX)
    first, second = rules_of(1, made), rules_of(2, made)
    out = names.exit_end(*NUMBER)
    assert (
        f'iifname "{out}" ip daddr 203.0.113.1 tcp dport 80 dnat ip to '
        "numgen random mod 2 map { 0 : 10.1.1.1, 1 : 10.1.1.2 } : 8080"
    ) in first["tracked"]
    assert (
        f'iifname "{out}" ip6 daddr 2001:db8:cafe::9 udp dport 53 dnat ip6 to [2001:10:1:1::1]:5353'
        in second["tracked"]
    )
    assert not [rule for rules in first.values() for rule in rules if "dport 53" in rule]
    assert not [rule for rules in second.values() for rule in rules if "dport 80" in rule]


def test_connections_from_outside_are_admitted_ahead_of_what_drops_them():
    replies = rules_of(1, gateway(WEB))["replies"]
    admitted = next(index for index, rule in enumerate(replies) if "dport 80 accept" in rule)
    dropped = next(
        index
        for index, rule in enumerate(replies)
        if rule == f'iifname "{names.exit_end(*NUMBER)}" ct state != {{ established, related }} drop'
    )
    assert admitted < dropped


def test_without_a_ready_pod_nothing_is_admitted_and_connections_are_refused():
    rules = rules_of(1, gateway(replace(WEB, endpoints=())))
    assert not [rule for rule in (*rules["replies"], *rules["tracked"]) if "dport 80" in rule]
    assert [rule for rule in rules["forwarded"] if "dport 80" in rule and "reject with tcp reset" in rule]


def test_without_snat_the_gateway_needs_no_vrf_of_its_own():
    made = replace(gateway(), snat=False)
    assert set(planned(1, made).links) == {names.exit_end(*NUMBER), names.main_end(*NUMBER)}
    text = str(rules_of(1, made))
    assert all(name(*NUMBER) not in text for name in (names.inner_end, names.join_end, names.gateway_vrf))


def stored(**more):
    entry = {
        "name": "web",
        "address": "203.0.113.1",
        "port": 80,
        "protocol": "TCP",
        "node": "node-1",
        "inside": "10.1.1.130",
        "targetPort": 8080,
        "endpoints": ["10.1.1.1", "10.1.1.2"],
    }
    exits = [{"node": one.node, "sid": str(one.segment), "ready": True} for one in EXITS]
    entry |= more
    return {
        "metadata": {"name": "g", "namespace": "t", "resourceVersion": "1", "uid": "u"},
        "spec": {"vpc": {"name": "v"}, "replicas": 1},
        "status": {
            "identifier": names.vpc_hex(VPC),
            "function": names.function_hex(FUNCTION),
            "families": ["IPv4"],
            "snat": True,
            "networks": ["10.1.1.0/24"],
            "nodes": exits,
            "published": [{name: value for name, value in entry.items() if value is not None}],
        },
    }


def test_the_status_is_what_a_node_acts_by():
    assert parsed([stored()])[VPC].published == (WEB,)
    assert parsed([kept(stored())])[VPC].published == (WEB,), "on disk as well"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"node": ""}, id="no-node"),
        pytest.param({"inside": None}, id="no-address-inside"),
    ],
)
def test_an_entry_that_leads_nowhere_yet_is_none(entry):
    assert parsed([stored(**entry)])[VPC].published == ()


def test_an_entry_of_two_families_is_not_understood():
    assert not parsed([stored(endpoints=["2001:10:1:1::1"])])

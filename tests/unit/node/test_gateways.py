"""Ways out of VPCs: shares of exits, routes, rules, and which nodes answer."""

import asyncio
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nft_in_memory import Nft
from waits import until

from galactic import names, srv6
from galactic.errors import Unreachable
from galactic.linux.objects import MAIN_TABLE, WAY_OUT_METRIC, Balanced, Encap, EndDT46, Via, route_key
from galactic.node.dataplane import gateway_filter, gateway_routes
from galactic.node.dataplane.gateway_filter import LINGER_SECONDS, GatewayFilter
from galactic.node.dataplane.gateway_health import ANSWERED, MISSED, GatewayHealth, Judgement
from galactic.node.dataplane.gateway_rules import WayOut, table, zones
from galactic.node.dataplane.gateway_shares import shares
from galactic.node.dataplane.plan import Host
from galactic.node.kubernetes.gateways import GatewayWatch, kept, parsed, restore
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.gateways import Exit, Gateway, GatewayState, Published
from galactic.node.state.store import Store

VPC, FUNCTION, TABLE_NUMBER = 1234, 0x64, 1_000_001_234
FACTS = Host(IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40"), "eth0")
FOUR, SIX = ip_network("0.0.0.0/0"), ip_network("::/0")
NETWORKS = (ip_network("10.1.1.0/24"), ip_network("2001:10:1:1::/64"))


def exit_(node: int, *addresses: str, ready: bool = True) -> Exit:
    segment = srv6.sid(IPv6Network(f"2001:db8:ff0{node}:100::/56"), VPC, FUNCTION).address
    return Exit(f"node-{node}", segment, tuple(map(ip_address, addresses)), ready)


def gateway(*exits: Exit, snat: bool = True, families=(4, 6)) -> Gateway:
    return Gateway("t/g", VPC, FUNCTION, frozenset(families), snat, NETWORKS, (), exits)


BOTH = (exit_(2, "203.0.113.2", "2001:db8:cafe::2"), exit_(3, "203.0.113.3", "2001:db8:cafe::3"))


def parts(exits, away):
    """(from, to, exit) of each part of the range, as the kernel divides it by weights: in 240ths."""
    hops = shares(exits, away)
    total = sum(weight for _, weight in hops)
    borders = [0, *accumulate(weight for _, weight in hops)]
    return [
        (240 * low / total, 240 * high / total, one)
        for (low, high), (one, _) in zip(pairwise(borders), hops, strict=True)
    ]


@given(
    st.integers(1, 16).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)), st.sets(st.integers(0, n - 1)))
    )
)
def test_what_goes_through_an_exit_that_stays_moves_nowhere(case):
    count, before, more = case
    exits = list(range(count))
    if before >= set(exits) or (before | more) >= set(exits):
        return
    for low, high, one in parts(exits, before):
        own = (
            next(part for part in parts(exits, before | more) if part[2] == one) if one not in more else None
        )
        if own:
            assert own[0] <= low + 1e-9
            assert high <= own[1] + 1e-9


@given(st.integers(1, 16), st.sets(st.integers(0, 15)))
def test_the_shares_are_the_whole_range_whoever_is_away(count, away):
    exits = list(range(count))
    hops = shares(exits, away)
    present = [one for one in exits if one not in away] or exits
    assert [one for one, _ in hops] == present
    assert sum(weight for _, weight in hops) == 2 * count
    assert all(weight >= 2 for _, weight in hops)


def defaults(away=(), facts=FACTS, made=None):
    return gateway_routes.defaults(facts, TABLE_NUMBER, made or gateway(*BOTH), set(away))


def key(network):
    return route_key(TABLE_NUMBER, network, WAY_OUT_METRIC)


def test_the_default_route_leads_to_all_exits_that_are_ready_and_answer():
    """IPv6 with SNAT has one exit a node: the flow label of a connection may change."""
    segments = [one.segment.packed for one in BOTH]
    both = Balanced("lo-galactic", tuple((segment, 2) for segment in segments), "encap.red")
    routes = defaults()
    assert routes[key(FOUR)] == both
    assert routes[key(SIX)].segment in segments
    assert defaults(made=gateway(*BOTH, snat=False)) == {key(one): both for one in (FOUR, SIX)}
    alone = {key(one): Encap("lo-galactic", segments[0], "encap.red") for one in (FOUR, SIX)}
    assert defaults(away=["node-3"]) == alone
    assert defaults(away=["node-2", "node-3"]) == routes
    assert defaults(made=gateway(BOTH[0], exit_(3, "203.0.113.3", ready=False))) == alone
    assert defaults(made=gateway(exit_(2, ready=False))) == {}


def test_with_snat_an_exit_leads_the_families_of_its_addresses():
    made = gateway(exit_(2, "203.0.113.2"), exit_(3, "2001:db8:cafe::3"))
    routes = defaults(made=made)
    assert [routes[key(one)].segment for one in (FOUR, SIX)] == [one.segment.packed for one in made.exits]
    assert defaults(made=gateway(exit_(2, "203.0.113.2"), families=(6,))) == {}
    assert len(defaults(made=gateway(exit_(2), snat=False))) == 2


def test_nodes_that_use_one_exit_use_different_ones():
    used = set()
    for number in range(1, 17):
        prefix = IPv6Network(f"2001:db8:ff{number:02x}:100::/56")
        routes = defaults(facts=Host(prefix, FACTS.block, "eth0", multipath=False))
        assert all(isinstance(route, Encap) for route in routes.values())
        used |= {route.segment for route in routes.values()}
    assert used == {one.segment.packed for one in BOTH}


def here(*exits, filtered=True, node="node-1"):
    state = GatewayState()
    state.node, state.all = node, {VPC: gateway(*exits)}
    state.filtered = frozenset({VPC} if filtered else ())
    return state


def test_no_way_out_is_made_before_its_rules():
    one = exit_(1, "203.0.113.1", "2001:db8:cafe::1")
    assert not gateway_routes.objects(FACTS, VPC, TABLE_NUMBER, here(one, filtered=False)).links
    plan = gateway_routes.objects(FACTS, VPC, TABLE_NUMBER, here(one))
    out, main = names.exit_end(VPC, FUNCTION), names.main_end(VPC, FUNCTION)
    own, inner = names.gateway_vrf(VPC, FUNCTION), names.inner_end(VPC, FUNCTION)
    masters = {name: link.master for name, link in plan.links.items()}
    assert masters == {out: own, main: "", own: "", inner: own, names.join_end(VPC, FUNCTION): names.vrf(VPC)}
    assert isinstance(plan.routes[key(FOUR)], Via)
    assert plan.routes[route_key(MAIN_TABLE, ip_network("203.0.113.1/32"))].device == main
    sid = route_key(MAIN_TABLE, IPv6Network((one.segment, 128)))
    assert plan.routes[sid] == EndDT46(names.vrf(VPC), TABLE_NUMBER)


def test_an_exit_of_an_earlier_prefix_is_none():
    assert here(exit_(1, "203.0.113.1")).exit_here(VPC, IPv6Network("2001:db8:ff09:100::/56")) is None
    assert here(exit_(1, "203.0.113.1"), node="node-2").exit_here(VPC, FACTS.prefix) is None


def test_rules_drop_what_is_forbidden_before_any_other_program_may_translate_it():
    made = gateway(exit_(1, "203.0.113.1"))
    rules = table([WayOut(made, made.exits[0])]).chains["before"].rules
    drop = next(index for index, rule in enumerate(rules) if "@f4-" in rule and rule.endswith("drop"))
    zone = next(index for index, rule in enumerate(rules) if "ct zone set" in rule)
    assert drop < zone


def test_rules_without_ways_are_no_table():
    assert not table(()).chains


@given(st.sets(st.integers(1, 2**48 - 2), max_size=50))
def test_no_two_vpcs_share_a_zone(vpcs):
    chosen = zones(vpcs)
    assert len(set(chosen.values())) == len(vpcs)
    assert all(0 < zone <= 65535 for zone in chosen.values())


ASKED = {"a": IPv6Address("::a"), "b": IPv6Address("::b")}


def test_a_node_is_away_after_as_many_missed_requests_and_back_after_as_many_answers():
    judgement = Judgement()
    alive = {ASKED["a"]}
    for missed in range(1, MISSED + 1):
        judgement.tick(ASKED, alive)
        assert judgement.away == (frozenset("b") if missed == MISSED else frozenset())
    for answered in range(1, ANSWERED + 1):
        judgement.tick(ASKED, set(ASKED.values()))
        assert judgement.away == (frozenset() if answered == ANSWERED else frozenset("b"))


def test_one_answer_in_between_is_enough_to_stay():
    judgement = Judgement()
    for tick in range(40):
        judgement.tick(ASKED, set(ASKED.values()) if tick % MISSED == 0 else set())
        assert not judgement.away


def test_a_node_that_ceases_to_answer_is_counted_once_and_shown(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.prepare()
    lost = []
    health = GatewayHealth(Store("default", checkpoint, Clock()), lambda _: None, lost.append)
    health._report(ASKED, set(ASKED.values()))
    assert health.answering == {"a": True, "b": True}
    for _ in range(3 * MISSED):
        health._report(ASKED, {ASKED["a"]})
    assert health.answering == {"a": True, "b": False}
    assert lost == [1]
    health._report({}, set())
    assert health.answering == {}


async def nothing():
    return ""


async def test_rules_come_first_and_go_last(store):
    nft = Nft()
    rules = GatewayFilter(nft, store, nothing, lambda: {VPC})
    await rules.round(0.0)
    assert store.gateways.filtered == frozenset()
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"))})
    assert store.attachments.hosts(VPC)
    await rules.round(1.0)
    assert store.gateways.filtered == {VPC}
    assert "snat ip to 203.0.113.1" in nft.scripts[-1]
    written = len(nft.scripts)
    await rules.round(2.0)
    assert len(nft.scripts) == written
    nft.number, nft.changed = nft.number + 1, "by another"
    await rules.round(3.0)
    assert len(nft.scripts) == written + 1
    store.set_gateways({})
    await rules.round(4.0)
    assert store.gateways.filtered == frozenset()
    assert len(nft.scripts) == written + 1, "the way out may still be there"
    assert not store.attachments.hosts(VPC)
    await rules.round(5.0 + LINGER_SECONDS)
    assert nft.scripts[-1] == "delete table inet galactic-gateways\n"


def test_connections_of_a_vpc_are_bounded_in_each_family_and_at_each_end():
    way = gateway(exit_(1, "203.0.113.1"))
    plain = table([WayOut(way, way.exits[0])], 40)
    sizes = [one.declaration for name, one in plain.sets.items() if name.startswith("o-")]
    assert len(sizes) == 4
    assert all("size 40;" in size for size in sizes)
    assert (
        plain.chains["forwarded"].rules[-1] == f'oifname "{names.exit_end(VPC, FUNCTION)}" goto o-{VPC:012x}'
    )
    assert plain.chains[f"o-{VPC:012x}"].rules[-1].endswith("update @refused { oifname counter } drop")
    both = replace(way, published=(udp("10.1.1.1"),))
    ends = {name for name in table([WayOut(both, both.exits[0])], 40).chains if name[1:2] == "-"}
    assert ends == {f"o-{VPC:012x}", f"i-{VPC:012x}"}
    own = replace(way, snat=False)
    assert "refused" not in table([WayOut(own, own.exits[0])]).sets, "nothing is tracked without SNAT"


def test_the_share_follows_the_hosts_connection_tracking(store, monkeypatch):
    rules = GatewayFilter(Nft(), store, nothing, lambda: {VPC})
    for capacity, share in ((262144, 16384), (65536, 4096), (None, 16384)):
        monkeypatch.setattr(gateway_filter, "capacity", lambda capacity=capacity: capacity)
        rules.share()
        assert rules.connections == share


async def test_refused_connections_are_counted_once_there_are_rules(store):
    rules = GatewayFilter(Nft(), store, nothing, lambda: {VPC})
    assert await rules.refused() == {}
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"))})
    await rules.round(1.0)
    assert await rules.refused() == {"inet galactic-gateways refused": 3}


async def test_a_reported_change_is_put_back_before_the_next_round(store, monkeypatch):
    monkeypatch.setattr(gateway_filter, "ROUND_SECONDS", 3600.0)
    nft = Nft()
    rules = GatewayFilter(nft, store, nothing, lambda: {VPC})
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"))})
    task = asyncio.create_task(rules.run())
    try:
        async with asyncio.timeout(60):
            while not store.gateways.filtered:
                await asyncio.sleep(0.001)
            written = len(nft.scripts)
            rules.on_external_change()  # its own transaction
            await asyncio.sleep(0.1)
            assert len(nft.scripts) == written
            nft.number, nft.changed = nft.number + 1, "by another"
            rules.on_external_change()
            while len(nft.scripts) == written:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()


async def test_a_way_out_leads_while_its_next_rules_are_written(store):
    """Each change of a gateway would stop all nodes' packets to it otherwise."""
    nft, ways = Nft(), None
    rules = GatewayFilter(nft, store, nothing, lambda: ways)
    one = replace(gateway(exit_(1, "203.0.113.1")), published=(udp("10.1.1.1"),))
    sid, address = str(one.exits[0].segment), "203.0.113.1"

    def reported():
        rules._report()
        return store.gateways.leading, store.gateways.publishing

    store.set_gateways({VPC: one})
    await rules.attempt()
    assert reported() == (None, None), "nothing is known of the kernel yet"
    ways = frozenset()
    assert reported() == ((), ())
    ways = frozenset({VPC})
    assert reported() == ((sid,), (address,))
    store.set_gateways({VPC: replace(one, published=(udp("10.1.1.1", "10.1.1.2"),))})
    assert reported() == ((sid,), (address,))
    further = replace(udp(), address=ip_address("203.0.113.9"))
    store.set_gateways({VPC: replace(one, published=(further,))})
    nft.apply, apply = refuse, nft.apply
    await rules.attempt()
    assert reported() == ((sid,), (address,)), "not the new one: its rules were refused"
    nft.apply = apply
    await rules.attempt()
    assert reported() == ((sid,), ("203.0.113.9",))
    store.set_gateways({})
    assert reported() == ((), ())


async def refuse(script):
    raise Unreachable("nft", "refused")


async def test_a_way_out_leads_while_the_kernel_is_written(node):
    """Also while a round fails: what was written before is still there."""
    assert node.sync.led_out() == frozenset()
    store, kernel, seen = node.store, node.kernel, []
    store.gateways.node = "node-1"
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"))})
    store.set_filtered(frozenset({VPC}))
    await until(lambda: node.sync.led_out() == {VPC})
    write = kernel.write

    async def noticed(wanted):
        seen.append(node.sync.led_out())
        if len(seen) % 2:
            raise Unreachable("netlink", "busy")
        await write(wanted)

    kernel.write = noticed
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"), exit_(2, "203.0.113.2"))})
    store.dirty.mark_host()
    kernel.lose_link(names.vrf(VPC))
    node.sync.on_external_change()
    await until(lambda: names.vrf(VPC) in kernel.host.links)
    assert seen
    assert set(seen) == {frozenset({VPC})}
    store.set_gateways({})
    await until(lambda: node.sync.led_out() == frozenset())


def udp(*endpoints):
    pods = tuple(map(ip_address, endpoints))
    inside = ip_address("10.1.1.130")
    return Published(ip_address("203.0.113.1"), 53, "udp", "node-1", inside, 5353, pods)


async def test_flows_to_pods_that_serve_no_more_are_released_after_the_rules(store):
    nft, released = Nft(), []

    def release(held, serving):
        assert {str(one.address) for one in held} == {"203.0.113.1"}
        released.append((len(nft.scripts), [*map(str, frozenset().union(*serving.values()))]))
        if len(released) == 2:
            raise Unreachable("nf_conntrack", "no such module")
        return 0

    rules = GatewayFilter(nft, store, nothing, lambda: {VPC}, release)
    for number, published in enumerate(([udp("10.1.1.1")], [udp()], [])):
        made = replace(gateway(exit_(1, "203.0.113.1")), published=tuple(published))
        store.set_gateways({VPC: made})
        await rules.round(float(number))
        await rules.round(number + 0.5)
        rules._report()
        assert store.gateways.publishing == (("203.0.113.1",) if published else ())
    assert released == [(1, ["10.1.1.1"]), (2, []), (3, [])]
    assert store.gateways.filtered == {VPC}


async def test_flows_to_ports_that_were_withdrawn_before_the_start_are_released(store):
    released = []

    def release(held, serving):
        released.append(({str(one.address) for one in held}, serving))
        return 0

    rules = GatewayFilter(Nft(), store, nothing, lambda: {VPC}, release)
    store.set_gateways({VPC: gateway(exit_(1, "203.0.113.1"))})
    await rules.round(0.0)
    await rules.round(0.5)
    assert released == [({"203.0.113.1"}, {})]


def stored(name="g", nodes=None, **status):
    exits = [{"node": "node-1", "sid": str(exit_(1).segment), "addresses": ["203.0.113.1"], "ready": True}]
    return {
        "metadata": {"name": name, "namespace": "t", "resourceVersion": "1", "uid": "u"},
        "spec": {"vpc": {"name": "v"}, "replicas": 1},
        "status": {
            "identifier": names.vpc_hex(VPC),
            "function": names.function_hex(FUNCTION),
            "families": ["IPv4"],
            "snat": True,
            "networks": ["10.1.1.0/24"],
            "nodes": exits if nodes is None else nodes,
        }
        | status,
    }


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(stored(nodes=[]), id="no-node"),
        pytest.param(stored(nodes=[{"node": "n", "sid": "2001:db8::1:1"}]), id="a-sid-of-another-vpc"),
        pytest.param(stored(networks=["10.1.1.1/24"]), id="host-bits"),
        pytest.param(stored(nodes="many"), id="no-list"),
    ],
)
def test_what_is_not_understood_leads_nowhere(item):
    assert parsed([item]) == {}


def test_of_two_gateways_of_a_vpc_the_first_by_name_counts():
    assert parsed([stored("b"), stored("a")])[VPC].name == "t/a"


async def test_gateways_are_remembered_until_the_api_server_has_them(store, tmp_path, api):
    from galactic.kube.resources import VPC_GATEWAYS

    checkpoint = Checkpoint(tmp_path)
    checkpoint.put_gateways([kept(stored())])
    restore(store, checkpoint)
    assert store.gateways.led_out(FACTS.prefix) == {VPC}
    api.put(VPC_GATEWAYS, stored("other", function="0065", nodes=[]), "t")
    watch = GatewayWatch(api, store, checkpoint)
    task = asyncio.create_task(watch.run())
    async with asyncio.timeout(10):
        while store.gateways.all:
            await asyncio.sleep(0.001)
    task.cancel()
    assert [one["metadata"]["name"] for one in checkpoint.gateways()] == ["other"]


@pytest.fixture
def api():
    from galactic.kube.memory import MemoryApi

    return MemoryApi()

"""The networks elsewhere against a naive oracle, and what a dump of the kernel makes of them."""

import itertools
import socket
from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.linux.objects import encap_key, encap_metric, packed, place, unpacked
from galactic.messages import Route, weight
from galactic.node.dataplane.resync import RouteResync, route_jobs
from galactic.node.state.attachment import PATH_ID
from galactic.node.state.remote import RemoteRoutes, Source, entry, epoch_of, holder_of, pack, weight_of

VPC, TABLE = 1, 101
HERE = bytes.fromhex("20010db8ff010100")


PATHS = ((11, 5), (12, 5))  # function and epoch of two attachments here


def route(network: int, node: int = 2, epoch: int = 1, function: int = 0, cluster: str = "default") -> Route:
    text = f"10.0.0.{network}/32" if network % 2 else f"2001:db8:1::{network:x}/128"
    sid = f"2001:db8:ff0{node}:100::1:{function or network:x}"
    return Route(text, (sid,), cluster, f"node-{node}", f"{function or network:04x}", epoch)


def table(*routes: Route):
    return dict(entry(VPC, "default", side) for side in routes)


def test_an_entry_holds_what_is_needed_of_a_route():
    network, known = entry(VPC, "default", route(3, epoch=7))
    assert unpacked(network) == ip_network("10.0.0.3/32")
    assert (epoch_of(known), holder_of(known), weight_of(known)) == (7, (3, True), weight(route(3, epoch=7)))
    assert holder_of(entry(VPC, "elsewhere", route(3))[1]) == (3, False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param({"segments": ("2001:db8::3",)}, "no SID of a VPC", id="reserved-vpc"),
        pytest.param({"segments": ("2001:db8::1:ffff",)}, "no SID of a VPC", id="reserved-function"),
        pytest.param({"segments": ("nonsense",)}, "no IPv6 address", id="no-address"),
        pytest.param({"segments": ()}, "exactly one", id="no-segment"),
        pytest.param({"network": "10.0.0.1/24"}, "is not a network", id="host-bits"),
        pytest.param({"network": "10.0.0.0/33"}, "is not a network", id="too-long"),
        pytest.param({"network": "10.0.0.0/-1"}, "is not a network", id="negative"),
        pytest.param({"network": "10.0.0.0"}, "is not a network", id="without-length"),
        pytest.param({"network": "x/24"}, "is not a network", id="no-network"),
        pytest.param({"function": "0000"}, "never assigned", id="reserved-function-field"),
        pytest.param({"epoch": -1}, "is not an epoch", id="negative-epoch"),
    ],
)
def test_what_is_not_usable_is_refused(given, reason):
    fields = {name: getattr(route(3), name) for name in Route.__struct_fields__}
    with pytest.raises(Rejected, match=reason):
        entry(VPC, "default", Route(**(fields | given)))


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/33"])
def test_networks_are_packed_as_keys_have_them(text):
    assert pack(text) == packed(ip_network(text))


class SlowTable:
    """One VPC on one node, by a simple and slow implementation."""

    def __init__(self):
        self.routes, self.tables, self.own, self.kernel = RemoteRoutes(HERE), {}, {}, {}
        self.lost = {}  # as the last ``judge`` has it
        self.mqtt = {}  # MQTT's mapping, changed in place
        self.jobs = iter(())  # of a delta that is being written while other things happen
        self.revision = 0
        self.counts = Counter()

    def wanted(self):
        if not self.tables:
            return {}
        newest = max(self.tables, key=lambda source: (self.tables[source][0], source))
        routes = self.tables[newest][1]
        if not self.admitted(routes):
            return {}
        return {
            network: known[:16]
            for network, known in routes.items()
            if not known.startswith(HERE) and self.own.get(network, set()) <= self.beaten(network, known)
        }

    def admitted(self, routes):
        """Whether our cluster is: the table has a route of it."""
        return any(holder_of(known)[1] for known in routes.values())

    def beaten(self, network, known):
        """The paths here that do not hold the network, where the table has that route to it."""
        own, function, epoch = self.own.get(network, set()), holder_of(known)[0], epoch_of(known)
        same = {
            path for path in own if path[0] == function and (holder_of(known)[1] or known.startswith(HERE))
        }
        if known.startswith(HERE):
            return own - same if same else set()
        return own - {path for path in same if path[1] >= epoch}

    def set_table(self, source, routes, before=None):
        self.revision += 1
        self.tables[source] = (self.revision, routes)
        self.routes.set_table(source, self.revision, routes, before)

    def snapshot(self, routes):
        self.mqtt = table(*routes)
        self.set_table(Source.MQTT, self.mqtt)

    def set(self, one):
        network, known = entry(VPC, "default", one)
        before = {network: self.mqtt.get(network)}
        self.mqtt[network] = known
        self.set_table(Source.MQTT, self.mqtt, before)

    def delete(self, number):
        network = pack(route(number).network)
        self.set_table(Source.MQTT, self.mqtt, {network: self.mqtt.pop(network, None)})

    def kubernetes(self, routes):
        self.set_table(Source.KUBERNETES, table(*routes))

    def forget(self, _):
        self.tables.pop(Source.KUBERNETES, None)
        self.routes.drop_source(Source.KUBERNETES)

    def announce(self, given):
        network, path = pack(route(given[0]).network), PATHS[given[1]]
        self.routes.announce([network], PATH_ID.pack(*path))
        self.own.setdefault(network, set()).add(path)

    def withdraw(self, given):
        network, path = pack(route(given[0]).network), PATHS[given[1]]
        if path in self.own.get(network, ()):
            self.routes.withdraw([network], PATH_ID.pack(*path))
            self.own[network].remove(path)

    def judge(self):
        """Every change is reported, and nothing else."""
        newest = max(self.tables, key=lambda source: (self.tables[source][0], source), default=None)
        routes = self.tables[newest][1] if newest is not None else {}
        now = {
            network: lost
            for network in self.own
            if network in routes and self.admitted(routes) and (lost := self.beaten(network, routes[network]))
        }
        reported = self.routes.judge()
        changed = {
            network for network in now.keys() | self.lost if now.get(network) != self.lost.get(network)
        }
        assert sorted(reported) == sorted(changed)
        for network, lost in now.items():
            assert self.routes.lost(network) == {PATH_ID.pack(*path) for path in lost}
        self.lost = now

    def begin(self, _=None):
        """A delta, once the one before is written: nothing of it yet."""
        self.write(None)
        self.judge()
        self.jobs = route_jobs(TABLE, self.routes, self.counts)

    def write(self, count):
        """That many jobs of the delta, all with None, onto a kernel that may hold one route a key."""
        for key, segment, deleted in itertools.islice(self.jobs, count):
            if deleted:
                self.kernel.pop(key, None)
            else:
                self.kernel[key] = segment

    def apply(self, _=None):
        self.begin()
        self.write(None)

    def check(self, _=None):
        self.apply()
        wanted = {encap_key(TABLE, network, to): to for network, to in self.wanted().items()}
        assert self.kernel == wanted
        assert self.counts[TABLE] == len(wanted)
        assert set(self.routes) == set(self.wanted())


NETWORKS = st.integers(1, 6)
CLUSTERS = st.sampled_from(("default", "default", "elsewhere"))
ROUTES = st.builds(
    route, NETWORKS, st.integers(1, 3), st.integers(4, 6), st.sampled_from((0, 11, 12)), CLUSTERS
)
ANNOUNCED = st.tuples(NETWORKS, st.integers(0, 1))
SOME = st.lists(ROUTES, max_size=6)
GIVEN = {
    SlowTable.snapshot: SOME,
    SlowTable.set: ROUTES,
    SlowTable.delete: NETWORKS,
    SlowTable.kubernetes: SOME,
    SlowTable.forget: st.none(),
    SlowTable.announce: ANNOUNCED,
    SlowTable.withdraw: ANNOUNCED,
    SlowTable.begin: st.none(),
    SlowTable.write: st.integers(1, 3),
    SlowTable.check: st.none(),
}
STEPS = st.lists(st.one_of(*(st.tuples(st.just(step), given) for step, given in GIVEN.items())), max_size=30)


@settings(max_examples=600, deadline=None)
@given(STEPS)
def test_the_kernel_follows_the_tables_in_any_order(steps):
    """Also while it is written: each delta takes its time."""
    model = SlowTable()
    model.snapshot([])
    for step, argument in steps:
        step(model, argument)
    model.check()


def test_a_move_is_made_before_the_old_way_is_broken():
    model = SlowTable()
    model.routes.set_table(Source.MQTT, 1, table(route(1), route(2)))
    model.apply()
    model.routes.set_table(Source.MQTT, 2, table(route(1, node=3), route(2, node=3)))
    jobs = list(route_jobs(TABLE, model.routes, Counter()))
    four, six = (table(route(number, node=3)) for number in (1, 2))
    old = table(route(1))
    (network4, new4), (network6, new6), (_, old4) = (next(iter(side.items())) for side in (four, six, old))
    assert jobs == [
        (encap_key(TABLE, network4, new4[:16]), new4[:16], False),
        (encap_key(TABLE, network4, old4[:16]), old4[:16], True),
        (encap_key(TABLE, network6, new6[:16]), new6[:16], False),  # IPv6 is replaced in its place
    ]


@pytest.mark.parametrize(
    ("cluster", "given", "lost"),
    [
        pytest.param("default", route(1), True, id="another-attachment-holds-it"),
        pytest.param("default", route(1, epoch=9), True, id="another-attachment-that-moved"),
        pytest.param(
            "default", route(1, epoch=4, function=11), False, id="it-moved-here-and-the-table-is-behind"
        ),
        pytest.param("default", route(1, epoch=5, function=11), False, id="it-moved-here-at-the-same-time"),
        pytest.param("default", route(1, epoch=6, function=11), True, id="it-moved-away"),
        pytest.param("elsewhere", route(1, epoch=4, function=11), False, id="of-a-table-without-our-cluster"),
        pytest.param("default", route(1, node=1, function=11), False, id="the-router-chose-it"),
        pytest.param("default", route(1, node=1), False, id="of-a-pod-here-that-is-gone"),
        pytest.param("default", None, False, id="not-held-yet"),
    ],
)
def test_a_path_here_gives_way_to_the_holder_and_to_no_table_that_is_behind(cluster, given, lost):
    owned, network, path = RemoteRoutes(HERE), pack(route(1).network), PATH_ID.pack(*PATHS[0])
    owned.announce([network], path)
    routes = dict([entry(VPC, cluster, given)]) if given else {}
    owned.set_table(Source.MQTT, 1, routes)
    assert owned.segment(network) is None, "not before the round begins"
    assert owned.judge() == ([network] if lost else [])
    assert owned.lost(network) == ({path} if lost else set())
    assert owned.segment(network) == (routes[network][:16] if lost else None)


def test_routes_that_the_kernel_has_are_no_reason_to_give_way():
    """After a restart the attachment of a kernel's route is unknown until there is a table."""
    owned, network = RemoteRoutes(HERE), pack(route(1).network)
    owned.announce([network], PATH_ID.pack(*PATHS[0]))
    owned.adopt({network: table(route(1))[network][:16]})
    assert not owned.judge()
    assert owned.segment(network) is None


def test_a_table_without_networks_of_this_node_costs_no_judgement():
    one = SlowTable()
    one.snapshot([route(number) for number in (1, 2, 3)])
    one.announce((1, 0))
    one.check()
    one.set(route(2, node=3))
    assert not one.routes._contested


def dump(kernel, resync):
    for key, segment in kernel.items():
        number, metric = int.from_bytes(key[:4], "big"), int.from_bytes(key[4:8], "big")
        resync.observe(number, key[8:], metric, segment)
    return resync.finish()


def repaired(kernel, resync):
    for key, segment, deleted in resync.jobs():
        if deleted:
            kernel.pop(key, None)
        else:
            kernel[key] = segment
    return kernel


def in_kernel(*routes):
    return {encap_key(TABLE, network, known[:16]): known[:16] for network, known in table(*routes).items()}


def test_a_dump_that_is_as_wanted_leaves_nothing_to_do():
    routes = RemoteRoutes()
    routes.set_table(Source.MQTT, 1, table(route(1), route(2)))
    routes.tracker.drain()
    resync = RouteResync({TABLE: routes})
    assert not dump(in_kernel(route(1), route(2)), resync).objects
    assert not list(resync.jobs())


def test_routes_changed_by_another_program_are_counted_and_restored():
    routes = RemoteRoutes()
    routes.set_table(Source.MQTT, 1, table(route(1), route(2), route(3)))
    routes.tracker.drain()
    network = pack("10.9.9.9/32")
    kernel = in_kernel(route(1), route(2, node=3))  # 3 is missing, 2 leads elsewhere, and two are too many
    kernel |= {encap_key(TABLE, network, bytes(16)): bytes(16), encap_key(77, network, bytes(16)): bytes(16)}
    resync = RouteResync({TABLE: routes})
    assert dump(kernel, resync).objects == 2 + 3
    assert repaired(kernel, resync) == in_kernel(route(1), route(2), route(3))


def test_what_was_still_to_be_written_is_no_drift():
    routes = RemoteRoutes()
    routes.set_table(Source.MQTT, 1, table(route(1)))
    resync = RouteResync({TABLE: routes})
    assert not dump({}, resync).objects
    assert repaired({}, resync) == in_kernel(route(1))


def test_routes_at_start_are_adopted_and_go_by_the_first_table():
    routes = RemoteRoutes()
    kernel = in_kernel(route(1), route(2))
    resync = RouteResync({TABLE: routes})
    assert not dump(kernel, resync).objects
    assert not list(resync.jobs())
    assert not routes.complete
    routes.set_table(Source.KUBERNETES, 5, table(route(3)))
    model = SlowTable()
    model.routes, model.kernel = routes, dict(kernel)
    model.apply()
    assert model.kernel == in_kernel(route(1), route(2), route(3)), "the API server may lag"
    routes.set_table(Source.MQTT, 6, table(route(2), route(3)))
    model.apply()
    assert model.kernel == in_kernel(route(2), route(3))


def test_an_adopted_route_with_another_metric_gets_the_right_one_without_a_gap():
    routes = RemoteRoutes()
    (network, known), *_ = table(route(1)).items()
    kernel = {place(TABLE, 0) + network: known[:16]}
    resync = RouteResync({TABLE: routes})
    dump(kernel, resync)
    first, *_ = jobs = list(resync.jobs())
    assert first == (encap_key(TABLE, network, known[:16]), known[:16], False)
    assert jobs[1:] == [(place(TABLE, 0) + network, known[:16], True)]


def test_a_table_from_before_the_first_dump_is_not_taken_for_written():
    routes = RemoteRoutes()
    routes.set_table(Source.KUBERNETES, 1, table(route(1), route(3)))
    kernel = in_kernel(route(1), route(2))
    dump(kernel, RouteResync({TABLE: routes}))
    model = SlowTable()
    model.routes, model.kernel = routes, kernel
    model.apply()
    assert model.kernel == in_kernel(route(1), route(2), route(3))


def test_ipv4_metrics_differ_by_segment_and_rank_before_the_end_of_a_vrf():
    network = pack("10.0.0.1/32")
    metrics = {encap_metric(network, number.to_bytes(16, "big")) for number in range(10_000)}
    assert len(metrics) > 9_900
    assert min(metrics) > 0
    assert max(metrics) < 4278198272
    assert encap_metric(pack("2001:db8::1/128"), bytes(16)) == 0


def test_a_table_without_our_cluster_is_not_followed():
    """The router does not admit our cluster to the VPC: our pods send nothing into it."""
    model = SlowTable()
    elsewhere, ours = route(1, cluster="elsewhere"), route(2)
    own, path = pack(route(3).network), PATHS[0]
    model.announce((3, 0))
    model.snapshot([elsewhere, route(3, cluster="elsewhere")])
    model.check()
    assert model.kernel == {}
    assert model.routes.lost(own) == frozenset(), "a network of ours gives way to no holder there"
    model.set(ours)
    model.check()
    assert len(model.kernel) == 3
    assert model.routes.lost(own) == {PATH_ID.pack(*path)}
    model.delete(2)
    model.check()
    assert model.kernel == {}


def test_routes_of_before_a_restart_stay_until_there_is_a_table():
    routes = RemoteRoutes(HERE)
    known = table(route(1, cluster="elsewhere"))
    routes.adopt({network: one[:16] for network, one in known.items()})
    assert [*routes] == [*known]
    routes.set_table(Source.MQTT, 1, known)
    assert [*routes] == []
    assert len(routes.tracker) == 1
    routes.set_table(Source.MQTT, 2, known | table(route(2)))
    assert len([*routes]) == 2


PEER = VPC + 1
WITHIN = (pack("10.2.0.0/16"), pack("fd00:2::/32"))


def imported(network="10.2.0.1/32", node=2, cluster="default", function=3):
    """A route of the VPC's table to an attachment of another VPC."""
    where = HERE if node == 1 else socket.inet_pton(socket.AF_INET6, f"2001:db8:ff0{node}:100::")[:8]
    segment = where + PEER.to_bytes(6, "big") + function.to_bytes(2, "big")
    text = socket.inet_ntop(socket.AF_INET6, segment)
    return entry(VPC, "default", Route(network, (text,), cluster, f"node-{node}", f"{function:04x}", 5))


def peered_routes(*routes):
    owned = RemoteRoutes(HERE, VPC)
    owned.set_table(Source.MQTT, 1, dict(routes))
    return owned


@pytest.mark.parametrize("node", [1, 2])
def test_a_route_to_a_peer_counts_while_it_is_one_and_on_its_own_node_too(node):
    network, known = imported(node=node)
    owned = peered_routes((network, known))
    assert [*owned] == []
    owned.tracker.drain()
    assert owned.set_peers({PEER: WITHIN})
    assert owned.segment(network) == known[:16]
    assert [*owned.tracker.deltas()] == [(network, None, known[:16])]
    assert not owned.set_peers({PEER: WITHIN})
    assert owned.set_peers({PEER: (pack("10.2.1.0/24"),)}), "its networks are others"
    assert [*owned.tracker.deltas()] == [(network, known[:16], None)]


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        pytest.param("10.2.0.1/32", True, id="address"),
        pytest.param("10.2.0.0/16", True, id="all-of-it"),
        pytest.param("fd00:2::1/128", True, id="other-family"),
        pytest.param("10.0.0.0/8", False, id="around"),
        pytest.param("10.3.0.1/32", False, id="beside"),
        pytest.param("0.0.0.0/0", False, id="default-route"),
        pytest.param("fd00:3::1/128", False, id="beside-in-the-other-family"),
    ],
)
def test_a_peer_has_its_own_networks_alone(network, counts):
    owned = peered_routes(imported(network))
    owned.set_peers({PEER: WITHIN})
    assert bool([*owned]) is counts


def test_a_peers_attachment_is_none_of_the_vpcs():
    """Neither its epochs nor its cluster count, though it has the same function; and what is here is not beaten."""
    network, known = imported()
    owned = peered_routes((network, known))
    owned.set_peers({PEER: WITHIN})
    assert owned.epochs(3) == []
    assert holder_of(known) == (3, False)
    owned.announce([network], PATH_ID.pack(3, 1))
    assert owned.judge() == []
    assert owned.segment(network) is None, "it is here"
    owned.withdraw([network], PATH_ID.pack(3, 1))
    assert owned.segment(network) == known[:16]
    elsewhere = dict([entry(VPC, "elsewhere", route(5)), imported(cluster="elsewhere")])
    owned.set_table(Source.MQTT, 2, elsewhere)
    assert [*owned] == [], "a table without a route of our own cluster"


def test_what_the_kernel_has_of_a_peer_is_adopted():
    network, known = imported(node=1)
    owned = RemoteRoutes(HERE, VPC)
    owned.set_peers({PEER: WITHIN})
    owned.adopt({network: known[:16]})
    assert owned.segment(network) == known[:16]
    assert [*owned.tracker.deltas()] == []
    owned.set_table(Source.MQTT, 1, {})
    assert [*owned.tracker.deltas()] == [(network, known[:16], None)]

"""Peers' routes in a VPC's table: those of a pure function, whatever the order of events, and by what changed alone."""

import asyncio
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from registrations import Topology

from galactic.messages import Route
from galactic.router.kubernetes.peers import PeerIndex
from galactic.router.rib.imports import is_imported, tables_with_imports
from galactic.router.rib.path import NodeRef
from galactic.router.rib.peerings import Peerings
from galactic.router.rib.store import ALL, Store
from galactic.validation.peering import Side

VPCS = (1, 2, 3)
RANGES = {1: ("10.1.0.0/16",), 2: ("10.2.0.0/16", "fd00:2::/32"), 3: ("10.3.0.0/16", "10.2.0.0/20")}
NETWORKS = (
    "10.1.1.1/32",
    "10.2.1.1/32",
    "10.2.255.1/32",
    "10.3.1.0/24",
    "fd00:2::1/128",
    "0.0.0.0/0",
    "192.168.0.0/16",
)
NODES = (("east", "n1"), ("east", "n2"), ("west", "n3"))
TOPOLOGY = Topology()
some_vpc, some_node = st.sampled_from(VPCS), st.sampled_from(NODES)


def side(ranges: tuple[str, ...], *peers: int) -> Side[int]:
    return Side(tuple(map(ip_network, ranges)), tuple(dict.fromkeys(peers)))


class Tables:
    """A store, and the tables as those see them who get each commit."""

    def __init__(self) -> None:
        self.store = Store(checked=False)
        self.published: dict[int, dict[str, Route]] = {}
        self.changes = 0
        for cluster, node in NODES:
            self.store.nodes.set_prefix(NodeRef(cluster, node), TOPOLOGY.prefix(node))

    def commit(self, at_most: int = ALL) -> None:
        more = True
        while more:
            commit = self.store.commit(1 << 60, at_most)
            for vpc, changed in commit.tables.items():
                assert not changed.set.keys() & changed.delete.keys()
                self.changes += len(changed)
                table = self.published.setdefault(vpc, {})
                for network, route in changed.set.items():
                    assert table.get(network) != route, "set though it was there"
                    table[network] = route
                for network in changed.delete:
                    del table[network]
            more = commit.more

    def register(
        self, node: tuple[str, str], sequence: int, *endpoints: tuple[int, int, tuple[str, ...]]
    ) -> None:
        made = tuple(
            TOPOLOGY.endpoint(node[1], function, *networks, vpc=vpc) for vpc, function, networks in endpoints
        )
        self.store.nodes.set_endpoints(NodeRef(*node), sequence, made)

    def install(self, tables: dict[int, dict[str, Route]]) -> None:
        for _ in self.store.install(tables):
            pass
        self.published = {vpc: dict(routes) for vpc, routes in tables.items()}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables()
        self.declared: dict[tuple[str, int], Side[int]] = {}
        self.sequence = 0

    @initialize()
    def peered(self) -> None:
        for cluster in ("east", "west"):
            self.declare(cluster, 1, (2,), False)
            self.declare(cluster, 2, (1, 3), False)

    @rule(
        cluster=st.sampled_from(["east", "west"]),
        vpc=some_vpc,
        peers=st.lists(some_vpc, max_size=3).map(tuple),
        wide=st.booleans(),
    )
    def declare(self, cluster: str, vpc: int, peers: tuple[int, ...], wide: bool) -> None:
        declared = side(RANGES[vpc][: 2 if wide else 1], *(peer for peer in peers if peer != vpc))
        self.declared[cluster, vpc] = declared
        self.tables.store.tables.declare(cluster, vpc, f"ns/v{vpc}", declared)

    @rule(cluster=st.sampled_from(["east", "west"]), vpc=some_vpc)
    def take_back(self, cluster: str, vpc: int) -> None:
        self.declared.pop((cluster, vpc), None)
        self.tables.store.tables.declare(cluster, vpc, f"ns/v{vpc}", None)

    @rule(
        node=some_node,
        endpoints=st.lists(
            st.tuples(
                some_vpc,
                st.integers(1, 3),
                st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True).map(tuple),
            ),
            max_size=3,
            unique_by=lambda endpoint: endpoint[:2],
        ),
    )
    def register(self, node: tuple[str, str], endpoints: list) -> None:
        self.sequence += 1
        self.tables.register(node, self.sequence, *endpoints)

    @rule(at_most=st.sampled_from([1, 2, 5, ALL]))
    def commit(self, at_most: int) -> None:
        self.tables.commit(at_most)
        self._right()

    @rule(forget=st.booleans())
    def another_router_leads(self, forget: bool) -> None:
        """It starts from what was published, or from nothing, and has its own view of the rest."""
        published = {} if forget else {vpc: routes for vpc, routes in self.tables.published.items() if routes}
        before = self.tables
        self.tables = Tables()
        for node, segment in before.store.nodes.segments().items():
            self.tables.store.nodes.set_endpoints(node, self.sequence, segment.endpoints)
        for (cluster, vpc), declared in self.declared.items():
            self.tables.store.tables.declare(cluster, vpc, f"ns/v{vpc}", declared)
        self.tables.install(published)
        self.tables.commit()
        self._right()

    def _right(self) -> None:
        peerings = Peerings()
        for (cluster, vpc), declared in self.declared.items():
            peerings.declare(cluster, vpc, f"ns/v{vpc}", declared)
        own = {vpc: table.routes for vpc, table in self.tables.store.tables.snapshot().items()}
        expected = tables_with_imports(own, peerings)
        assert {vpc: routes for vpc, routes in self.tables.published.items() if routes} == expected
        for vpc in VPCS:
            assert self.tables.store.tables.routes(vpc) == expected.get(vpc, {})


def test_tables_are_those_of_the_pure_function() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def peered(*clusters: str) -> Tables:
    tables = Tables()
    for cluster in clusters:
        tables.store.tables.declare(cluster, 1, "ns/a", side(RANGES[1], 2))
        tables.store.tables.declare(cluster, 2, "ns/b", side(RANGES[2], 1))
    return tables


def test_a_change_of_one_path_is_one_change_of_each_table() -> None:
    tables = peered("east")
    many = tuple((2, function, (f"10.2.1.{function}/32",)) for function in range(1, 200))
    tables.register(NODES[0], 1, *many)
    tables.commit()
    assert len(tables.published[1]) == len(tables.published[2]) == len(many)
    tables.changes = 0
    tables.register(NODES[0], 2, *many, (2, 200, ("10.2.1.200/32",)))
    tables.commit()
    assert tables.changes == 2
    tables.register(NODES[0], 3, *many)
    tables.commit()
    assert tables.changes == 4


def test_a_router_that_takes_over_imports_what_is_peered_since() -> None:
    """And drops what is not any more: the tables in force are those of before."""
    before = peered("east")
    before.register(NODES[0], 1, (2, 1, ("10.2.1.1/32",)), (1, 1, ("10.1.1.1/32",)))
    before.commit()
    whole = {vpc: dict(routes) for vpc, routes in before.published.items()}
    alone = {
        vpc: {network: route for network, route in routes.items() if not is_imported(vpc, route)}
        for vpc, routes in whole.items()
    }
    for published in (alone, whole, {}):
        after = peered("east")
        after.register(NODES[0], 1, (2, 1, ("10.2.1.1/32",)), (1, 1, ("10.1.1.1/32",)))
        after.install(published)
        after.commit()
        assert after.published == whole
    after = Tables()
    after.register(NODES[0], 1, (2, 1, ("10.2.1.1/32",)), (1, 1, ("10.1.1.1/32",)))
    after.install(whole)
    after.commit()
    assert after.published == alone


def test_only_what_lies_within_the_vpcs_networks_is_exported() -> None:
    tables = peered("east")
    tables.register(
        NODES[0], 1, (2, 1, ("10.2.1.1/32", "fd00:2::1/128", "0.0.0.0/0", "192.168.0.0/16", "10.2.9.0/24"))
    )
    tables.commit()
    assert tables.published[1].keys() == {"10.2.1.1/32", "fd00:2::1/128", "10.2.9.0/24"}
    route = tables.published[1]["10.2.1.1/32"]
    assert route == tables.published[2]["10.2.1.1/32"], "with its own SID"
    assert is_imported(1, route)
    assert not is_imported(2, route)


def test_a_vpc_keeps_its_own_route() -> None:
    """It terminates a network that its peer has as well, and goes on reaching it where it did."""
    tables = peered("east")
    tables.register(NODES[0], 1, (2, 1, ("10.2.9.0/24",)))
    tables.register(NODES[1], 1, (1, 1, ("10.2.9.0/24",)))
    tables.commit()
    assert tables.published[1]["10.2.9.0/24"].node == "n2"
    tables.register(NODES[1], 2)
    tables.commit()
    assert tables.published[1]["10.2.9.0/24"].node == "n1"


def test_a_cluster_peers_its_own_attachments_alone() -> None:
    """The west joined both VPCs, and publishes no peering, or one that the east does not publish."""
    tables = peered("east")
    tables.register(NODES[0], 1, (2, 1, ("10.2.1.1/32",)))
    tables.register(NODES[2], 1, (2, 2, ("10.2.1.2/32",)), (1, 2, ("10.1.1.2/32",)))
    tables.commit()
    assert tables.published[1].keys() == {"10.2.1.1/32", "10.1.1.2/32"}
    assert tables.published[2].keys() == {"10.2.1.1/32", "10.2.1.2/32"}
    for vpc, name, peer in ((1, "ns/a", 2), (2, "ns/b", 1)):
        tables.store.tables.declare("west", vpc, name, side(RANGES[vpc], peer))
    tables.commit()
    assert tables.published[1].keys() == {"10.2.1.1/32", "10.2.1.2/32", "10.1.1.2/32"}
    tables.store.tables.declare("east", 1, "ns/a", None)
    tables.commit()
    assert tables.published[1].keys() == {"10.2.1.2/32", "10.1.1.2/32"}


def vpc(
    name: str, identifier: str | None, *networks: str, peers: tuple[dict[str, str], ...] = (), **meta: str
) -> dict:
    status = {"identifier": identifier} if identifier else {}
    metadata = {"name": name, "namespace": "blue", **meta}
    return {"metadata": metadata, "spec": {"networks": networks, "peers": peers}, "status": status}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("change", "left"),
    [
        pytest.param({"peers": ()}, False, id="taken-back"),
        pytest.param(None, False, id="deleted"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, False, id="being-deleted"),
        pytest.param({"networks": ("10.1.7.0/24",)}, False, id="overlaps"),
        pytest.param({"networks": ("10.1.7.0/33",)}, False, id="invalid"),
        pytest.param({"networks": ("10.7.0.0/16",)}, True, id="other-networks"),
        pytest.param({"identifier": None}, False, id="without-identifier"),
    ],
)
def test_vpcs_of_the_api_server_are_declared(order, change, left) -> None:
    declared = Peerings()

    class Recorder:
        def declare(self, cluster, vpc, name, side):
            declared.declare(cluster, vpc, name, side)

    def make(identifier="00000000000b", networks=("10.2.0.0/16",), peers=({"name": "a"},), **meta):
        return vpc("b", identifier, *networks, peers=peers, **meta)

    index = PeerIndex("east", Recorder())
    objects = (vpc("a", "00000000000a", "10.1.0.0/16", peers=({"namespace": "blue", "name": "b"},)), make())
    for number in order:
        index.set_vpc(("blue", "ab"[number]), objects[number])
    assert declared.peers(0xA) == {0xB: frozenset({"east"})}
    index.set_vpc(("blue", "b"), None if change is None else make(**change))
    assert bool(declared.peers(0xA)) is bool(declared.peers(0xB)) is left
    index.set_vpc(("blue", "b"), make())
    assert declared.peers(0xA)
    assert len(declared) == 1


def test_of_two_vpcs_with_one_identifier_the_first_counts() -> None:
    declared = Peerings()
    declared.declare("east", 2, "ns/b", side(RANGES[2], 1))
    declared.declare("east", 1, "ns/z", side(RANGES[1], 2))
    assert declared.peers(1)
    declared.declare("east", 1, "ns/a", side(("10.2.0.0/24",), 2))
    assert not declared.peers(1)
    declared.declare("east", 1, "ns/a", None)
    assert declared.peers(1)


async def test_a_declaration_wakes_the_commits() -> None:
    tables = peered("east")
    tables.register(NODES[0], 1, (2, 1, ("10.2.1.1/32",)))
    tables.commit()
    tables.store.changed.clear()
    tables.store.tables.declare("east", 1, "ns/a", None)
    await asyncio.wait_for(tables.store.changed.wait(), 1)
    assert tables.store.pending
    tables.commit()
    assert not tables.store.pending
    assert not tables.published[1]

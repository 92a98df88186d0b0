"""Several clusters in one VPC: who may be in it, who gives way to whom, and what a change of the policy does."""

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from ipaddress import IPv6Network

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from galactic.errors import Rejected
from galactic.messages import Endpoint
from galactic.router.ingress.admissions import AdmissionsFile, parse
from galactic.router.rib.import_policy import ClusterVpc, Policy, Unlisted
from galactic.router.rib.path import Attachment, NodeRef
from galactic.router.rib.store import Store
from galactic.router.rib.table import table

VPC, OTHER = 0x4D2, 0x4D3
HORIZON, FAR = 1000, 1 << 60
EAST, WEST, NORTH = NodeRef("east", "n1"), NodeRef("west", "n2"), NodeRef("north", "n3")
CLUSTERS = (EAST, WEST, NORTH)
BOTH = frozenset({"east", "west"})


class Plane:
    """A store and three clusters of one node each."""

    def __init__(self, topology, policy: Policy = Policy()) -> None:  # noqa: B008
        self.topology, self.sequence = topology, 0
        self.store = Store(checked=False, policy=policy)
        for node in CLUSTERS:
            self.store.nodes.set_prefix(node, topology.prefix(node.node))

    def register(self, node: NodeRef, *endpoints: Endpoint) -> None:
        self.sequence += 1
        assert self.store.nodes.set_endpoints(node, self.sequence, endpoints)

    def attach(
        self, node: NodeRef, network: str, *, epoch: int = 1, function: int = 1, vpc: int = VPC
    ) -> None:
        self.register(node, self.topology.endpoint(node.node, function, network, epoch=epoch, vpc=vpc))

    def publish(self, cluster: str, vpc_name: str, *networks: str) -> None:
        """The cluster's list of attachments: the one of function 1, on all nodes."""
        entry = Attachment(VPC, 1, frozenset(networks), True, None, vpc_name)
        name = self.topology.endpoint("n1", 1).attachment
        self.store.nodes.amend_attachments(cluster, {name: entry}, complete=True)

    def commit(self) -> tuple[dict[str, str], list[str]]:
        """(network → cluster, reasons of what is rejected now)."""
        news = self.store.commit(HORIZON).rejections
        holders = {network: route.cluster for network, route in self.store.tables.routes(VPC).items()}
        return holders, [rejection.reason for rejection in news]


@pytest.fixture
def plane(topology) -> Plane:
    return Plane(topology)


def test_a_vpc_that_is_not_listed_belongs_to_the_cluster_that_has_it(plane) -> None:
    plane.attach(EAST, "10.1.1.1/32", epoch=500)
    assert plane.commit() == ({"10.1.1.1/32": "east"}, [])
    plane.attach(WEST, "10.1.1.2/32", epoch=1)  # that its clock is slower does not make it the owner
    assert plane.commit() == ({"10.1.1.1/32": "east"}, ["NotAdmitted"])
    plane.attach(EAST, "10.1.1.9/32", epoch=501)  # the only route of the owner changes
    assert plane.commit() == ({"10.1.1.9/32": "east"}, [])
    plane.register(EAST)
    assert plane.commit()[0] == {"10.1.1.2/32": "west"}


def test_of_clusters_that_come_at_once_the_one_that_was_attached_first(plane) -> None:
    plane.attach(WEST, "10.1.1.2/32", epoch=7)
    plane.attach(EAST, "10.1.1.1/32", epoch=8)
    plane.attach(NORTH, "10.1.1.3/32", epoch=FAR)
    holders, reasons = plane.commit()
    assert holders == {"10.1.1.2/32": "west"}
    assert sorted(reasons) == ["NotAdmitted", "NotAdmitted"]


def test_listed_clusters_reach_each_other_and_others_do_not_get_in(topology) -> None:
    plane = Plane(topology, Policy(vpcs={VPC: BOTH}))
    for number, node in enumerate(CLUSTERS, 1):
        plane.attach(node, f"10.1.1.{number}/32")  # equal functions: three attachments
    assert plane.commit() == ({"10.1.1.1/32": "east", "10.1.1.2/32": "west"}, ["NotAdmitted"])


def test_an_address_of_both_clusters_stays_with_the_one_that_has_it(topology) -> None:
    plane = Plane(topology, Policy(vpcs={VPC: BOTH}))
    plane.attach(WEST, "10.1.1.1/32", epoch=9)
    plane.commit()
    plane.attach(EAST, "10.1.1.1/32", epoch=2)
    assert plane.commit() == ({"10.1.1.1/32": "west"}, [])
    (conflict,) = plane.store.tables.snapshot()[VPC].conflicts
    assert (conflict.path.origin, conflict.owner.origin) == (EAST, WEST)


def test_an_admission_that_is_taken_back_withdraws_that_clusters_routes_at_once(topology) -> None:
    plane = Plane(topology, Policy(vpcs={VPC: BOTH}))
    plane.attach(EAST, "10.1.1.1/32", epoch=2)
    plane.attach(WEST, "10.1.1.2/32", epoch=1)
    plane.attach(NORTH, "10.9.9.9/32", vpc=OTHER)
    plane.commit()
    plane.store.tables.set_policy(Policy(vpcs={VPC: frozenset({"east"})}))
    done = plane.store.commit(HORIZON)
    assert {vpc: (set(change.set), set(change.delete)) for vpc, change in done.routes.items()} == {
        VPC: (set(), {"10.1.1.2/32"})
    }
    assert [(rejection.origin, rejection.reason) for rejection in done.rejections] == [(WEST, "NotAdmitted")]
    plane.store.tables.set_policy(Policy(vpcs={VPC: BOTH}))
    assert plane.commit()[0] == {"10.1.1.1/32": "east", "10.1.1.2/32": "west"}
    # Taken off the list altogether it is the VPC of the one of the two that was attached first.
    plane.store.tables.set_policy(Policy())
    assert plane.commit()[0] == {"10.1.1.2/32": "west"}


NAMED = frozenset({"east", ClusterVpc("west", "blue/shared")})


@pytest.mark.parametrize(
    ("listed", "routed"),
    [
        pytest.param("blue/shared", True, id="the-one-that-is-named"),
        pytest.param("red/shared", False, id="of-another-namespace"),
        pytest.param("blue/other", False, id="of-another-name"),
        pytest.param("", False, id="unknown"),
        pytest.param(None, False, id="no-list"),
    ],
)
def test_of_a_listed_cluster_only_the_vpc_that_is_named(topology, listed: str | None, routed: bool) -> None:
    plane = Plane(topology, Policy(vpcs={VPC: NAMED}))
    if listed is not None:
        plane.publish("west", listed, "10.1.1.2/32")
    plane.attach(EAST, "10.1.1.1/32")
    plane.attach(WEST, "10.1.1.2/32")
    both = {"10.1.1.1/32": "east", "10.1.1.2/32": "west"}
    assert plane.commit() == ((both, []) if routed else ({"10.1.1.1/32": "east"}, ["NotAdmitted"]))


def test_a_vpc_that_is_not_admitted_is_named_with_the_remedy(topology) -> None:
    plane = Plane(topology, Policy(vpcs={VPC: NAMED}))
    plane.publish("west", "red/shared", "10.1.1.2/32")
    plane.attach(WEST, "10.1.1.2/32")
    (rejection,) = plane.store.commit(HORIZON).rejections
    assert rejection.message == (
        "VPC red/shared of cluster west may not be in VPC 0000000004d2, which is for blue/shared of west, east; "
        "list the VPC in the router's admissions"
    )


def test_paths_whose_vpc_is_unknown_stay_where_they_are_installed(topology) -> None:
    """The operator in the west is of a version without names."""
    plane = Plane(topology, Policy(vpcs={VPC: BOTH}))
    plane.publish("west", "", "10.1.1.2/32", "10.1.1.3/32")
    plane.attach(WEST, "10.1.1.2/32")
    assert plane.commit()[0] == {"10.1.1.2/32": "west"}
    plane.store.tables.set_policy(Policy(vpcs={VPC: NAMED}))
    assert plane.commit() == ({"10.1.1.2/32": "west"}, [])
    plane.attach(WEST, "10.1.1.2/32", epoch=2)  # its pod moves
    assert plane.commit() == ({}, ["NotAdmitted"])
    plane.publish("west", "blue/shared", "10.1.1.2/32")
    assert plane.commit() == ({"10.1.1.2/32": "west"}, [])
    plane.publish("west", "red/shared", "10.1.1.2/32")
    assert plane.commit() == ({}, ["NotAdmitted"])


@pytest.mark.parametrize(
    ("unlisted", "clusters"),
    [
        pytest.param(Unlisted.ANYBODY, ["east", "north", "west"], id="anybody"),
        pytest.param(Unlisted.FIRST, ["east"], id="first"),
        pytest.param(Unlisted.NOBODY, [], id="nobody"),
    ],
)
def test_what_goes_for_a_vpc_that_is_not_listed(topology, unlisted: Unlisted, clusters: list[str]) -> None:
    plane = Plane(topology, Policy(unlisted))
    for number, node in enumerate(CLUSTERS, 1):
        plane.attach(node, f"10.1.1.{number}/32", epoch=number)
    assert sorted(plane.commit()[0].values()) == clusters


def test_a_restart_does_not_give_a_vpc_to_another_cluster(topology) -> None:
    before, after = Plane(topology), Plane(topology)
    before.attach(EAST, "10.1.1.1/32", epoch=500)
    before.commit()
    deque(after.store.install({VPC: before.store.tables.routes(VPC)}), 0)
    after.attach(WEST, "10.1.1.2/32", epoch=1)
    after.attach(EAST, "10.1.1.1/32", epoch=500)
    assert after.commit()[0] == {"10.1.1.1/32": "east"}


# -- the store arrives at the pure function ----------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Registrations, policies and time in any order; the oracle is ``table`` with the tables before as ``held``."""

    topology = None
    policies = st.builds(
        Policy,
        st.sampled_from(Unlisted),
        st.dictionaries(
            st.sampled_from((VPC, OTHER)),
            st.frozensets(
                st.sampled_from([*(node.cluster for node in CLUSTERS), ClusterVpc("east", "blue/shared")])
            ),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.plane = Plane(self.topology)
        self.policy, self.horizon = Policy(), HORIZON
        self.expected = table({}, None, {}, 0)

    @initialize(policy=policies)
    def begin(self, policy: Policy) -> None:
        self.adopt(policy)

    @rule(policy=policies)
    def adopt(self, policy: Policy) -> None:
        self.policy = policy
        self.plane.store.tables.set_policy(policy)

    @rule(
        node=st.sampled_from(CLUSTERS),
        endpoints=st.lists(
            st.tuples(
                st.sampled_from((VPC, VPC, OTHER)),
                st.integers(1, 3),
                st.lists(st.sampled_from(("10.1.1.1/32", "10.1.1.2/32", "fd00::/64")), max_size=2).map(tuple),
                st.one_of(st.integers(0, 6), st.just(FAR)),
            ),
            max_size=3,
        ),
    )
    def register(self, node: NodeRef, endpoints: list) -> None:
        topology = self.topology
        self.plane.register(
            node,
            *(
                topology.endpoint(node.node, function, *nets, epoch=epoch, vpc=vpc)
                for vpc, function, nets, epoch in endpoints
            ),
        )

    @rule()
    def time_goes_by(self) -> None:
        self.horizon = FAR

    @rule()
    def commit(self) -> None:
        before = {vpc: table.routes for vpc, table in self.expected.vpcs.items()}
        store = self.plane.store
        expected = table(store.nodes.segments(), None, before, self.horizon, self.policy)
        store.commit(self.horizon)
        assert store.tables.snapshot() == expected.vpcs
        routes = {vpc: table.routes for vpc, table in expected.vpcs.items()}
        again = table(store.nodes.segments(), None, routes, self.horizon, self.policy)
        assert {vpc: table.routes for vpc, table in again.vpcs.items()} == routes, "a restart changes nothing"
        self.expected = expected


def test_any_order_of_registrations_and_policies(topology) -> None:
    Machine.topology = topology
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=100, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )


# -- prefixes ----------------------------------------------------------------------------------------------------------


def test_a_prefix_belongs_to_the_node_that_has_it_until_it_is_given_back(plane, topology) -> None:
    plane.attach(EAST, "10.1.1.1/32")
    plane.commit()
    thief = NodeRef("west", "n1")  # its prefix is here that of east's n1
    plane.store.nodes.set_prefix(thief, topology.prefix("n1"))
    plane.attach(thief, "10.1.1.2/32", vpc=OTHER)
    assert plane.commit() == ({"10.1.1.1/32": "east"}, ["PrefixTaken"])
    assert not plane.store.tables.routes(OTHER)
    plane.store.nodes.remove(EAST)
    assert plane.commit()[0] == {}
    assert list(plane.store.tables.routes(OTHER)) == ["10.1.1.2/32"]


@pytest.mark.parametrize("length", [48, 52, 64])
def test_prefixes_that_only_overlap(plane, topology, length: int) -> None:
    plane.attach(EAST, "10.1.1.1/32")
    plane.commit()
    larger = NodeRef("a", "n1")
    inside = topology.prefix("n1").network_address
    plane.store.nodes.set_prefix(larger, IPv6Network((inside, length), strict=False))
    plane.register(larger)
    assert plane.commit() == ({"10.1.1.1/32": "east"}, ["PrefixTaken"])


def test_a_restart_does_not_give_a_prefix_to_another_node(topology) -> None:
    before, after = Plane(topology), Store(checked=False)
    before.attach(EAST, "10.1.1.1/32")
    before.commit()
    thief = NodeRef("a", "n1")  # by name it would be first
    after.nodes.set_prefix(thief, topology.prefix("n1"))
    after.nodes.set_prefix(EAST, topology.prefix("n1"))
    after.nodes.set_endpoints(EAST, 1, (topology.endpoint("n1", 1, "10.1.1.1/32"),))
    deque(after.install({VPC: before.store.tables.routes(VPC)}), 0)
    after.commit(HORIZON)
    assert after.nodes.prefix_conflicts() == {thief: EAST}
    assert {route.cluster for route in after.tables.routes(VPC).values()} == {"east"}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_of_admissions() -> None:
    assert parse("") == Policy(Unlisted.FIRST, {})
    text = "unlisted: nobody\nvpcs:\n  '0000000004d2': {clusters: [east, west]}\n"
    assert parse(text) == Policy(Unlisted.NOBODY, {VPC: BOTH})
    text = "vpcs:\n  '0000000004d2': {clusters: [east, {name: west, vpc: blue/shared}]}\n"
    assert parse(text) == Policy(Unlisted.FIRST, {VPC: NAMED})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("[", "not YAML", id="no-yaml"),
        pytest.param("- a", "list: give the keys", id="a-list"),
        pytest.param("vpc: {}", "'vpc'", id="misspelt"),
        pytest.param("unlisted: all", "give first, nobody, anybody", id="unlisted"),
        pytest.param("vpcs: {000000001234: {clusters: [a]}}", "in quotes", id="read-as-an-octal-number"),
        pytest.param("vpcs: {'4d2': {clusters: [a]}}", "vpcs: ", id="short"),
        pytest.param("vpcs: {'0000000004d2': [a]}", "vpcs.0000000004d2", id="no-clusters"),
        pytest.param("vpcs: {'0000000004d2': {clusters: east}}", "a list of names", id="a-name"),
        *(
            pytest.param(
                f"vpcs: {{'0000000004d2': {{clusters: [east, {member}]}}}}",
                "vpcs.0000000004d2.clusters[1]",
                id=id_,
            )
            for id_, member in (
                ("no-vpc", "{name: west}"),
                ("no-name", "{vpc: blue/shared}"),
                ("empty", "{name: '', vpc: blue/shared}"),
                ("no-namespace", "{name: west, vpc: shared}"),
                ("two-slashes", "{name: west, vpc: a/b/c}"),
                ("a-key-too-many", "{name: west, vpc: blue/shared, vpcs: []}"),
                ("a-number", "7"),
                ("no-text", "''"),
            )
        ),
        pytest.param(b"\xff\xfe\x00", "not YAML", id="bytes"),
    ],
)
def test_a_file_without_usable_content(text: str, reason: str) -> None:
    with pytest.raises(Rejected, match=r".*") as caught:
        parse(text)
    assert reason in str(caught.value)


@asynccontextmanager
async def watched(path):
    """The file, and the policies and problems that were read from it."""
    file, policies, problems = AdmissionsFile(path, poll_seconds=0.01), [], []
    task = asyncio.create_task(file.changes(policies.append, problems.append))
    try:
        yield file, policies, problems
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(path, text: str) -> None:
    """All at once: who reads it meanwhile does not find it empty."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def test_a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing(tmp_path, until) -> None:
    path = tmp_path / "admissions.yaml"
    with pytest.raises(Rejected, match="No such file"):
        AdmissionsFile(path)
    put(path, "unlisted: nobody")
    async with watched(path) as (file, policies, problems):
        assert file.policy == Policy(Unlisted.NOBODY)
        put(path, "unlisted: anybody")
        await until(lambda: policies == [Policy(Unlisted.ANYBODY)])
        put(path, "unlisted: [")
        await until(lambda: len(problems) == 1)
        assert "stays in force" in problems[0]
        path.unlink()
        await until(lambda: len(problems) == 2)
        assert file.policy == Policy(Unlisted.ANYBODY)
        put(path, "unlisted: anybody")
        await until(lambda: problems[2:] == [None])
        put(path, "unlisted: first")
        await until(lambda: policies[1:] == [Policy(Unlisted.FIRST)])

"""The store looks only at what was touched, and still arrives at the pure function of everything."""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from galactic.errors import Rejected
from galactic.router.rib.import_policy import OPEN
from galactic.router.rib.path import EPOCH_MAX, Attachment, Identity, NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.router.rib.store import ALL, Store
from galactic.router.rib.table import table
from galactic.router.rib.vpc_tables import VpcTables

VPCS = (0x4D2, 0x4D3)
NETWORKS = ("10.1.1.1/32", "10.1.1.2/32", "10.2.0.0/16", "fd00::/64")
NODES = ("n1", "n2", "n3")
FAR = 1 << 60
NOW, DAY = 1_000, 86_400_000_000_000
networks = st.lists(st.sampled_from([*NETWORKS, "0.0.0.0/0"]), max_size=3).map(tuple)


class Numbering:
    """The numbering of the fixture ``topology``, which a state machine cannot ask for."""

    topology = None


class Machine(RuleBasedStateMachine):
    """Both writers in any order, commits in between; the oracle is ``table`` with the former tables installed."""

    checked = False

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(checked=self.checked)
        self.attachments: dict[str, Attachment] | None = {} if self.checked else None
        self.expected = table({}, self.attachments, {}, 0)
        self.horizon = 1000
        self.sequence = 0
        self.absent: frozenset[NodeRef] = frozenset()

    @initialize()
    def begin(self) -> None:
        for node in NODES:
            self.store.nodes.set_prefix(NodeRef("default", node), Numbering.topology.prefix(node))

    @rule(
        at_once=st.booleans(),
        node=st.sampled_from(NODES),
        registered=st.lists(
            st.tuples(
                st.sampled_from(VPCS), st.integers(1, 4), networks, st.one_of(st.integers(0, 6), st.just(FAR))
            ),
            max_size=4,
        ),
    )
    def register(self, at_once: bool, node: str, registered: list) -> None:
        self.sequence += 1
        topology = Numbering.topology
        endpoints = tuple(
            topology.endpoint(node, function, *nets, epoch=epoch, vpc=vpc)
            for vpc, function, nets, epoch in registered
        )
        assert self.store.nodes.set_endpoints(NodeRef("default", node), self.sequence, endpoints)
        if at_once:
            self.commit()

    @rule(node=st.sampled_from(NODES), behind=st.integers(1, 3))
    def replay(self, node: str, behind: int) -> None:
        known = self.store.nodes.segments().get(NodeRef("default", node))
        if known is not None and known.endpoints:
            assert not self.store.nodes.set_endpoints(
                NodeRef("default", node), self.sequence - 100 * behind, ()
            )

    @rule(node=st.sampled_from(NODES), known=st.booleans())
    def place(self, node: str, known: bool) -> None:
        self.store.nodes.set_prefix(
            NodeRef("default", node), Numbering.topology.prefix(node) if known else None
        )

    @rule(node=st.sampled_from(NODES))
    def leave(self, node: str) -> None:
        self.store.nodes.remove(NodeRef("default", node))

    @rule()
    def time_goes_by(self) -> None:
        self.horizon = FAR

    @rule(node=st.sampled_from(NODES), absent=st.booleans())
    def comes_or_goes(self, node: str, absent: bool) -> None:
        node_ref = NodeRef("default", node)
        self.store.nodes.set_offline(node_ref, absent)
        self.absent = self.absent | {node_ref} if absent else self.absent - {node_ref}

    @rule(at_most=st.sampled_from([1, 2, 3, ALL]), meanwhile=st.booleans())
    def commit(self, at_most: int = ALL, meanwhile: bool = False) -> None:
        """In parts. Registrations between two of them belong to the next commit."""
        before = {vpc: table.routes for vpc, table in self.expected.vpcs.items()}
        expected = table(
            self.store.nodes.segments(), self.attachments, before, self.horizon, OPEN, self.absent
        )
        now = {vpc: dict(routes) for vpc, routes in before.items()}
        touched, changed, more = set(), set(), True
        while more:
            done = self.store.commit(self.horizon, at_most)
            touched |= done.touched
            for vpc, change in done.routes.items():
                for network, route in change.set.items():
                    assert now.setdefault(vpc, {}).get(network) != route, "set though it was there"
                    now[vpc][network] = route
                for network, route in change.delete.items():
                    assert now[vpc].pop(network) == route, "deleted though it was not there"
                twice = changed & {(vpc, network) for network in (*change.set, *change.delete)}
                assert not twice, "decided twice in one commit"
                changed |= {(vpc, network) for network in (*change.set, *change.delete)}
            for vpc in VPCS:
                assert self.store.tables.routes(vpc) == now.get(vpc, {}), (
                    "another table than the one that was told"
                )
            more = done.more
            if more and meanwhile:
                meanwhile = False
                self.register(False, NODES[0], [(VPCS[0], 1, NETWORKS[:2], 5), (VPCS[1], 2, NETWORKS, 6)])
                assert not self.store.check(ALL), "taken into a commit that is under way"
        assert self.store.tables.snapshot() == expected.vpcs
        moved = {
            Identity(who.cluster, vpc, who.function)
            for vpc in expected.vpcs.keys() | self.expected.vpcs.keys()
            for who in endpoints(expected, vpc).keys() | endpoints(self.expected, vpc).keys()
            if endpoints(expected, vpc).get(who) != endpoints(self.expected, vpc).get(who)
        }
        assert moved <= touched
        self.expected = expected


class Checked(Machine):
    """The same with attachments to check against."""

    checked = True

    @initialize()
    def assign(self) -> None:
        for function in range(1, 5):
            self.attach(function, VPCS[function % 2], NETWORKS, ready=True)

    @rule(
        function=st.integers(1, 4),
        vpc=st.sampled_from([*VPCS, None]),
        entitled=networks,
        ready=st.booleans(),
    )
    def attach(self, function: int, vpc: int | None, entitled: tuple, ready: bool) -> None:
        attachment = Attachment(vpc, function, frozenset(entitled) & frozenset(NETWORKS), ready)
        self.attachments[f"ns/a{function}"] = attachment
        self.store.nodes.set_attachment(f"ns/a{function}", attachment)

    @rule(function=st.integers(1, 4))
    def detach(self, function: int) -> None:
        self.attachments.pop(f"ns/a{function}", None)
        self.store.nodes.set_attachment(f"ns/a{function}", None)


def endpoints(tables, vpc: int) -> dict:
    return tables.vpcs[vpc].endpoints if vpc in tables.vpcs else {}


def _run(topology, machine: type[Machine]) -> None:
    Numbering.topology = topology
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=100, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )


def test_standalone(topology) -> None:
    _run(topology, Machine)


def test_with_attachments(topology) -> None:
    _run(topology, Checked)


def test_the_newest_sequence_wins_from_either_writer(topology) -> None:
    store = Store(checked=False)
    node_ref, endpoint = NodeRef("default", "n1"), topology.endpoint("n1", 1, "10.1.1.1/32")
    store.nodes.set_prefix(node_ref, topology.prefix("n1"))
    assert store.nodes.set_endpoints(node_ref, 5, (endpoint,))
    assert not store.nodes.set_endpoints(node_ref, 4, ())
    assert not store.nodes.set_endpoints(node_ref, 5, ()), (
        "the same sequence with other endpoints is rejected"
    )
    assert store.nodes.set_endpoints(node_ref, 5, (endpoint,)), "the same again does no harm"
    store.commit(10)
    assert list(store.tables.routes(0x4D2)) == ["10.1.1.1/32"]
    store.nodes.remove(node_ref)
    assert store.nodes.set_endpoints(node_ref, 1, ()), "a node that comes back starts again"


@pytest.mark.parametrize(
    ("known", "sequence", "installed"),
    [
        pytest.param(5, DAY + 1, False, id="within-a-day"),
        pytest.param(5, DAY + NOW, False, id="at-the-horizon"),
        pytest.param(5, DAY + NOW + 1, True, id="after-the-horizon"),
        pytest.param(5, EPOCH_MAX, True, id="the-highest"),
        pytest.param(0, EPOCH_MAX, False, id="nothing-known-but-a-restored-one"),
    ],
)
def test_a_sequence_from_after_the_horizon_replaces_none_from_before_it(
    topology, known: int, sequence: int, installed: bool
) -> None:
    nodes, node_ref = _at(NOW), NodeRef("default", "n1")
    endpoint = topology.endpoint("n1", 1, "10.1.1.1/32")
    assert nodes.set_endpoints(node_ref, known, (endpoint,))
    if installed:
        with pytest.raises(Rejected) as refused:
            nodes.set_endpoints(node_ref, sequence, ())
        assert refused.value.reason == "SequenceInFuture"
    else:
        assert nodes.set_endpoints(node_ref, sequence, ())
    assert nodes.segments()[node_ref].endpoints == ((endpoint,) if installed else ())


def test_a_sequence_from_after_the_horizon_yields_to_the_nodes_own(topology) -> None:
    nodes, node_ref = _at(NOW), NodeRef("default", "n1")
    endpoint = topology.endpoint("n1", 1, "10.1.1.1/32")
    assert nodes.set_endpoints(node_ref, EPOCH_MAX - 1, ()), "all there is: a node whose clock is wrong"
    assert nodes.set_endpoints(node_ref, EPOCH_MAX, (endpoint,)), "and it goes on"
    assert not nodes.set_endpoints(node_ref, EPOCH_MAX - 1, ())
    assert nodes.set_endpoints(node_ref, 5, (endpoint,))
    with pytest.raises(Rejected):
        nodes.set_endpoints(node_ref, EPOCH_MAX, ())
    assert nodes.set_endpoints(node_ref, 6, ())


def _at(now: int) -> Registrations:
    changed = asyncio.Event()
    return Registrations(VpcTables(changed), changed, checked=False, clock=lambda: now)


def test_a_commit_looks_only_at_what_was_touched(topology, monkeypatch) -> None:
    from galactic.router.rib import vpc_rib as module

    store = Store(checked=False)
    for number in range(1, 201):
        node_ref = NodeRef("default", f"n{number}")
        store.nodes.set_prefix(node_ref, topology.prefix(f"n{number}"))
        store.nodes.set_endpoints(
            node_ref, 1, (topology.endpoint(f"n{number}", number, f"10.1.{number}.1/32"),)
        )
    store.commit(10)
    asked = []
    monkeypatch.setattr(module, "best_path", _counting(module.best_path, asked))
    monkeypatch.setattr(module, "network_owner", _counting(module.network_owner, asked))
    store.nodes.set_endpoints(NodeRef("default", "n7"), 2, (topology.endpoint("n7", 7, "10.1.7.2/32"),))
    assert set(store.commit(10).routes[0x4D2].set) == {"10.1.7.2/32"}
    assert len(asked) == 2


def _counting(function, calls: list):
    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_an_api_server_that_was_set_back_withdraws_nothing_registered_since_over_mqtt(topology) -> None:
    store = Store(checked=True)
    node_ref = NodeRef("default", "n1")
    store.nodes.set_prefix(node_ref, topology.prefix("n1"))
    for number in (1, 2):
        store.nodes.set_attachment(
            f"ns/a{number}", Attachment(0x4D2, number, frozenset({f"10.1.1.{number}/32"}), True)
        )
    before = (topology.endpoint("n1", 1, "10.1.1.1/32"),)
    since = (*before, topology.endpoint("n1", 2, "10.1.1.2/32"))
    store.nodes.set_endpoints(node_ref, 7, since)
    store.commit(10)
    assert not store.nodes.set_endpoints(node_ref, 5, before), "the NodeSegment as it was in the backup"
    assert not store.commit(10).routes
    store.nodes.set_attachment("ns/a2", None)  # made after the backup: gone until it is made again
    assert list(store.commit(10).routes[0x4D2].delete) == ["10.1.1.2/32"]
    store.nodes.set_attachment("ns/a2", Attachment(0x4D2, 2, frozenset({"10.1.1.2/32"}), True))
    assert list(store.commit(10).routes[0x4D2].set) == ["10.1.1.2/32"], "without another registration"

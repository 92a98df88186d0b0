"""Messages to subscribers add up to the table: for early subscribers, and for those that join at any moment."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from galactic.bus.memory import MemoryBroker
from galactic.diff import Diff, diff
from galactic.messages import MAX_PAYLOAD, Changes, Head, Route, Shard, Topics, decode, digest, encode
from galactic.router.egress import shards as module
from galactic.router.egress.adj_rib_out import AdjRibOut
from galactic.router.egress.fanout import Fanout
from galactic.router.egress.publisher import Publisher
from galactic.router.egress.retained import Retained
from galactic.router.egress.shards import Shards
from galactic.router.metrics import RouterMetrics

VPC = 0x4D2


def route(number: int, epoch: int = 1) -> Route:
    return Route(f"10.0.{number >> 8}.{number & 255}/32", ("2001:db8::1",), "default", "n1", "0001", epoch)


def table(numbers: dict[int, int]) -> dict[str, Route]:
    return {route.network: route for route in (route(number, epoch) for number, epoch in numbers.items())}


class Broker:
    """Retained messages by the levels below the base, and one subscriber that was there from the beginning."""

    def __init__(self) -> None:
        self.retained: dict[tuple[str, ...], bytes] = {}
        self.advertised: dict[str, Route] = {}
        self.revision = self.latest = 0

    def receive(self, messages: list[Changes]) -> None:
        for message in messages:
            assert len(encode(message)) <= MAX_PAYLOAD
            assert message.previous == self.revision
            assert message.revision > message.previous
            assert message.revision > self.latest, "a revision that was another table's, or another writer's"
            self.revision = self.latest = message.revision
            assert not any(self.advertised.get(route.network) == route for route in message.set), (
                "published again though unchanged"
            )
            self.advertised |= {route.network: route for route in message.set}
            for network in message.delete:
                del self.advertised[network]

    def publish(self, adj_rib_out: AdjRibOut) -> int:
        """Packs. After each message a joining node either has a whole table or finds that it is incomplete."""
        pack = adj_rib_out.pack()
        if pack is None:
            return 0
        topics = [(("table", str(number)), encode(shard)) for number, shard in pack.shards.items()]
        topics.append((("head",), encode(pack.head) if pack.head else b""))
        topics += [(("table", str(number)), b"") for number in pack.clear]
        for topic, payload in topics:
            before = self.joined()
            self.retained[("vpcs", adj_rib_out.vpc, *topic)] = payload
            if not payload:
                del self.retained[("vpcs", adj_rib_out.vpc, *topic)]
            after = self.joined()
            assert after in (None, before, self.advertised), (
                "a joining node accepts a table that never existed"
            )
        adj_rib_out.confirmed(pack)
        if pack.head is None:
            self.revision = 0
        return len(topics)

    def read(self) -> Retained:
        retained = Retained()
        for topic, payload in self.retained.items():
            retained.add(topic, payload)
        return retained

    def joined(self) -> dict[str, Route] | None:
        """The table that a joining node accepts; None: it waits."""
        retained = self.read().tables.get(VPC)
        if retained is None or retained.head is None:
            return None
        shards = [retained.shards.get(number) for number in range(retained.head.shards)]
        routes = {route.network: route for shard in shards if shard for route in shard.routes}
        whole = None not in shards and (retained.head.count, retained.head.digest) == (
            len(routes),
            digest(routes.values()),
        )
        return routes if whole else None


@pytest.fixture
def small(monkeypatch):
    """Shards of four routes, so that few routes make many."""
    monkeypatch.setattr(module, "SHARD_ROUTES", 4)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 200), st.integers(1, 2), max_size=120),
            st.sampled_from([1000, 2000, 5000]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_shard_is_larger_than_the_broker_takes(steps: list) -> None:
    """Whatever the broker was before: another one may take less."""
    adj_rib_out, wanted = AdjRibOut(VPC), {}
    retained: dict[int, Shard] = {}
    for clock, (numbers, largest) in enumerate(steps, 1):
        now = table(numbers)
        adj_rib_out.put(diff(now, wanted))
        wanted = now
        adj_rib_out.changes(clock, largest)
        adj_rib_out.compare(None)  # another broker
        pack = adj_rib_out.pack(largest)
        if pack is None:
            assert not wanted
            continue
        assert all(len(encode(shard)) <= largest for shard in pack.shards.values())
        retained = pack.shards
        assert {route.network: route for shard in retained.values() for route in shard.routes} == wanted
        adj_rib_out.confirmed(pack)


steps = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 60), st.integers(1, 2), max_size=60),
        st.sampled_from(["tell", "pack", "restart", "empty", "forget"]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(steps=steps)
def test_any_history(steps: list) -> None:
    """Tables come and go, packed or not; routers restart; brokers come back empty or with half of what they had."""
    original, module.SHARD_ROUTES = module.SHARD_ROUTES, 4
    try:
        _history(steps)
    finally:
        module.SHARD_ROUTES = original


def _history(steps: list) -> None:
    broker, adj_rib_out, wanted, clock = Broker(), AdjRibOut(VPC), {}, 0
    for numbers, then in steps:
        now, clock = table(numbers), clock + 1
        adj_rib_out.put(diff(now, wanted))
        wanted = now
        if then == "restart":  # between a change and its pack, with what is retained as the only memory
            retained = broker.read().tables.get(VPC)
            adj_rib_out = AdjRibOut(VPC, retained)
            broker.advertised, broker.revision = adj_rib_out.routes(), adj_rib_out.revision
            adj_rib_out.put(diff(wanted, adj_rib_out.routes()))
        elif then == "empty":
            broker.retained.clear()
            adj_rib_out.compare(None)
        elif then == "forget":
            broker.retained = dict(list(broker.retained.items())[::2])
            adj_rib_out.compare(broker.read().tables.get(VPC))
        broker.receive(adj_rib_out.changes(clock))
        assert broker.advertised == wanted == adj_rib_out.routes()
        if then != "tell":
            broker.publish(adj_rib_out)
            assert adj_rib_out.idle
            assert (broker.joined() or {}) == wanted
            assert broker.publish(adj_rib_out) == 0, "it publishes again what is there"
            for topic, payload in broker.retained.items():
                if "table" in topic:
                    shard = decode(Shard, payload)
                    assert len(shard.routes) <= 4
                    assert shard.of == decode(Head, broker.retained["vpcs", adj_rib_out.vpc, "head"]).shards
            if not wanted:
                assert not broker.retained, "something is left of an empty table"


def test_one_change_rewrites_one_shard() -> None:
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    everything = table(dict.fromkeys(range(10_000), 1))
    adj_rib_out.put(Diff(everything, {}))
    broker.receive(adj_rib_out.changes(1))
    broker.publish(adj_rib_out)
    shards = len(broker.retained) - 1
    assert 40 <= shards <= 50, "256 routes a shard, and a quarter to spare at the most"
    adj_rib_out.put(Diff({route(77).network: route(77, 2)}, {}))
    broker.receive(adj_rib_out.changes(2))
    pack = adj_rib_out.pack()
    assert len(pack.shards) == 1


def test_an_advertised_route_is_not_advertised_again() -> None:
    adj_rib_out = AdjRibOut(VPC)
    adj_rib_out.put(Diff({route(1).network: route(1)}, {}))
    assert len(adj_rib_out.changes(1)) == 1
    adj_rib_out.put(Diff({route(1).network: route(1, 2)}, {}))
    adj_rib_out.put(Diff({route(1).network: route(1)}, {}))  # changed and reverted before it was published
    assert adj_rib_out.changes(2) == []


def test_a_large_change_is_cut_into_a_chain_and_sets_come_first() -> None:
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    old = table(dict.fromkeys(range(100), 1))
    adj_rib_out.put(Diff(old, {}))
    broker.receive(adj_rib_out.changes(5))
    new = table(dict.fromkeys(range(100, 5100), 1))
    adj_rib_out.put(Diff(new, old))
    messages = adj_rib_out.changes(5)
    assert len(messages) > 2
    assert [message.revision for message in messages] == list(range(6, 6 + len(messages)))
    assert not any(message.delete for message in messages[:-1])
    broker.receive(messages)
    assert broker.advertised == new


def test_a_table_that_was_wiped_begins_above_though_the_clock_was_set_back() -> None:
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    for clock, wanted in ((9000, table({1: 1, 2: 1})), (9001, {}), (5, table({1: 1}))):
        adj_rib_out.put(diff(wanted, broker.advertised), clock)
        pending = adj_rib_out.pending_revision
        broker.receive(adj_rib_out.changes(clock))
        assert adj_rib_out.revision == pending
        broker.publish(adj_rib_out)
        assert adj_rib_out.idle
    assert (broker.advertised, broker.revision) == (table({1: 1}), 9002)


@pytest.mark.parametrize("first", [pytest.param(True, id="before"), pytest.param(False, id="after")])
def test_a_pending_change_gets_a_revision_above_a_foreign_one(*, first: bool) -> None:
    """Another writer publishes a later revision before our change is pending, or meanwhile."""
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    adj_rib_out.put(Diff(table({1: 1}), {}), 1000)
    broker.receive(adj_rib_out.changes(1000))
    stray = Changes(5000, adj_rib_out.revision, (route(9),))
    if first:
        adj_rib_out.foreign_change(stray)
    adj_rib_out.put(Diff(table({2: 1}), {}), 1001)
    if not first:
        adj_rib_out.foreign_change(stray)
    pending = adj_rib_out.pending_revision
    ours, joining = adj_rib_out.changes(1002)
    assert pending == ours.revision == joining.revision == 5001
    assert (ours.previous, joining.previous) == (1000, 5000)
    assert joining.delete == (route(9).network,)


def test_a_chain_leaves_out_the_revisions_of_a_stranger() -> None:
    """A subscriber at one of them would take our next for its continuation."""
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    adj_rib_out.put(Diff(table({1: 1}), {}))
    broker.receive(adj_rib_out.changes(1000))
    adj_rib_out.foreign_change(Changes(1002, 1000, (route(9),)))
    adj_rib_out.put(Diff(table(dict.fromkeys(range(2, 5000), 1)), {}))
    messages = [message for message in adj_rib_out.changes(1000) if message.previous != 1002]
    assert len(messages) > 2
    assert min(message.revision for message in messages) > 1002
    broker.receive(messages)


def test_revisions_follow_the_clock_but_never_fall() -> None:
    adj_rib_out = AdjRibOut(VPC)
    revisions = []
    for number, clock in enumerate((1000, 2000, 500, 500, 3000)):
        adj_rib_out.put(Diff({route(number).network: route(number)}, {}))
        (message,) = adj_rib_out.changes(clock)
        revisions.append(message.revision)
    assert revisions == [1000, 2000, 2001, 2002, 3000]


@pytest.mark.usefixtures("small")
def test_shards_are_given_up_when_half_are_enough() -> None:
    shards = Shards()
    for number in range(80):
        shards.put(route(number))
    many = len(shards)
    for number in range(70):
        shards.remove(route(number).network)
    shards.tidy()
    assert len(shards) < many / 4
    assert {route.network for number in range(len(shards)) for route in shards.shard(number)} == set(shards)
    assert shards.dirty == set(range(len(shards)))


@pytest.mark.parametrize(
    ("topic", "payload", "missing"),
    [
        pytest.param(("head",), Head(1, 300, "0" * 16, 2), [(VPC, 0), (VPC, 1)], id="shards"),
        pytest.param(("table", "0"), Shard(1, 1, ()), [(VPC, None)], id="head"),
        pytest.param(("table", "1"), Shard(1, 2, ()), [(VPC, None), (VPC, 0)], id="head-and-a-shard"),
    ],
)
def test_what_a_broker_left_out_is_known(topic: tuple, payload: object, missing: list) -> None:
    retained = Retained()
    retained.add(("vpcs", "0000000004d2", *topic), encode(payload))
    assert list(retained.missing()) == missing


def test_a_shard_beyond_the_head_is_left_over_and_not_part_of_the_table() -> None:
    retained = Retained()
    messages = (Shard(9, 1, (route(1),)), Shard(10, 2, (route(1, 2), route(2))))
    for number, shard in enumerate(messages):
        retained.add(("vpcs", "0000000004d2", "table", str(number)), encode(shard))
    retained.add(("vpcs", "0000000004d2", "head"), encode(Head(11, 1, digest([route(1)]), 1)))
    found = retained.tables[VPC]
    assert found.routes() == table({1: 1})
    assert AdjRibOut(VPC, found).pack().clear == {1}


@pytest.mark.parametrize(
    ("wiped", "meanwhile", "shards"),
    [
        pytest.param(False, lambda shards: shards.overwritten(None, 0, cleared=True), {}, id="head-cleared"),
        pytest.param(False, lambda route: route.overwritten(None, 3, cleared=False), {}, id="head-old"),
        pytest.param(False, lambda route: route.overwritten(0, 0, cleared=True), {0}, id="shard-cleared"),
        pytest.param(False, lambda route: route.compare(None), {0}, id="another-broker"),
        pytest.param(
            True, lambda route: route.overwritten(None, 3, cleared=False), {}, id="head-of-no-table"
        ),
        pytest.param(True, lambda route: route.overwritten(0, 3, cleared=False), {}, id="shard-of-no-table"),
    ],
)
def test_what_others_write_while_it_is_packed_is_put_right(*, wiped: bool, meanwhile, shards) -> None:
    broker, adj_rib_out = Broker(), AdjRibOut(VPC)
    adj_rib_out.put(Diff(table({1: 1}), {}), 1000)
    broker.receive(adj_rib_out.changes(1000))
    if wiped:
        broker.publish(adj_rib_out)
        adj_rib_out.put(Diff({}, table({1: 1})), 1001)
        broker.receive(adj_rib_out.changes(1001))
    pack = adj_rib_out.pack()
    meanwhile(adj_rib_out)  # after it was published, before it is known to have been
    adj_rib_out.confirmed(pack)
    assert not adj_rib_out.packed
    again = adj_rib_out.pack()
    assert (again.shards.keys(), again.head, again.clear) == (set(shards), pack.head, pack.clear)
    adj_rib_out.confirmed(again)
    assert adj_rib_out.idle


async def test_a_router_remembers_the_revisions_of_tables_that_are_no_more(until) -> None:
    """The Adj-RIB-Out of a VPC goes with its last route; its subscribers may still be there."""
    broker, clock = MemoryBroker(), [9000]
    metrics = RouterMetrics(CollectorRegistry())
    publisher = Publisher(broker.session(), metrics)
    fanout = Fanout(publisher, Topics("g"), metrics, now=lambda: clock[0], pack_seconds=0)
    publisher.set_gate(True)
    running = asyncio.create_task(fanout.run())
    try:
        for changed in (Diff(table({1: 1}), {}), Diff({}, table({1: 1})), Diff(table({1: 1}), {})):
            await until(lambda: fanout._tasks is not None)
            fanout.enqueue({VPC: changed})
            await until(lambda: fanout.idle)
            if not changed.set:
                assert fanout.vpcs == frozenset()
                clock[0] = 5
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    changes = [
        decode(Changes, payload) for topic, payload, _ in broker.published if topic.endswith("changes")
    ]
    assert [(route.previous, route.revision) for route in changes] == [(0, 9000), (9000, 9001), (0, 9002)]

"""A table read over a channel that loses, repeats and reorders: never wrong, and right in the end."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.messages import Changes, Head, Route, Shard, digest
from galactic.node.mqtt.replica import MENDING_SECONDS, PATIENCE, SPREAD_SECONDS, TableReplica
from galactic.node.state.remote import entry


def route(network: int, epoch: int = 1) -> Route:
    return Route(
        f"10.0.0.{network}/32", (f"2001:db8::1:{network:x}",), "default", "node-1", f"{network:04x}", epoch
    )


@dataclass
class Router:
    """Publishes as the router does: a change at once, shards and head later; equal shards keep their revision. An empty
    table is wiped, and what comes then continues revision 0.
    """

    shards: int = 2
    revision: int = 10
    routes: dict[str, Route] = field(default_factory=dict)
    history: dict[int, dict[str, Route]] = field(default_factory=dict)
    retained: dict[object, object] = field(default_factory=dict)
    wipes: bool = False
    wiped: bool = False

    def change(self, network: int, epoch: int | None) -> Changes:
        previous, self.revision = 0 if self.wiped else self.revision, self.revision + 3
        self.wiped = False
        text = route(network).network
        if epoch is None:
            self.routes.pop(text, None)
            changes = Changes(self.revision, previous, delete=(text,))
        else:
            self.routes[text] = route(network, epoch)
            changes = Changes(self.revision, previous, set=(self.routes[text],))
        self.history[self.revision] = dict(self.routes)
        return changes

    def snapshot(self) -> list[tuple[object, object]]:
        """The messages of the packed table: the shards that differ, then the head."""
        self.history[self.revision] = dict(self.routes)
        sent: list[tuple[object, object]] = []
        if not self.routes and self.wipes:
            self.retained.clear()
            self.wiped, self.history[0] = True, {}
            return [("head", None)]
        for number in range(self.shards):
            members = tuple(
                item for item in self.routes.values() if int(item.function, 16) % self.shards == number
            )
            old = self.retained.get(number)
            if not isinstance(old, Shard) or old.routes != members:
                sent.append((number, Shard(self.revision, self.shards, members)))
        sent.append(
            ("head", Head(self.revision, len(self.routes), digest(self.routes.values()), self.shards))
        )
        self.retained.update(dict(sent))
        return sent


def packed(routes: dict[str, Route]):
    return dict(entry(1, "default", item) for item in routes.values())


def receive(table: TableReplica, kind: object, message: object, now: float) -> bool:
    match message:
        case Head() | None:
            return table.receive_head(message, now)
        case Shard():
            assert isinstance(kind, int)
            return table.receive_shard(kind, message, now)
        case Changes():
            return table.receive_changes(message, now)
    raise AssertionError(message)


def follow(published, table: TableReplica):
    """The table of a reader that gets the changes alone."""
    before = table.drain_before()
    if before is None:
        return dict(table.routes)
    for network, known in before.items():
        assert published.pop(network, None) == known
        if network in table.routes:
            published[network] = table.routes[network]
    return published


def read(table: TableReplica, router: Router, now: float = 0.0) -> None:
    for kind, message in router.retained.items():
        receive(table, kind, message, now)


def test_a_snapshot_then_changes():
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    read(table, router)
    assert (table.routes, table.revision) == (packed(router.routes), router.revision)
    assert table.receive_changes(router.change(2, 1), 1.0)
    assert table.routes == packed(router.routes)
    assert table.receive_changes(router.change(1, None), 1.0)
    assert table.routes == packed(router.routes)
    for kind, message in router.snapshot():
        assert not receive(table, kind, message, 1.5)
    assert not table.overdue(1000.0)


def test_shards_that_come_before_their_head_are_kept():
    """No change message at all: a node that only ever sees snapshots follows them without reading again."""
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    router.change(1, 1)
    router.change(2, 1)
    for kind, message in router.snapshot():
        receive(table, kind, message, 1.0)
    assert table.routes == packed(router.routes)
    assert not table.overdue(1000.0)


def test_an_incomplete_snapshot_replaces_nothing():
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    read(table, router)
    before = dict(table.routes)
    router.change(2, 1)
    router.change(3, 1)
    head = dict(router.snapshot())["head"]
    assert isinstance(head, Head)
    assert not table.receive_head(head, 1.0)
    assert table.routes == before
    assert not table.overdue(1.0 + PATIENCE / 2)
    assert table.overdue(1.0 + PATIENCE)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda head: Head(head.revision, head.count, "0" * 16, head.shards), id="digest"),
        pytest.param(lambda head: Head(head.revision, head.count + 1, head.digest, head.shards), id="count"),
        pytest.param(lambda head: Head(head.revision, head.count, head.digest, head.shards + 1), id="shards"),
    ],
)
def test_a_head_that_does_not_add_up_is_doubted(wrong):
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    messages = dict(router.snapshot())
    head = messages.pop("head")
    for kind, message in messages.items():
        receive(table, kind, message, 0.0)
    assert not table.receive_head(wrong(head), 0.0)
    assert not table.complete
    assert table.overdue(PATIENCE)


def test_a_change_whose_predecessor_was_lost_waits_and_is_then_caught_up():
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    router.change(1, 1)  # lost
    assert not table.receive_changes(router.change(2, 1), 1.0)
    assert table.routes == {}
    assert table.overdue(1.0 + PATIENCE)
    router.snapshot()
    table.reread(5.0)
    read(table, router, 5.0)
    assert table.routes == packed(router.routes)
    assert not table.overdue(1000.0)


def test_a_broker_that_forgot_everything_is_followed_in_the_end():
    """A router without memory may start again at a lower revision."""
    router, table = Router(revision=1000), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    read(table, router)
    fresh = Router(revision=5)
    fresh.change(2, 1)
    fresh.snapshot()
    read(table, fresh, 1.0)
    assert table.routes == packed(router.routes)
    now = 1.0
    while table.routes != packed(fresh.routes):
        now += 0.5
        assert now < 30.0
        if table.overdue(now):
            table.reread(now)
            read(table, fresh, now)
    assert not table.overdue(1000.0)


def waits(table: TableReplica, now: float, times: int, between=lambda: None) -> list[float]:
    """The pauses between so many readings; ``between`` is what each of them brings."""
    steps = []
    for _ in range(times):
        start = now
        while not table.overdue(now):
            now += 1.0
        steps.append(now - start)
        table.reread(now)
        between()
    return steps


def test_rereading_waits_longer_each_time():
    table, router = TableReplica(1, "default", 0.0), Router()

    def news() -> None:
        router.change(1, router.revision)
        shards = [shard for shard in router.snapshot() if shard[0] != "head"]  # never the head
        for kind, message in shards:
            receive(table, kind, message, 0.0)

    assert waits(table, 0.0, 8, news) == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0, 60.0]


def test_a_table_that_stays_broken_is_read_ever_less_often_until_a_publish():
    """A head that does not fit its shards, and no router that mends it."""
    router, table = Router(), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    router.retained["head"] = Head(router.revision, 7, "0" * 16, 2)
    steps = waits(table, 0.0, 14, lambda: read(table, router))
    assert steps[5:8] == [96.0, 192.0, 384.0]
    assert steps[-1] == 3600.0
    router.change(2, 1)
    head = dict(router.snapshot())["head"]
    now = sum(steps)
    receive(table, "head", head, now)  # its other shard was published before we were there
    assert not table.overdue(now)
    assert table.overdue(now + PATIENCE)


def test_a_table_that_was_wiped_and_begins_again():
    router, table, behind = Router(shards=1), TableReplica(1, "default", 0.0), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    read(table, router)
    read(behind, router)
    table.receive_changes(router.change(1, None), 1.0)  # the other one misses it
    table.receive_head(None, 1.0)
    behind.receive_head(None, 1.0)
    assert table.settled
    assert not table.routes
    assert behind.routes, "a cleared head alone withdraws nothing"

    again = Router(shards=1, revision=0)
    again.history[0] = {}
    again.revision = router.revision + 1000
    first = again.change(2, 1)
    first = Changes(first.revision, 0, first.set)
    assert table.receive_changes(first, 2.0), "nothing is what it had"
    assert table.routes == packed(again.routes)
    assert not behind.receive_changes(first, 2.0)
    for kind, message in again.snapshot():
        receive(behind, kind, message, 2.1)
        receive(table, kind, message, 2.1)
    assert behind.routes == table.routes == packed(again.routes)
    assert behind.settled
    assert table.settled


@pytest.mark.parametrize(
    "after", [pytest.param(False, id="change-lost"), pytest.param(True, id="change-late")]
)
def test_a_table_that_was_wiped_while_we_have_routes_is_doubted(after):
    router, table = Router(shards=1, wipes=True), TableReplica(1, "default", 0.0)
    router.change(1, 1)
    router.snapshot()
    read(table, router)
    assert table.settled
    last = router.change(1, None)
    ((kind, head),) = router.snapshot()
    assert not receive(table, kind, head, 1.0)
    assert table.routes, "a cleared topic withdraws no routes"
    assert not table.settled
    assert table.overdue(1.0 + PATIENCE)
    if after:
        assert table.receive_changes(last, 1.5)
        assert not table.routes
        assert table.settled
    else:
        table.reread(5.0)
        assert table.routes
        assert not table.settled


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(1, 6), st.one_of(st.none(), st.integers(1, 3))),
        st.tuples(st.just("snapshot"), st.just(0), st.none()),
    ),
    max_size=25,
)


def come_to_rest(table: TableReplica, router: Router, now: float) -> None:
    """Nothing more happens: in the end it is right, or at least in doubt where the last change was lost."""
    if router.wiped:
        receive(table, "head", None, now)
        assert not table.routes or not table.settled, "it must know that it missed something"
        return
    while table.overdue(now) or table.revision != router.revision:
        now += 1.0
        assert now < 1000, "it must notice by itself that it missed something"
        if table.overdue(now):
            table.reread(now)
            read(table, router, now)
        elif router.retained:  # the router repeats its head now and then
            receive(table, "head", router.retained["head"], now)
    assert table.routes == packed(router.routes)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.randoms(use_true_random=False), st.integers(1, 3), st.booleans())
def test_whatever_the_channel_does_the_table_is_one_that_was_published(steps, random, shards, wipes):
    router, table = Router(shards=shards, wipes=wipes), TableReplica(1, "default", 0.0)
    under_way: list[tuple[object, object]] = list(router.snapshot())
    now, published = 0.0, {}
    for action, network, epoch in [*steps, ("snapshot", 0, None)]:
        if action == "change":
            under_way.append(("changes", router.change(network, epoch)))
        else:
            under_way += router.snapshot()
        while under_way and random.random() < 0.7:
            now += 0.01
            position = random.randrange(min(3, len(under_way)))
            kind, message = under_way[position]
            if random.random() < 0.8:
                del under_way[position]  # else it will be repeated
            if random.random() < 0.7:
                receive(table, kind, message, now)
            if table.revision is not None:
                assert table.routes == packed(router.history[table.revision])
            published = follow(published, table)
            assert published == table.routes, "a reader of the changes has the same table"
    come_to_rest(table, router, now)


# -- a broker that takes its time --------------------------------------------------------------------------------------


def large(shards: int, revision: int = 7) -> tuple[Head, dict[int, Shard]]:
    """A table of one route a shard."""
    routes = [
        Route(
            f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32",
            (f"2001:db8::1:{n + 1:x}",),
            "default",
            "n",
            "0001",
            n,
        )
        for n in range(shards)
    ]
    parts = {number: Shard(revision, shards, (item,)) for number, item in enumerate(routes)}
    return Head(revision, shards, digest(routes), shards), parts


@dataclass
class Broker:
    """Sends one message every ``pace`` seconds, of a queue; requests append to it. ``lost``: shards it drops once."""

    head: Head
    shards: dict[int, Shard]
    pace: float
    lost: set[int] = field(default_factory=set)
    queue: list[object] = field(default_factory=list)
    sent: list[object] = field(default_factory=list)

    def request(self, missing: tuple[int, ...] | None) -> None:
        self.queue += ["head", *(self.shards if missing is None else missing)]

    def run(self, table: TableReplica, seconds: float) -> float:
        """Runs until the table is settled; returns the time."""
        self.request(None)
        now, next_at = 0.0, self.pace
        while not table.settled:
            now += 0.5
            assert now < seconds, f"{len(self.sent)} messages, {len(self.queue)} queued"
            while self.queue and next_at <= now:
                kind = self.queue.pop(0)
                if kind in self.lost:
                    self.lost.discard(kind)
                    continue
                next_at += self.pace
                self.sent.append(kind)
                receive(table, kind, self.head if kind == "head" else self.shards[kind], now)
            next_at = max(next_at, now)
            if table.overdue(now):
                self.request(table.reread(now))
        return now


def test_a_table_that_takes_ten_minutes_is_read_once():
    """Each shard is progress, so nothing is requested again."""
    broker = Broker(*large(300), pace=2.0)
    took = broker.run(TableReplica(1, "default", 0.0), 700.0)
    assert 590 < took < 620
    assert broker.sent == ["head", *range(300)]
    assert broker.queue == []


def test_a_first_table_may_take_a_while():
    head, parts = large(30)
    table = TableReplica(1, "default", 0.0)
    table.receive_head(head, 0.0)
    waited = []
    for number, part in parts.items():
        now = float(number)
        waited.append(table.mending(now))
        table.receive_shard(number, part, now)
    assert waited == [second < MENDING_SECONDS for second in range(30)]
    assert not table.mending(30.0), "it has come"


def test_a_table_in_doubt_may_take_a_while():
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    router.change(1, 1)
    table.receive_changes(router.change(2, 1), 100.0)  # the one before was lost
    table.receive_changes(router.change(3, 1), 110.0)
    assert table.mending(100.0 + MENDING_SECONDS - 1)
    assert not table.mending(100.0 + MENDING_SECONDS)
    router.snapshot()
    read(table, router, 120.0)
    table.restart(200.0)
    assert table.mending(200.0 + MENDING_SECONDS - 1)
    assert not table.mending(200.0 + MENDING_SECONDS)


def test_a_pause_longer_than_the_patience_does_not_lose_what_has_arrived():
    """A shard in 10 s: a few are requested twice, until the patience has grown, and never all of them."""
    broker = Broker(*large(60), pace=10.0)
    broker.run(TableReplica(1, "default", 0.0), 3000.0)
    assert len(broker.sent) <= 4 * 61


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 250),
    st.floats(0.01, 2.5),
    st.sets(st.integers(0, 249)),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_nothing_that_arrived_is_requested_again(shards, pace, lost, headless, random):
    head, parts = large(shards)
    lost = {number for number in lost if number < shards}
    broker = Broker(head, parts, pace, {*lost, *(["head"] if headless else [])})
    table = TableReplica(1, "default", 0.0, random.random)
    broker.run(table, 10_000.0)
    assert table.routes == packed({item.network: item for part in parts.values() for item in part.routes})
    counts = {number: broker.sent.count(number) for number in range(shards)}
    if len(lost) < shards:
        assert {*counts.values()} == {1}
    else:  # nothing arrived that shows which shard is missing
        assert max(counts.values()) <= 2


def test_under_constant_change_a_table_is_not_read_again():
    """The head is always behind the changes, and confirms an earlier revision each time."""
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    table.end_reading()
    now = 0.0
    for number in range(400):
        now += 0.25
        change = router.change(number % 6 + 1, number + 1)
        head = next(message for kind, message in router.snapshot() if kind == "head")
        assert isinstance(head, Head)
        table.receive_changes(change, now)
        assert table.receive_changes(router.change(1, number + 1), now)
        table.receive_head(head, now)  # of the revision before
        assert not table.overdue(now)
        assert (table.settled, table.consistent) == (False, True)
    router.snapshot()
    receive(table, "head", router.retained["head"], now)
    assert table.settled


def test_a_table_that_was_read_again_under_constant_change_is_consistent():
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    router.change(5, 1)  # lost
    table.receive_changes(router.change(6, 1), 1.0)
    assert table.overdue(1.0 + PATIENCE)
    assert table.reread(1.0 + PATIENCE) is None
    router.snapshot()
    now = 1.0 + PATIENCE
    later = router.change(1, 1)  # comes before what was requested
    table.receive_changes(later, now)
    read(table, router, now)
    assert not table.settled
    for number in range(3):
        router.snapshot()
        table.receive_changes(router.change(2, number + 1), now)
        receive(table, "head", router.retained["head"], now)
    assert (table.settled, table.consistent) == (False, True)


def test_a_table_whose_head_does_not_follow_is_not_consistent_in_the_end():
    """A router that publishes changes, and never the table that they lead to."""
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    table.end_reading()
    table.receive_changes(router.change(1, 1), 1.0)
    assert table.consistent
    assert table.overdue(1.0 + PATIENCE)
    table.reread(1.0 + PATIENCE)
    read(table, router, 1.0 + PATIENCE)
    assert not table.consistent


def test_a_table_that_missed_a_change_is_not_consistent():
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    router.change(1, 1)
    later = router.change(2, 1)
    table.receive_changes(later, 1.0)
    assert not table.consistent
    missed = TableReplica(1, "default", 0.0)
    read(missed, router)
    router.snapshot()
    receive(missed, "head", router.retained["head"], 1.0)
    assert not missed.consistent


def test_a_head_that_contradicts_constant_changes_is_noticed():
    router, table = Router(shards=1), TableReplica(1, "default", 0.0)
    router.snapshot()
    read(table, router)
    table.end_reading()
    now = 0.0
    while not table.overdue(now):
        now += 0.25
        assert now < 2 * PATIENCE
        table.receive_changes(router.change(1, int(now * 4)), now)
        table.receive_changes(router.change(2, int(now * 4)), now)
        table.receive_head(Head(router.revision - 3, 2, "0" * 16, 1), now)
        assert not table.consistent
    assert table.reread(now) is None


def test_clients_that_a_restart_made_read_begin_at_different_times():
    times = []
    for number in range(100):
        head, parts = large(3)
        table = TableReplica(1, "default", 0.0, lambda n=number: n / 100)
        for part_number, part in parts.items():
            table.receive_shard(part_number, part, 0.0)
        table.receive_head(head, 0.0)
        assert table.settled
        table.end_reading()
        table.restart(100.0)
        table.receive_head(large(4, 8)[0], 100.0)
        now = 100.0
        while not table.overdue(now):
            now += 0.01
        assert table.reread(now) is None
        times.append(now - 100.0)
    assert max(times) <= SPREAD_SECONDS
    assert all(sum(start <= time < start + 0.2 for time in times) <= 15 for start in (0.0, 0.4, 1.0, 1.8))

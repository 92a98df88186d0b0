"""The database follows the table: history, fencing, and PostgreSQL or the router killed and stopped at any moment."""

import asyncio
import os
import random
from datetime import UTC, datetime

import pytest
from database_world import (
    HORIZON,
    RecordedPlane,
    endpoint,
    history_writer,
    recorded,
    recorded_endpoints,
    rows,
    running,
    sample,
    upgrade,
)

from galactic.router.database.backlog import HistoryEntry, NetworkOwner, VpcNetwork
from galactic.router.database.session import session
from galactic.router.database.transactions import BatchId, Leader, Outdated, TableState, compare, write

PERIODS = (
    "SELECT network::text, node, lower(during) < coalesce(upper(during), 'infinity'), upper_inf(during), "
    "began_exactly, ended_exactly FROM galactic.period ORDER BY network, lower(during)"
)


async def test_a_move_ends_one_period_and_begins_the_next(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        await until(lambda: writer.idle)
        plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=1))
        await until(lambda: writer.idle)
        plane.register(2, endpoint(2, 1, "10.1.1.1/32", epoch=2))
        plane.register(1)
        plane.register(2)
        plane.register(2, endpoint(2, 1, "10.1.1.1/32", epoch=3))
        await until(lambda: writer.idle)
        assert writer.problems[-1] is None
    assert rows(url, PERIODS) == [
        ("10.1.1.1/32", "n1", True, False, True, True),
        ("10.1.1.1/32", "n2", True, False, True, True),
        ("10.1.1.1/32", "n2", True, True, True, True),
    ]
    ((ended, began),) = rows(
        url,
        "SELECT a.during -|- b.during, b.attachment FROM galactic.period a, galactic.period b "
        "WHERE a.node = 'n1' AND b.id = a.id + 1",
    )
    assert (ended, began) == (True, "ns/a1")
    assert recorded_endpoints(url) == plane.endpoints()
    assert sample(writer, "lag_items") == sample(writer, "lag_seconds") == 0


async def test_after_an_outage_of_postgres_history_is_written_in_order_and_once(own_server, until) -> None:
    url, plane = own_server.url(), RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        await until(lambda: writer.idle)
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
        own_server.kill()
        for epoch in range(2, 50):
            plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=epoch))
        await until(lambda: sample(writer, "failures_total", reason="Unreachable") >= 2)
        assert writer.problems[-1]
        assert sample(writer, "lag_items") >= 48
        assert sample(writer, "lag_seconds") > 0
        own_server.start()
        await until(lambda: writer.idle)
        assert writer.problems[-1] is None
    epochs = [epoch for (epoch,) in rows(url, "SELECT epoch FROM galactic.period ORDER BY lower(during)")]
    assert epochs == list(range(1, 50)), "nothing lost, nothing doubled, in order"
    assert rows(url, "SELECT count(*) FROM galactic.period WHERE NOT (began_exactly AND ended_exactly)") == [
        (0,)
    ]
    assert sample(writer, "lost_items_total") == 0


async def test_the_backlog_is_bounded_and_the_state_is_right(own_server, until) -> None:
    url, plane = own_server.url(), RecordedPlane()
    async with running(history_writer(url, plane, backlog=10)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
        own_server.kill()
        for epoch in range(2, 50):
            plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=epoch))
        assert writer._backlog.items <= 10
        own_server.start()
        await until(lambda: writer.idle)
    assert recorded(url) == plane.table()
    assert sample(writer, "lost_items_total") > 0
    *_, (began_exactly, began_after, after) = rows(
        url, "SELECT began_exactly, began_after, lower(during) FROM galactic.period ORDER BY lower(during)"
    )
    assert not began_exactly
    assert began_after < after


async def test_a_killed_router_writes_the_difference_and_marks_the_gap(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(
            1, endpoint(1, 1, "10.1.1.1/32"), endpoint(1, 2, "10.1.1.2/32"), endpoint(1, 3, "10.1.1.3/32")
        )
        await until(lambda: writer.idle)
    plane.followers.clear()
    plane.register(1, endpoint(1, 2, "10.1.1.2/32"), endpoint(1, 3, "10.1.1.3/32", epoch=2))
    async with running(history_writer(url, plane, "s"), term=2) as writer:
        await until(lambda: writer.idle)
        assert sample(writer, "corrections_total") == 2
    assert recorded(url) == plane.table()
    assert recorded_endpoints(url) == plane.endpoints()
    rows_found = [(network, *row[2:]) for network, *row in rows(url, PERIODS)]
    assert rows_found == [
        ("10.1.1.1/32", False, False, False),
        ("10.1.1.2/32", True, False, True),
        ("10.1.1.3/32", False, False, False),
        ("10.1.1.3/32", True, False, True),
    ]


async def test_a_starting_router_changes_no_correct_entry(url, until) -> None:
    plane = RecordedPlane()
    chance = random.Random(1)
    async with running(history_writer(url, plane)) as writer:
        for _ in range(50):
            plane.step(chance)
        await until(lambda: writer.idle)
    before = rows(url, "SELECT * FROM galactic.period ORDER BY id")
    endpoints = rows(url, "SELECT * FROM galactic.endpoint ORDER BY 1, 2, 3")
    async with running(history_writer(url, plane, "s"), term=2) as writer:
        await until(lambda: writer.idle)
    assert rows(url, "SELECT * FROM galactic.period ORDER BY id") == before
    assert rows(url, "SELECT * FROM galactic.endpoint ORDER BY 1, 2, 3") == endpoints


@pytest.mark.parametrize("term", [pytest.param(1, id="lower-term"), pytest.param(2, id="same-term")])
async def test_a_deposed_leader_does_not_write(url, until, term: int) -> None:
    plane, other = RecordedPlane(), RecordedPlane()
    async with running(history_writer(url, plane, "old"), term=term) as old:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: old.idle)
        other.register(2, endpoint(2, 1, "10.1.1.1/32", epoch=2))
        if term == 2:
            rows(url, "UPDATE galactic.writer SET leader = 'zz-new' RETURNING 1")
        else:
            async with running(history_writer(url, other, "new"), term=2) as new:
                await until(lambda: new.idle)
        before = rows(url, "SELECT * FROM galactic.period ORDER BY id")
        plane.register(1, endpoint(1, 1, "10.1.1.7/32"))
        await until(lambda: sample(old, "failures_total", reason="Deposed") >= 2)
        assert "new" in old.problems[-1]
        assert rows(url, "SELECT * FROM galactic.period ORDER BY id") == before
        old.lead(3)
        await until(lambda: old.idle)
    assert recorded(url) == plane.table()


async def test_a_restored_older_database_is_corrected(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
        rows(
            url,
            "WITH gone AS (DELETE FROM galactic.period), noted AS (DELETE FROM galactic.endpoint) "
            "UPDATE galactic.writer SET sequence = 0 RETURNING 1",
        )
        plane.register(2, endpoint(2, 2, "10.1.1.2/32"))
        await until(lambda: writer.idle)
        await until(lambda: sample(writer, "comparisons_total") > 1 and writer.idle)
    assert recorded(url) == plane.table()
    assert recorded_endpoints(url) == plane.endpoints()


async def test_a_server_without_answers_delays_no_route(own_server, until) -> None:
    url, plane = own_server.url(), RecordedPlane()
    async with running(history_writer(url, plane, transaction=2.0)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
        own_server.pause()
        try:
            for epoch in range(2, 30):
                plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=epoch))
                await asyncio.sleep(0)
            await until(lambda: sample(writer, "failures_total", reason="Unreachable") >= 1)
        finally:
            own_server.resume()
        await until(lambda: writer.idle)
    epochs = [epoch for (epoch,) in rows(url, "SELECT epoch FROM galactic.period ORDER BY lower(during)")]
    assert epochs == list(range(1, 30)), (
        "what the stopped server had under way is neither lost nor written twice"
    )


async def test_the_clock_of_the_previous_router_was_ahead(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
    rows(
        url,
        "WITH moved AS (UPDATE galactic.period SET during = tstzrange(now() + interval '1 hour', NULL)) "
        "UPDATE galactic.writer SET moment = now() + interval '1 hour' RETURNING 1",
    )
    async with running(history_writer(url, plane, "s"), term=2) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=2))
        plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=3))
        await until(lambda: writer.idle)
        plane.register(1)
        await until(lambda: writer.idle)
        assert writer.problems[-1] is None
    assert recorded(url) == set()
    epochs = rows(url, "SELECT epoch FROM galactic.period ORDER BY lower(during)")
    assert (epochs[0], epochs[-1]) == ((1,), (3,))


async def test_names_invalid_in_postgres_stop_no_others(url, until) -> None:
    plane = RecordedPlane()
    odd = endpoint(1, 1, "10.1.1.1/32")
    odd = type(odd)(odd.vpc, odd.function, "a\0b\N{SNOWMAN}", odd.sid, odd.networks, odd.epoch)
    async with running(history_writer(url, plane)) as writer:
        await until(lambda: writer.idle)
        plane.register(1, odd)
        await until(lambda: writer.idle)
    async with running(history_writer(url, plane, "s"), term=2) as writer:
        await until(lambda: writer.idle)
        assert sample(writer, "corrections_total") == 0
    assert rows(url, "SELECT attachment FROM galactic.endpoint") == [
        ("a\N{REPLACEMENT CHARACTER}b\N{SNOWMAN}",)
    ]


@pytest.mark.parametrize("seed", [int(s) for s in os.environ.get("GALACTIC_SEEDS", "1 2 3").split()])
async def test_kill_9_at_any_moment(own_server, until, seed: int) -> None:
    """Router and PostgreSQL are killed, and PostgreSQL stopped, at random; the database ends equal to the table."""
    chance, url, plane, term = random.Random(seed), own_server.url(), RecordedPlane(), 0
    for _ in range(4):
        term += 1
        plane.followers.clear()
        async with running(history_writer(url, plane, f"r{term}", transaction=2.0), term=term) as writer:
            for _ in range(chance.randint(1, 25)):
                plane.step(chance)
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.05)))
                what = chance.random()
                if what < 0.08:
                    own_server.kill()
                    plane.step(chance)
                    own_server.start()
                elif what < 0.12:
                    own_server.pause()
                    plane.step(chance)
                    await asyncio.sleep(chance.choice((0.01, 2.5)))
                    own_server.resume()
            if chance.random() < 0.5:
                await until(lambda: writer.idle)
                assert recorded(url) == plane.table()
        if chance.random() < 0.5:
            plane.step(chance)
    plane.followers.clear()
    async with running(history_writer(url, plane, "last"), term=term + 1) as writer:
        await until(lambda: writer.idle)
        assert plane.store.commit(HORIZON).routes == {}
    assert recorded(url) == plane.table()
    assert recorded_endpoints(url) == plane.endpoints()
    overlapping = (
        "SELECT count(*) FROM galactic.period a, galactic.period b "
        "WHERE a.id < b.id AND a.vpc = b.vpc AND a.network = b.network AND a.during && b.during"
    )
    assert rows(url, overlapping) == [(0,)]


async def test_a_committed_batch_is_not_written_again(url) -> None:
    """As after a connection that broke between COMMIT and its answer."""
    await upgrade(url)
    at = datetime.now(UTC)
    own = Leader(1, "r")
    first, second, fourth = (BatchId(own, sequence) for sequence in (1, 2, 4))
    owner = NetworkOwner("default", 1, "n1", "ns/a1", "2001:db8::1", 1)
    entries = [HistoryEntry(at, {VpcNetwork(1, "10.1.1.1/32"): owner}, {})]
    async with session(url) as database:
        await database.do(compare(database.connection, first, TableState({}, {}, at), lambda _: 1))
        for _ in range(3):
            await database.do(write(database.connection, second, entries, lambda _: 1))
        with pytest.raises(Outdated):
            await database.do(write(database.connection, fourth, entries, lambda _: 1))
    assert rows(url, "SELECT count(*), count(*) FILTER (WHERE upper_inf(during)) FROM galactic.period") == [
        (1, 1)
    ]

"""Usage is added once: messages twice, late, of a deposed router, over restarts and while the database is away."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from database_world import RecordedPlane, endpoint, history_writer, rows, running, upgrade
from prometheus_client import CollectorRegistry

from galactic.errors import Rejected
from galactic.messages import MIN_PAYLOAD, NodeUsage, UsageEntry, encode
from galactic.names import function_hex, vpc_hex
from galactic.router.database import usage as module
from galactic.router.database.history_writer import HistorySettings
from galactic.router.database.metrics import UsageMetrics
from galactic.router.database.retention import COUNTER_DAYS, delete_old_usage
from galactic.router.database.session import session
from galactic.router.database.transactions import Deposed, Leader
from galactic.router.database.usage import UsageMessages, UsageWriter
from galactic.router.database.usage_transactions import LARGEST, Sample, add, report
from galactic.router.rib.path import NodeRef

VPC = 0x4D2
TODAY = date(2026, 11, 29)
LEADER = Leader(5, "r")
TOTALS = (
    "SELECT attachment, seconds, sent_bytes, sent_packets, received_bytes, received_packets FROM galactic.usage"
    " ORDER BY day, attachment"
)


def sample(
    function: int = 1, *, node: str = "n1", ledger: str = "l1", epoch: int = 1, times: int = 1
) -> Sample:
    counted = (60, 1000, 10, 2000, 20)
    return Sample(
        "default", node, ledger, VPC, function, epoch, "ns/blue", *(number * times for number in counted)
    )


@pytest.fixture
async def recorded(url, until) -> str:
    """A database in which routers have recorded the attachments 1 and 2 on node n1."""
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"), endpoint(1, 2, "10.1.1.2/32"))
        await until(lambda: writer.idle)
    return url


async def added(url: str, *samples: Sample, day: date = TODAY, leader: Leader = LEADER) -> int:
    async with session(url) as database:
        return await database.do(add(database.connection, leader, day, samples))


async def test_only_the_difference_is_added(recorded) -> None:
    for times in (1, 1, 3, 2, 3):  # again, more, one that is late, again
        assert await added(recorded, sample(times=times)) == 1
    assert rows(recorded, TOTALS) == [("ns/a1", 180, 3000, 30, 6000, 60)]


async def test_a_ledger_that_begins_again_adds_to_what_there_is(recorded) -> None:
    await added(recorded, sample(times=3))
    await added(recorded, sample(ledger="l2"))
    assert rows(recorded, TOTALS) == [("ns/a1", 240, 4000, 40, 8000, 80)]


async def test_a_day_has_what_came_on_it(recorded) -> None:
    await added(recorded, sample(times=1))
    await added(recorded, sample(times=3), day=TODAY + timedelta(days=1))
    assert rows(recorded, TOTALS) == [("ns/a1", 60, 1000, 10, 2000, 20), ("ns/a1", 120, 2000, 20, 4000, 40)]


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param(sample(3), id="attachment"),
        pytest.param(sample(node="n2"), id="node"),
        pytest.param(sample(epoch=2), id="epoch"),
        pytest.param(sample()._replace(vpc=VPC + 1), id="vpc"),
        pytest.param(sample()._replace(cluster="west"), id="cluster"),
    ],
)
async def test_what_no_router_recorded_on_that_node_counts_for_nothing(recorded, claimed: Sample) -> None:
    assert await added(recorded, claimed, sample(2)) == 1
    assert [row[0] for row in rows(recorded, TOTALS)] == ["ns/a2"]


async def test_a_deposed_router_adds_nothing(recorded) -> None:
    rows(recorded, "UPDATE galactic.writer SET term = 6, leader = 'z' RETURNING 1")
    with pytest.raises(Deposed):
        await added(recorded, sample())
    assert rows(recorded, TOTALS) == []


async def test_two_routers_at_once_add_once(recorded) -> None:
    await asyncio.gather(*(added(recorded, sample(), sample(2)) for _ in range(8)))
    assert rows(recorded, TOTALS) == [(name, 60, 1000, 10, 2000, 20) for name in ("ns/a1", "ns/a2")]


async def test_the_largest_numbers_fit(recorded) -> None:
    huge = sample()._replace(sent_bytes=LARGEST, seconds=LARGEST)
    assert await added(recorded, huge) == 1
    async with session(recorded) as database:
        (row,) = await database.do(report(database.connection, TODAY, TODAY + timedelta(days=1)))
    assert row.sent_bytes == LARGEST


async def test_the_report_is_by_vpc_or_by_attachment_and_of_these_days(recorded) -> None:
    await added(recorded, sample(times=2), sample(2))
    await added(recorded, sample(2, times=4), day=TODAY + timedelta(days=2))  # Decemeber
    async with session(recorded) as database:
        first, end = date(2026, 11, 1), date(2026, 12, 1)
        (vpc,) = await database.do(report(database.connection, first, end))
        listed = await database.do(report(database.connection, first, end, by_attachment=True))
    assert (vpc.vpc, vpc.vpc_name, vpc.attachments, vpc.seconds) == (VPC, "ns/blue", 2, 180)
    assert (vpc.sent_bytes, vpc.received_packets) == (3000, 60)
    assert [(row.attachment, row.cluster, row.sent_bytes) for row in listed] == [
        ("ns/a1", "default", 2000),
        ("ns/a2", "default", 1000),
    ]


async def test_old_days_and_sums_of_nodes_that_are_no_more_go(recorded) -> None:
    today = datetime.now(UTC).date()
    await added(recorded, sample(), day=today - timedelta(days=40))
    await added(recorded, sample(2), day=today)
    async with session(recorded) as database:
        assert await database.do(delete_old_usage(database.connection, 0)) == 0
        assert await database.do(delete_old_usage(database.connection, 30)) == 1
        old = "UPDATE galactic.usage_counter SET seen = now() - make_interval(days => %s) RETURNING 1"
        rows(recorded, old, COUNTER_DAYS + 1)
        assert await database.do(delete_old_usage(database.connection, 30)) == 2
    assert [row[0] for row in rows(recorded, TOTALS)] == ["ns/a2"]


# -- the task ----------------------------------------------------------------------------------------------------------

NODE = NodeRef("default", "n1")


def message(*functions: int, ledger: str = "l1", times: int = 1) -> bytes:
    entries = (
        UsageEntry(vpc_hex(VPC), function_hex(function), f"ns/a{function}", 1, *(times * 10,) * 5)
        for function in functions
    )
    return encode(NodeUsage(ledger, tuple(entries)))


def writer_of(url: str) -> UsageWriter:
    made = UsageWriter(
        HistorySettings(url, "r", backoff=(0.02, 0.2)),
        UsageMetrics(CollectorRegistry()),
        lambda _cluster, _name, _vpc: "ns/blue",
        lambda node: node == NODE,
    )
    made.lead(5)
    return made


@asynccontextmanager
async def writing(writer: UsageWriter):
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)


async def test_messages_are_written_while_the_router_leads(recorded, until) -> None:
    writer = writer_of(recorded)
    writer.resign()
    async with writing(writer):
        writer.arrived("default", "n1", "0", message(1))
        writer.arrived("default", "n9", "0", message(2))  # no such node
        await asyncio.sleep(0.1)
        assert rows(recorded, TOTALS) == []
        writer.lead(5)
        await until(lambda: rows(recorded, TOTALS) == [("ns/a1", *(10,) * 5)])
        writer.arrived("default", "n1", "0", message(1, 2, times=2))
        await until(lambda: rows(recorded, TOTALS) == [("ns/a1", *(20,) * 5), ("ns/a2", *(20,) * 5)])


async def test_while_the_database_is_away_the_latest_message_is_all_that_is_kept(recorded, until) -> None:
    away = recorded.replace("/t", "/nosuch_t")
    writer = writer_of(away)
    async with writing(writer):
        for times in range(1, 6):
            writer.arrived("default", "n1", "0", message(1, times=times))
        await until(lambda: writer._metrics.failures.labels("Unreachable")._value.get() > 0)
        assert len(writer._messages) == 1
    with psycopg.connect(recorded, autocommit=True) as connection:
        assert connection.execute(b"SELECT count(*) FROM galactic.usage").fetchall() == [(0,)]
    again = writer_of(recorded)
    again._messages = writer._messages
    async with writing(again):
        await until(lambda: rows(recorded, TOTALS) == [("ns/a1", *(50,) * 5)])


async def test_a_message_of_no_use_stops_no_other(recorded, until) -> None:
    writer = writer_of(recorded)
    async with writing(writer):
        for number, payload in enumerate(
            (b"{", b'{"schema": 2}', message(1, ledger=""), message(1).replace(b":10", b":-10"), b"")
        ):
            writer.arrived("default", "n1", str(number), payload)
        writer.arrived("default", "n1", "9", message(2))
        await until(lambda: rows(recorded, TOTALS) == [("ns/a2", *(10,) * 5)])
        await until(lambda: not len(writer._messages))
    assert rows(recorded, TOTALS) == [("ns/a2", *(10,) * 5)]


@pytest.mark.parametrize(
    ("level", "payload"), [("x", b"{}"), ("32", b"{}"), ("0", b"x" * (MIN_PAYLOAD + 1)), ("-1", b"{}")]
)
def test_topics_and_sizes_are_checked_at_arrival(url, level: str, payload: bytes) -> None:
    with pytest.raises(Rejected):
        writer_of(url).arrived("default", "n1", level, payload)


def test_waiting_messages_are_bounded_by_places_and_days() -> None:
    messages = UsageMessages(limit=4)
    days = [TODAY + timedelta(days=number) for number in range(5)]
    for day in days:
        messages.put((NODE, 0, day), b"x")
    assert len(messages) == module.DAYS
    assert messages.first() == ((NODE, 0, days[2]), b"x"), "the earliest days went to later ones"
    messages.put((NODE, 1, TODAY), b"x")
    with pytest.raises(Rejected) as caught:
        messages.put((NODE, 2, TODAY), b"x")
    assert caught.value.reason == "RateLimited"


async def test_from_the_version_before_the_tables_are_added(url) -> None:
    await upgrade(url, "0002")
    await upgrade(url)
    assert rows(url, TOTALS) == []

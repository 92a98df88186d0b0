"""Questions about the past, against an oracle; the command that asks them; and what retention leaves."""

import asyncio
import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import psycopg
import pytest
import yaml
from database_world import RecordedPlane, endpoint, history_writer, rows, running, sample, upgrade
from typer.testing import CliRunner

from galactic.cli.history import moment
from galactic.cli.main import app
from galactic.errors import Rejected
from galactic.router.database.history import OF_VPC, QUERY, history
from galactic.router.database.retention import delete_old
from galactic.router.database.session import session

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
NETWORKS = (
    "10.1.1.1/32",
    "10.1.1.0/24",
    "10.1.0.0/16",
    "10.1.1.2/32",
    "fd00::1/128",
    "fd00::/64",
    "192.0.2.7/32",
)
ADDRESSES = ("10.1.1.1", "10.1.1.2", "10.1.2.3", "10.1.1.0/25", "fd00::1", "fd00::2", "192.0.2.8")


@dataclass(frozen=True)
class Fact:
    vpc: int
    network: str
    since: datetime
    until: datetime | None
    node: str

    def answers(self, address: str, vpc: int | None, since: datetime | None, until: datetime | None) -> bool:
        """The question as one would put it in words, without any range type or index."""
        mine, asked = ip_network(self.network), ip_network(address)
        return (
            mine.version == asked.version
            and all(ip in mine for ip in (asked[0], asked[-1]))
            and vpc in (None, self.vpc)
            and (until is None or self.since <= until)
            and (since is None or self.until is None or self.until > since)
        )


def facts(chance: random.Random) -> list[Fact]:
    answers = []
    for vpc in (1, 2):
        for network in NETWORKS:
            at = BEGIN
            for number in range(chance.randint(0, 6)):
                since = at + timedelta(minutes=chance.randint(0, 5))
                until = since + timedelta(minutes=chance.randint(1, 30))
                last = chance.random() < 0.2
                answers.append(Fact(vpc, network, since, None if last else until, f"n{number}"))
                if last:
                    break
                at = until
    return answers


def insert(url: str, some: list[Fact]) -> None:
    with psycopg.connect(url) as connection:
        connection.cursor().executemany(
            "INSERT INTO galactic.period (vpc, network, during, cluster, function, node, attachment, sid, epoch, "
            "revision) VALUES (%s, %s, tstzrange(%s, %s), 'default', 1, %s, 'ns/a', '2001:db8::1', 1, 1)",
            [(period.vpc, period.network, period.since, period.until, period.node) for period in some],
        )


@pytest.mark.parametrize("seed", range(3))
async def test_answers_equal_the_oracle(url, seed: int) -> None:
    await upgrade(url)
    chance = random.Random(seed)
    known = facts(chance)
    insert(url, known)
    moments = [None, *(BEGIN + timedelta(minutes=chance.randint(-5, 150)) for _ in range(8))]
    moments += [edge for period in known[:3] for edge in (period.until, period.since)]  # of periods
    async with session(url) as database:
        for _ in range(150):
            address, vpc = chance.choice(ADDRESSES), chance.choice((None, 1, 2, 3))
            since = chance.choice(moments)
            until = chance.choice((since, None))
            answer = await database.do(
                history(database.connection, address, vpc=vpc, since=since, until=until)
            )
            answered = {(one.vpc, one.network, one.since, one.until, one.node) for one in answer}
            wanted = {
                (one.vpc, one.network, one.since, one.until, one.node)
                for one in known
                if one.answers(address, vpc, since, until)
            }
            assert answered == wanted, (address, vpc, since, until)
            assert len(answer) == len(answered)


async def test_one_index_serves_every_query(url) -> None:
    await upgrade(url)
    many = [
        Fact(
            vpc,
            f"10.{vpc % 250}.{n >> 8}.{n & 255}/32",
            BEGIN + timedelta(days=day),
            BEGIN + timedelta(days=day + 1),
            "n",
        )
        for vpc in range(1, 11)
        for n in range(100)
        for day in range(10)
    ]
    insert(url, many)
    rows(url, "SELECT count(*) FROM galactic.period")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE galactic.period")
        asked = {
            "address": "10.3.0.7",
            "vpc": 3,
            "since": BEGIN + timedelta(days=3.5),
            "until": BEGIN + timedelta(days=3.5),
        }
        (plan,) = connection.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {QUERY} {OF_VPC}".encode(), asked
        ).fetchone()
    scan = plan[0]["Plan"]
    while "Plans" in scan and "Index Name" not in scan:
        scan = scan["Plans"][0]
    assert (scan.get("Index Name"), scan["Actual Rows"]) == ("period_held", 1)
    assert all(word in scan["Index Cond"] for word in ("vpc", "network", "during"))


async def test_retention_deletes_only_periods_that_ended_before_it(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
    now = datetime.now(UTC)
    old = [
        Fact(7, f"10.0.0.{n}/32", BEGIN - timedelta(days=900), now - timedelta(days=n), "n")
        for n in range(1, 21)
    ]
    insert(url, [*old, Fact(7, "10.9.9.9/32", BEGIN - timedelta(days=900), None, "n")])
    async with session(url) as asked:
        assert await asked.do(delete_old(asked.connection, 10.5, at_most=4)) == 4, "a few at a time"
    kept = sorted(n for (n,) in rows(url, "SELECT host(network) FROM galactic.period WHERE vpc = 7"))
    assert kept == sorted([*(f"10.0.0.{n}" for n in range(1, 17)), "10.9.9.9"]), "the oldest first"
    async with running(
        history_writer(url, RecordedPlane(), "s", retention_days=10.5, idle=0.01), term=2
    ) as writer:
        await until(lambda: sample(writer, "retired_total") == 6)
    kept = sorted(n for (n,) in rows(url, "SELECT host(network) FROM galactic.period WHERE vpc = 7"))
    assert kept == sorted([*(f"10.0.0.{n}" for n in range(1, 11)), "10.9.9.9"]), "what lasts is never old"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("2026-11-17T14:00Z", datetime(2026, 11, 17, 14, tzinfo=UTC), id="iso-utc"),
        pytest.param("2026-11-17T14:00+02:00", datetime(2026, 11, 17, 12, tzinfo=UTC), id="iso-zone"),
        pytest.param("2026-11-17 14:00", datetime(2026, 11, 17, 14).astimezone(), id="local"),
        pytest.param("2026-11-17", datetime(2026, 11, 17).astimezone(), id="day"),
        pytest.param("3d", BEGIN - timedelta(days=3), id="days"),
        pytest.param("90m ago", BEGIN - timedelta(minutes=90), id="minutes-ago"),
        pytest.param("2w", BEGIN - timedelta(weeks=2), id="weeks"),
        pytest.param("yesterday", BEGIN - timedelta(days=1), id="yesterday"),
        pytest.param(" now ", BEGIN, id="now"),
    ],
)
def test_times(text: str, wanted: datetime) -> None:
    assert moment(text, BEGIN) == wanted


@pytest.mark.parametrize("text", ["", "tuesday", "3 fortnights", "2026-13-01", "99999999999d", "-3d", "3"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(Rejected, match="is not a time; write"):
        moment(text, BEGIN)


def command(*words: str, url: str | None = None) -> object:
    return CliRunner().invoke(
        app, ["history", *words], env={"GALACTIC_DATABASE_URL": url or "", "COLUMNS": "200"}
    )


async def test_the_command(url, until) -> None:
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        await until(lambda: writer.idle)
        plane.register(1, endpoint(1, 1, "10.1.1.1/32", epoch=1))
        await until(lambda: writer.idle)
        plane.register(2, endpoint(2, 1, "10.1.1.1/32", epoch=2))
        await until(lambda: writer.idle)
    result = await asyncio.to_thread(command, "10.1.1.1", url=url)
    lines = result.output.splitlines()
    assert (result.exit_code, len(lines)) == (0, 3)
    assert lines[0].split() == ["VPC", "NETWORK", "ATTACHMENT", "NODE", "SINCE", "UNTIL"]
    assert lines[1].split()[:4] == ["0000000004d2", "10.1.1.1/32", "ns/a1", "n2"]
    assert lines[1].split()[-1] == "now"
    printed = json.loads(
        (await asyncio.to_thread(command, "10.1.1.1", "--vpc", "4d2", "-o", "json", url=url)).output
    )
    assert [one["node"] for one in printed] == ["n2", "n1"]
    assert printed[1]["until"] == printed[0]["since"]
    assert (
        yaml.safe_load((await asyncio.to_thread(command, "10.1.1.1", "-o", "yaml", url=url)).output)[0][
            "epoch"
        ]
        == 2
    )
    then = await asyncio.to_thread(command, "10.1.1.1", "--at", printed[1]["since"], "-o", "json", url=url)
    assert [one["node"] for one in json.loads(then.output)] == ["n1"]
    wide = await asyncio.to_thread(command, "10.1.1.1", "-o", "wide", url=url)
    assert endpoint(2, 1).sid in wide.output


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        pytest.param(["10.1.1.99"], 1, "no holder of 10.1.1.99", id="nobody"),
        pytest.param(["10.1.1.1", "--at", "9w"], 1, "no holder of 10.1.1.1 at", id="not-then"),
        pytest.param(["10.1.1.1", "--vpc", "99"], 1, "in VPC 99", id="not-there"),
        pytest.param(["10.1.1.256"], 2, "is not an address", id="no-address"),
        pytest.param(["10.1.1.1", "--vpc", "blue"], 2, "blue", id="no-vpc"),
        pytest.param(["10.1.1.1", "--at", "soon"], 2, "is not a time; write", id="no-time"),
        pytest.param(["10.1.1.1", "--at", "1d", "--since", "2d"], 2, "give one of them", id="both"),
        pytest.param(["10.1.1.1", "--database-url", ""], 2, "GALACTIC_DATABASE_URL", id="no-database"),
        pytest.param(["10.1.1.1", "--database-url", "nonsense"], 2, "write postgresql://", id="no-url"),
        pytest.param(["10.1.1.1", "--database-url", "postgresql://127.0.0.1:1/x"], 4, "postgres:", id="away"),
        pytest.param(["10.1.1.1", "--nosuch"], 2, "nosuch", id="no-option"),
    ],
)
def test_messages_of_the_command_without_an_answer(url, words: list[str], code: int, sentence: str) -> None:
    asyncio.run(upgrade(url))
    insert(url, [Fact(0x4D2, "10.1.1.1/32", BEGIN, None, "n1")])
    result = command(*words, url=url)
    assert result.exit_code == code, result.output
    assert sentence in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_an_empty_database(url) -> None:
    result = command("10.1.1.1", url=url)
    assert (result.exit_code, "no router has written" in result.output) == (2, True)

"""The schema: from nothing, from Alembic's, by several routers at once, without privileges, and from the future."""

import asyncio
import subprocess
from pathlib import Path

import psycopg
import pytest
from database_world import RecordedPlane, endpoint, history_writer, recorded, rows, running, sample, upgrade

from galactic.errors import Rejected, Unreachable
from galactic.router.database import migration
from galactic.router.database.migration import LOCK, VERSION, migrate, migrations, schema_version
from galactic.router.database.session import parameters, session
from galactic_lab.controlplane import postgres

MADE_BY_ALEMBIC = Path(__file__).with_name("made_by_alembic.sql")
TABLES = (
    "SELECT * FROM galactic.endpoint ORDER BY vpc, cluster, function",
    "SELECT * FROM galactic.period ORDER BY id",
    "SELECT * FROM galactic.writer",
)


async def migrated(url: str) -> str | None:
    async with session(url) as connected:
        await migrate(connected)
        return await connected.do(schema_version(connected.connection))


def schema(url: str) -> list[str]:
    """The schema as pg_dump writes it, but for the key that differs every time."""
    argv = [postgres.programs() / "pg_dump", "--no-owner", "--schema-only", url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    return [line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def restore_alembic(url: str, version: str = "0002") -> None:
    with psycopg.connect(url) as connection:
        connection.execute(MADE_BY_ALEMBIC.read_bytes())
        if version == "0001":
            connection.execute("DROP INDEX galactic.period_over")
            connection.execute("UPDATE galactic.schema_version SET version_num = '0001'")


def test_the_program_knows_its_newest_version() -> None:
    assert list(migrations()) == ["0001", "0002", "0003"]
    assert max(migrations()) == VERSION


async def test_routers_starting_simultaneously(url) -> None:
    assert await asyncio.gather(migrated(url), migrated(url), migrated(url)) == [VERSION] * 3
    assert rows(url, "SELECT count(*) FROM galactic.writer") == [(1,)]
    assert rows(url, "SELECT version_num FROM galactic.schema_version") == [(VERSION,)]


@pytest.mark.parametrize("version", ["0001", "0002"])
async def test_a_database_made_by_alembic_is_adopted_without_loss(url, until, version: str) -> None:
    restore_alembic(url, version)
    before = [rows(url, query) for query in TABLES]
    assert [len(table) for table in before] == [2, 4, 1]
    assert await migrated(url) == VERSION
    assert [rows(url, query) for query in TABLES] == before
    assert rows(url, "SELECT version_num FROM galactic.schema_version") == [(VERSION,)]
    plane = RecordedPlane()
    async with running(history_writer(url, plane), term=2) as writer:
        plane.register(1, endpoint(1, 2, "10.1.1.2/32", "fd00::2/128", epoch=2))
        plane.register(2, endpoint(2, 1, "10.1.1.1/32", epoch=3))
        await until(lambda: writer.idle)
        assert sample(writer, "corrections_total") == 0, "the router goes on where the one with Alembic ended"
    assert recorded(url) == plane.table()
    after = [rows(url, query) for query in TABLES]
    assert after[:2] == before[:2]


async def test_the_schema_equals_that_of_alembic(url) -> None:
    await upgrade(url, "0002")  # its last version
    other = f"{url}_alembic"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {other.rpartition('/')[2]}".encode())
    restore_alembic(other)
    assert schema(url) == schema(other)


async def test_migrations_from_the_first_version_lose_nothing(url, until) -> None:
    await upgrade(url, "0001")
    rows(
        url,
        "INSERT INTO galactic.period (vpc, network, during, cluster, function, node, attachment, sid, epoch, revision) "
        "VALUES (1234, '10.1.1.1/32', '[2026-01-01, 2026-02-01)', 'default', 1, 'n1', 'ns/a1', '2001:db8::1', 1, 1) "
        "RETURNING 1",
    )
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
    assert recorded(url) == plane.table()
    assert rows(url, "SELECT count(*) FROM galactic.period") == [(2,)]
    assert await migrated(url) == VERSION


async def test_a_file_that_fails_leaves_the_version_before(url, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {
        **migrations(),
        "0002": "CREATE TABLE galactic.half (x int); SELECT nosuch FROM galactic.period",
    }
    monkeypatch.setattr(migration, "migrations", lambda: broken)
    with pytest.raises(Rejected, match='column "nosuch" does not exist') as caught:
        await migrated(url)
    assert caught.value.reason == "SchemaRejected"
    assert rows(url, "SELECT version_num, to_regclass('galactic.half') FROM galactic.schema_version") == [
        ("0001", None)
    ]
    monkeypatch.undo()
    assert await migrated(url) == VERSION


async def test_a_migration_that_takes_too_long_is_ended(url, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another router that migrates was stopped, or the database is partitioned from this one."""
    monkeypatch.setattr(migration, "PATIENCE_SECONDS", 0.2)
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        with pytest.raises(Unreachable, match="no answer in time"):
            await migrated(url)
    monkeypatch.undo()
    assert await migrated(url) == VERSION


async def test_a_database_newer_than_the_program(url, until) -> None:
    await migrated(url)
    rows(url, "UPDATE galactic.schema_version SET version_num = '9999' RETURNING 1")
    with pytest.raises(Rejected, match="version 9999, this program knows versions up to 0003") as caught:
        await migrated(url)
    assert caught.value.reason == "SchemaNewer"
    async with running(history_writer(url, RecordedPlane())) as writer:
        await until(lambda: writer.problems)
    assert "newer galactic-router" in writer.problems[-1]


async def test_a_role_without_create_gets_the_grant_it_needs_named(server, url) -> None:
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE poor_{name} LOGIN".encode())
    poor = server.url(name, f"poor_{name}")
    with pytest.raises(Rejected, match="CREATE SCHEMA galactic AUTHORIZATION"):
        await migrated(poor)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA galactic AUTHORIZATION poor_{name}".encode())
    assert await migrated(poor) == VERSION


@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param("postgresql://galactic@127.0.0.1:1/x", Unreachable, id="nobody-listens"),
        pytest.param("postgresql://galactic@127.0.0.1:{port}/nosuch", Unreachable, id="no-such-database"),
        pytest.param("postgresql://galactic:secret@h/db?nosuch=1", Rejected, id="no-url"),
    ],
)
async def test_unreachable_urls(server, given: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        async with session(given.format(port=server.port)):
            pass
    assert "secret" not in str(caught.value)


def test_a_url_keeps_its_options() -> None:
    assert "connect_timeout=7" in parameters("postgresql://a@b/c?connect_timeout=7")

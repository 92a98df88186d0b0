"""The schema: from nothing, from the first revision, by two at once, by one who may not, and from the future."""

import asyncio

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from database_world import World, chronicle, endpoint, recorded, rows, running

from galactic.errors import Rejected, Unreachable
from galactic.router.database import migration
from galactic.router.database.migration import REVISION, migrated, revision, upgrade
from galactic.router.database.session import parameters, session


async def migrate(url: str) -> str | None:
    async with session(url) as it:
        await migrated(it, url)
        return await it.do(revision(it.connection))


def test_the_program_knows_its_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(migration.Path(migration.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


async def test_routers_that_start_at_once(url) -> None:
    assert await asyncio.gather(migrate(url), migrate(url), migrate(url)) == [REVISION] * 3
    assert rows(url, "SELECT count(*) FROM galactic.writer") == [(1,)]


async def test_from_the_first_revision_nothing_is_lost(url, until) -> None:
    upgrade(url, "0001")
    rows(
        url,
        "INSERT INTO galactic.period (vpc, network, during, cluster, function, node, attachment, sid, epoch, revision) "
        "VALUES (1234, '10.1.1.1/32', '[2026-01-01, 2026-02-01)', 'default', 1, 'n1', 'ns/a1', '2001:db8::1', 1, 1) "
        "RETURNING 1",
    )
    world = World()
    async with running(chronicle(url, world)) as it:
        world.say(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: it.idle)
    assert recorded(url) == world.table()
    assert rows(url, "SELECT count(*) FROM galactic.period") == [(2,)]
    assert await migrate(url) == REVISION


async def test_a_database_that_is_newer_than_the_program(url, until) -> None:
    await migrate(url)
    rows(url, "UPDATE galactic.schema_version SET version_num = '9999' RETURNING 1")
    with pytest.raises(Rejected, match="revision 9999, this program knows those up to 0002") as caught:
        await migrate(url)
    assert caught.value.reason == "SchemaNewer"
    async with running(chronicle(url, World())) as it:
        await until(lambda: it.problems)
    assert "newer galactic-router" in it.problems[-1]


async def test_a_role_that_may_not_create_is_told_what_to_grant(server, url) -> None:
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE poor_{name} LOGIN".encode())
    poor = server.url(name, f"poor_{name}")
    with pytest.raises(Rejected, match="CREATE SCHEMA galactic AUTHORIZATION"):
        await migrate(poor)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA galactic AUTHORIZATION poor_{name}".encode())
    assert await migrate(poor) == REVISION


@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param("postgresql://galactic@127.0.0.1:1/x", Unreachable, id="nobody-listens"),
        pytest.param("postgresql://galactic@127.0.0.1:{port}/nosuch", Unreachable, id="no-such-database"),
        pytest.param("postgresql://galactic:secret@h/db?nosuch=1", Rejected, id="no-url"),
    ],
)
async def test_urls_that_lead_nowhere(server, given: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        async with session(given.format(port=server.port)):
            pass
    assert "secret" not in str(caught.value)


def test_a_url_keeps_what_it_says() -> None:
    assert "connect_timeout=7" in parameters("postgresql://a@b/c?connect_timeout=7")

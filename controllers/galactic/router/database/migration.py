"""The schema at the version that this program knows.

``migrations/`` has one numbered SQL file a version. Each missing file is applied in a transaction, together with its
number in ``galactic.schema_version``, under an advisory lock: several routers may start at once. Earlier releases
migrated with Alembic, whose version table this is: their databases are continued as they are.
"""

from importlib.resources import files
from typing import Final

import psycopg
import structlog

from galactic.errors import Rejected
from galactic.router.database.session import Connection, Session, first_line

log = structlog.get_logger(__name__)
VERSION: Final = "0003"
"""The newest version; what the rest of this package is written for."""
LOCK: Final = 0x67616C01
"""Key of the advisory lock under which schemas are migrated; earlier releases take the same one."""
PATIENCE_SECONDS: Final = 600.0
_HAS_SCHEMA: Final = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'galactic')"
_VERSIONED: Final = """
    SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'galactic' AND tablename = 'schema_version')
    """
"""Reads the catalogue itself: ``to_regclass`` can miss what another session committed during this transaction."""
_GRANT: Final = (
    "let an administrator run once: CREATE SCHEMA galactic AUTHORIZATION the router's role "
    "(or GRANT CREATE ON DATABASE … TO it)"
)


def migrations() -> dict[str, str]:
    """The SQL of each version, oldest first."""
    scripts = sorted(
        (entry for entry in (files(__package__) / "migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return {script.name.partition("_")[0]: script.read_text(encoding="utf-8") for script in scripts}


async def schema_version(connection: Connection) -> str | None:
    """The version that the database is at; None: it has no schema of Galactic yet. Raises psycopg's."""
    if not await _exists(connection, _VERSIONED):
        return None
    cursor = await connection.execute("SELECT max(version_num) FROM galactic.schema_version")
    row = await cursor.fetchone()
    return row[0] if row else None


async def migrate(session: Session, to: str = VERSION) -> None:
    """Brings the schema to a version, from none or an older one.

    Raises Rejected if the schema is newer, the role lacks a privilege or a file fails; Unreachable, also after
    PATIENCE_SECONDS. What a failed or interrupted file did is rolled back.
    """
    current = await session.do(schema_version(session.connection))
    if current is None or current < to:
        await session.do(_migrate(session.connection, to), PATIENCE_SECONDS)
        current = await session.do(schema_version(session.connection))
    if current is not None and current > VERSION:
        raise newer(current)


def newer(version: str) -> Rejected:
    """The error for a schema that a newer program made."""
    return Rejected(
        f"the database's schema is at version {version}, this program knows versions up to {VERSION}: "
        "it was made by a newer galactic-router; run that release, or give this one another database",
        reason="SchemaNewer",
    )


async def _migrate(connection: Connection, to: str) -> None:
    try:
        for version, script in migrations().items():
            if version <= to:
                await _apply(connection, version, script)
    except psycopg.errors.InsufficientPrivilege as error:
        raise Rejected(f"{first_line(error)}: {_GRANT}", reason="SchemaRejected") from error
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except psycopg.Error as error:
        raise Rejected(first_line(error), reason="SchemaRejected") from error


async def _apply(connection: Connection, version: str, script: str) -> None:
    """One version, unless another router applied it meanwhile."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        current = await schema_version(connection)
        if current is not None and current >= version:
            return
        if current is None:
            await _create_version_table(connection)
        await connection.execute(script.encode())
        await connection.execute("DELETE FROM galactic.schema_version")
        await connection.execute("INSERT INTO galactic.schema_version VALUES (%s)", (version,))
    log.info("schema migrated", version=version, before=current)


async def _create_version_table(connection: Connection) -> None:
    if not await _exists(connection, _HAS_SCHEMA):
        await connection.execute("CREATE SCHEMA galactic")
    await connection.execute(
        "CREATE TABLE galactic.schema_version ("
        "version_num varchar(32) NOT NULL, CONSTRAINT schema_version_pkc PRIMARY KEY (version_num))"
    )


async def _exists(connection: Connection, query: str) -> bool:
    cursor = await connection.execute(query.encode())
    return await cursor.fetchone() == (True,)

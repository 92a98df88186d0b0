"""The schema at the revision that this program knows.

Alembic runs in a process of its own: it is needed once in many starts, takes 30 MB, and can be ended whatever it
waits for.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

from galactic.errors import Rejected, Unreachable
from galactic.router.database.session import SCHEMA, Connection, Session, parameters

REVISION: Final = "0002"
"""The newest; what the rest of this package is written for."""
VERSION_TABLE: Final = "schema_version"
LOCK: Final = 0x67616C01
"""Key of the advisory lock under which schemas are made."""
DIALECT: Final = "postgresql+psycopg://"
PATIENCE_SECONDS: Final = 600.0
_URL: Final = "GALACTIC_MIGRATION_URL"
_REJECTED, _UNREACHABLE = 3, 4


async def revision(connection: Connection) -> str | None:
    """The revision that the database is at; None: there is nothing yet."""
    found = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.{VERSION_TABLE}",))
    row = await found.fetchone()
    if row is None or not row[0]:
        return None
    found = await connection.execute("SELECT max(version_num) FROM galactic.schema_version")
    row = await found.fetchone()
    return row[0] if row else None


async def migrated(session: Session, url: str) -> None:
    """The schema is what this program expects. Raises Rejected: a newer one, or the role may not; Unreachable."""
    at = await session.do(revision(session.connection))
    if at == REVISION:
        return
    if at is not None and at > REVISION:
        raise newer(at)
    command = (sys.executable, "-m", "galactic.router.database.migration")
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | {_URL: url}, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise Unreachable("postgres", "the schema could not be brought up to date in time") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        sentence = lines[-1] if lines else "the migration failed"
        if process.returncode == _REJECTED:
            raise Rejected(sentence, reason="SchemaRejected")
        raise Unreachable("postgres", sentence)


def newer(at: str) -> Rejected:
    """The answer to a schema from the future."""
    return Rejected(
        f"the database's schema is at revision {at}, this program knows those up to {REVISION}: "
        "it was made by a newer galactic-router; run that version, or give this one another database",
        reason="SchemaNewer",
    )


def upgrade(url: str, to: str = "head") -> None:
    """Brings the schema to that revision, from nothing or an older one. Raises what psycopg and SQLAlchemy raise."""
    import psycopg  # noqa: PLC0415 - needed in that process only
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(parameters(url))

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connect"] = connect
    command.upgrade(config, to)


def main() -> int:
    """Upgrades what the environment names; says in one line what is wrong."""
    import psycopg  # noqa: PLC0415
    import sqlalchemy.exc  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    try:
        upgrade(os.environ[_URL])
    except sqlalchemy.exc.DBAPIError as error:
        return _told(error.orig or error)
    except (psycopg.Error, CommandError) as error:
        return _told(error)
    return 0


def _told(error: BaseException) -> int:
    import psycopg  # noqa: PLC0415

    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        sys.stderr.write(
            f"{text}: let an administrator run once: CREATE SCHEMA {SCHEMA} AUTHORIZATION the router's role "
            "(or GRANT CREATE ON DATABASE … TO it)\n"
        )
        return _REJECTED
    sys.stderr.write(f"{text}\n")
    return _UNREACHABLE if isinstance(error, psycopg.OperationalError) else _REJECTED


if __name__ == "__main__":
    sys.exit(main())

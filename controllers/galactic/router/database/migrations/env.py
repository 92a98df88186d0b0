"""What Alembic runs around the revisions: one transaction, in which nobody else migrates."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from galactic.router.database.migration import DIALECT, LOCK, VERSION_TABLE
from galactic.router.database.session import SCHEMA


def upgrade() -> None:
    """Runs what the command asked for."""
    engine = create_engine(DIALECT, poolclass=pool.NullPool, creator=context.config.attributes["connect"])
    with engine.connect() as connection:
        context.configure(connection, version_table=VERSION_TABLE, version_table_schema=SCHEMA)
        with context.begin_transaction():
            # Whoever comes second waits here, and then finds everything done.
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            if connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}) is None:
                connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            context.run_migrations()


upgrade()

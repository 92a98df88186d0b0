"""Retention: periods that ended longer ago than the retention are deleted, oldest first, in small transactions."""

from typing import Final

from galactic.router.database.session import Connection

BATCH: Final = 1_000
"""Rows of one transaction: short enough for writes to get in between."""


async def delete_old(connection: Connection, days: float, at_most: int = BATCH) -> int:
    """Deletes periods that ended more than ``days`` ago, up to ``at_most``; how many. Open periods always stay."""
    cursor = await connection.execute(
        """
        DELETE FROM galactic.period WHERE id IN (
            SELECT id FROM galactic.period
            WHERE NOT upper_inf(during) AND upper(during) < now() - make_interval(secs => %s)
            ORDER BY upper(during) LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        (days * 86_400, at_most),
    )
    return cursor.rowcount

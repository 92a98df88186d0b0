"""Old history goes: periods that ended longer ago than is wanted, a few at a time, oldest first."""

from typing import Final

from galactic.router.database.session import Connection

BATCH: Final = 1_000
"""Rows of one transaction: short enough for writes to slip in between."""


async def retire(connection: Connection, days: float, at_most: int = BATCH) -> int:
    """Removes up to so many periods that ended more than ``days`` ago; how many. What still lasts always stays."""
    done = await connection.execute(
        """
        DELETE FROM galactic.period WHERE id IN (
            SELECT id FROM galactic.period
            WHERE NOT upper_inf(during) AND upper(during) < now() - make_interval(secs => %s)
            ORDER BY upper(during) LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        (days * 86_400, at_most),
    )
    return done.rowcount

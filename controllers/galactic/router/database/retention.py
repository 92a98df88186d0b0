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


COUNTER_DAYS: Final = 90
"""For which a node's sums are remembered after its last message that had them."""


async def delete_old_usage(connection: Connection, days: float, at_most: int = BATCH) -> int:
    """Deletes the usage of days more than ``days`` ago (0: none), and sums of nodes that are no more; how many rows."""
    deleted = 0
    if days:
        cursor = await connection.execute(
            """
            DELETE FROM galactic.usage WHERE (day, cluster, vpc, attachment) IN (
                SELECT day, cluster, vpc, attachment FROM galactic.usage
                WHERE day < (now() AT TIME ZONE 'UTC' - make_interval(secs => %s))::date ORDER BY day LIMIT %s
            )
            """,
            (days * 86_400, at_most),
        )
        deleted += cursor.rowcount
    cursor = await connection.execute(
        """
        DELETE FROM galactic.usage_counter WHERE (cluster, node, ledger, vpc, function, epoch) IN (
            SELECT cluster, node, ledger, vpc, function, epoch FROM galactic.usage_counter
            WHERE seen < now() - make_interval(days => %s) ORDER BY seen LIMIT %s
        )
        """,
        (COUNTER_DAYS, at_most),
    )
    return deleted + cursor.rowcount

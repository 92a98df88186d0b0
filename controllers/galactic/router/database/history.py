"""Which attachment held an address, and when, answered from one index."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from galactic.router.database.session import Connection


@dataclass(frozen=True, slots=True)
class Holding:
    """An attachment held a network from ``since`` until ``until`` (None: it still does).

    ``…_exactly`` is false where no router saw the change: it happened after ``…_after`` (None: unknown) and not later
    than ``since`` or ``until``.
    """

    vpc: int
    network: str
    cluster: str
    function: int
    node: str
    attachment: str
    sid: str
    epoch: int
    revision: int
    since: datetime
    until: datetime | None
    began_exactly: bool
    began_after: datetime | None
    ended_exactly: bool
    ended_after: datetime | None


QUERY = """
    SELECT vpc, network::text, cluster, function, node, attachment, host(sid), epoch, revision, lower(during),
        upper(during), began_exactly, began_after, ended_exactly, ended_after
    FROM galactic.period
    WHERE network >>= %(address)s::inet AND during && tstzrange(%(since)s, %(until)s, '[]')
    """
OF_VPC = "AND int8range(vpc, vpc, '[]') && int8range(%(vpc)s, %(vpc)s, '[]')"
ORDER = "ORDER BY vpc, lower(during) DESC, masklen(network) DESC, id LIMIT %(limit)s"


async def history(
    connection: Connection,
    address: str,
    *,
    vpc: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 1000,
) -> list[Holding]:
    """Holders of networks that contain ``address`` (or that network) between two times, both included; latest first.

    ``since`` None: from the beginning; ``until`` None: to the end. Raises psycopg's.
    """
    query = f"{QUERY} {OF_VPC if vpc is not None else ''} {ORDER}"
    values: dict[str, Any] = {"address": address, "vpc": vpc, "since": since, "until": until, "limit": limit}
    cursor = await connection.execute(query.encode(), values)
    return [Holding(*row) for row in await cursor.fetchall()]

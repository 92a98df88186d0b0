"""Who held an address, and when: the question that the history is kept for, answered from one index."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from galactic.router.database.session import Connection


@dataclass(frozen=True, slots=True)
class Holding:
    """Somebody had a network for a time. ``until`` None: still.

    ``exactly`` is false where no router was there to see it: then it happened after ``…_after`` (None: nobody knows)
    and not later than ``since`` or ``until``.
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
    """Who held networks that contain ``address`` (or that network) between two moments, both included; latest first.

    None: from the beginning, to the end. Raises psycopg's.
    """
    query = f"{QUERY} {OF_VPC if vpc is not None else ''} {ORDER}"
    asked: dict[str, Any] = {"address": address, "vpc": vpc, "since": since, "until": until, "limit": limit}
    found = await connection.execute(query.encode(), asked)
    return [Holding(*row) for row in await found.fetchall()]

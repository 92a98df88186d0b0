"""The transaction that adds a node's sums to the usage of a day, and the report by VPC and month.

It locks the row ``writer``, as those of the history do: a router that was deposed adds nothing, and no two add at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, NamedTuple

from galactic.router.database.session import Connection
from galactic.router.database.transactions import CHUNK, Leader, locked

LARGEST: Final = 1 << 62
SINCE: Final = "0003"
"""The first version of the schema that has these tables."""


class Sample(NamedTuple):
    """Sums of one attachment. ``ledger``: its node's counters. ``vpc_name``: namespace/name; empty: unknown."""

    cluster: str
    node: str
    ledger: str
    vpc: int
    function: int
    epoch: int
    vpc_name: str
    seconds: int
    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Traffic and attached seconds of a VPC, or of one attachment in it, in a month."""

    vpc: int
    vpc_name: str
    cluster: str
    attachment: str
    attachments: int
    seconds: int
    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int


_ADD: Final = """
    WITH sample AS (
        SELECT DISTINCT ON (ledger, vpc, function, epoch) *
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::integer[], %s::bigint[], %s::text[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
            AS given (cluster, node, ledger, vpc, function, epoch, vpc_name, seconds, sent_bytes, sent_packets,
                received_bytes, received_packets)
        ORDER BY ledger, vpc, function, epoch, seconds DESC
    ), known AS (
        SELECT sample.*, coalesce(before.attachment, recorded.attachment) AS attachment,
            greatest(sample.seconds - coalesce(before.seconds, 0), 0) AS more_seconds,
            greatest(sample.sent_bytes - coalesce(before.sent_bytes, 0), 0) AS more_sent_bytes,
            greatest(sample.sent_packets - coalesce(before.sent_packets, 0), 0) AS more_sent_packets,
            greatest(sample.received_bytes - coalesce(before.received_bytes, 0), 0) AS more_received_bytes,
            greatest(sample.received_packets - coalesce(before.received_packets, 0), 0) AS more_received_packets
        FROM sample
        LEFT JOIN galactic.usage_counter AS before USING (cluster, node, ledger, vpc, function, epoch)
        LEFT JOIN LATERAL (
            SELECT period.attachment FROM galactic.period
            WHERE before.cluster IS NULL AND period.epoch = sample.epoch AND period.vpc = sample.vpc
                AND period.function = sample.function AND period.cluster = sample.cluster
                AND period.node = sample.node
            LIMIT 1
        ) AS recorded ON true
        WHERE coalesce(before.attachment, recorded.attachment) IS NOT NULL
    ), counted AS (
        INSERT INTO galactic.usage_counter AS counter (cluster, node, ledger, vpc, function, epoch, attachment,
            seconds, sent_bytes, sent_packets, received_bytes, received_packets, seen)
        SELECT cluster, node, ledger, vpc, function, epoch, attachment, seconds, sent_bytes, sent_packets,
            received_bytes, received_packets, now() FROM known
        ON CONFLICT (cluster, node, ledger, vpc, function, epoch) DO UPDATE SET
            seconds = greatest(counter.seconds, excluded.seconds),
            sent_bytes = greatest(counter.sent_bytes, excluded.sent_bytes),
            sent_packets = greatest(counter.sent_packets, excluded.sent_packets),
            received_bytes = greatest(counter.received_bytes, excluded.received_bytes),
            received_packets = greatest(counter.received_packets, excluded.received_packets),
            seen = excluded.seen
    ), added AS (
        INSERT INTO galactic.usage AS usage (day, cluster, vpc, attachment, vpc_name, seconds, sent_bytes,
            sent_packets, received_bytes, received_packets)
        SELECT %s::date, cluster, vpc, attachment, max(vpc_name), sum(more_seconds), sum(more_sent_bytes),
            sum(more_sent_packets), sum(more_received_bytes), sum(more_received_packets)
        FROM known GROUP BY cluster, vpc, attachment
        HAVING sum(more_seconds + more_sent_packets + more_received_packets) > 0
        ON CONFLICT (day, cluster, vpc, attachment) DO UPDATE SET
            vpc_name = coalesce(nullif(excluded.vpc_name, ''), usage.vpc_name),
            seconds = usage.seconds + excluded.seconds,
            sent_bytes = usage.sent_bytes + excluded.sent_bytes,
            sent_packets = usage.sent_packets + excluded.sent_packets,
            received_bytes = usage.received_bytes + excluded.received_bytes,
            received_packets = usage.received_packets + excluded.received_packets
    )
    SELECT count(*) FROM known
    """


async def add(connection: Connection, leader: Leader, day: date, samples: Sequence[Sample]) -> int:
    """Adds what these sums are above those added before, however often this is called. How many were accepted.

    Not those of attachments that no router recorded on that node. Raises Deposed, Outdated, psycopg's.
    """
    accepted = 0
    async with connection.transaction():
        await locked(connection, leader)
        for start in range(0, len(samples), CHUNK):
            columns = [list(column) for column in zip(*samples[start : start + CHUNK], strict=True)]
            cursor = await connection.execute(_ADD, (*columns, day))
            row = await cursor.fetchone()
            accepted += row[0] if row else 0
    return accepted


_REPORT: Final = """
    SELECT vpc, (array_agg(vpc_name ORDER BY day DESC) FILTER (WHERE vpc_name <> ''))[1], {cluster}, {attachment},
        count(DISTINCT (cluster, attachment)), sum(seconds)::bigint, sum(sent_bytes)::bigint,
        sum(sent_packets)::bigint, sum(received_bytes)::bigint, sum(received_packets)::bigint
    FROM galactic.usage WHERE day >= %(first)s::date AND day < %(end)s::date
    GROUP BY vpc{group} ORDER BY sum(sent_bytes + received_bytes) DESC, vpc{group}
    """


async def report(
    connection: Connection, first: date, end: date, *, by_attachment: bool = False
) -> list[Usage]:
    """The usage of the days from ``first`` to before ``end``, by VPC or by attachment; the largest first.

    Raises psycopg's.
    """
    if by_attachment:
        query = _REPORT.format(cluster="cluster", attachment="attachment", group=", cluster, attachment")
    else:
        query = _REPORT.format(cluster="''", attachment="''", group="")
    cursor = await connection.execute(query.encode(), {"first": first, "end": end})
    return [Usage(row[0], row[1] or "", *row[2:]) for row in await cursor.fetchall()]

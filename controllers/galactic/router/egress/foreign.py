"""Other writers' messages on topics that only the leading router writes."""

from galactic.errors import Rejected
from galactic.messages import Changes, Head, Shard
from galactic.router.egress.adj_rib_out import AdjRibOut
from galactic.router.egress.retained import TableMessage, decoded, shard_number
from galactic.router.metrics import RouterMetrics


def overwritten(
    adj_rib_out: AdjRibOut, parts: tuple[str, ...], payload: bytes, metrics: RouterMetrics
) -> bool:
    """Marks the topic as overwritten in the Adj-RIB-Out, so that it is published again. False: a VPC has no such topic.

    ``parts`` are the topic's levels below ``vpcs/<vpc>``.
    """

    def read(kind: type[TableMessage]) -> TableMessage | None:
        try:
            return decoded(kind, payload) if payload else None
        except Rejected as error:
            metrics.rejected(error.reason)
            return None

    match parts:
        case ("changes",):
            adj_rib_out.foreign_change(read(Changes) or Changes(0, 0))
        case ("head",):
            head = read(Head)
            adj_rib_out.overwritten(None, head.revision if head else 0, cleared=not payload)
        case ("table", level) if shard_number(level) is not None:
            shard = read(Shard)
            adj_rib_out.overwritten(shard_number(level), shard.revision if shard else 0, cleared=not payload)
        case _:
            return False
    return True

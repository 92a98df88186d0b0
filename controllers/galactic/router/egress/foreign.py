"""What somebody else writes on topics that only the leading router writes, so that it can be put right."""

from galactic.errors import Rejected
from galactic.messages import Changes, Head, Shard
from galactic.router.egress.adj_rib_out import Ledger
from galactic.router.egress.retained import TableMessage, decoded, shard_number
from galactic.router.metrics import RouterMetrics


def overwritten(ledger: Ledger, parts: tuple[str, ...], payload: bytes, metrics: RouterMetrics) -> bool:
    """Tells the ledger; what cannot be believed counts as overwritten all the same. False: a VPC has no such topic.

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
            ledger.strayed(read(Changes) or Changes(0, 0))
        case ("head",):
            head = read(Head)
            ledger.overwritten(None, head.revision if head else 0, cleared=not payload)
        case ("table", level) if shard_number(level) is not None:
            shard = read(Shard)
            ledger.overwritten(shard_number(level), shard.revision if shard else 0, cleared=not payload)
        case _:
            return False
    return True

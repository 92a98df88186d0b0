"""The table of a VPC while MQTT has none: MQTT's last one, and the newer endpoints in the API server.

The API server is no substitute by itself. It has the attachments of its own cluster only, and it lags: the router
records an endpoint after having published it. So an endpoint that is not there has not gone; it goes when it was seen
to go, or when a newer one takes its place:

- an endpoint counts if its epoch is newer than the attachment's in the table, or if it was recorded at the table's
  revision or later; those recorded before were an input of the table;
- of two with the same network the later recorded one holds it, and before the table;
- the result's revision is one above all that it is made of: a recorded one may be too low by one, because the router
  records the revision that it published last.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
import structlog

from galactic import names, srv6
from galactic.errors import Rejected
from galactic.linux.objects import PackedNetwork
from galactic.messages import Route
from galactic.node.state.remote import Entry, View, entry, epoch_of, holder_of

log = structlog.get_logger(__name__)
COMPARED: Final = 24
"""The bytes of an entry that hold its SID and epoch."""


class Endpoint(msgspec.Struct, frozen=True):
    """``VPCAttachment.status.endpoint``."""

    node: str
    sid: str
    cluster: str = ""
    networks: tuple[str, ...] = ()
    epoch: int = 0
    revision: int = 0

    @property
    def function(self) -> int:
        """The attachment's identifier. Raises Rejected on a SID that is none."""
        return srv6.parse_sid(self.sid).function


def endpoint(vpc: int, status: Mapping[str, Any]) -> Endpoint | None:
    """The endpoint of an attachment of that VPC, by its status. Raises Rejected on an invalid one, and on one that
    leads out of the VPC.
    """
    value = status.get("endpoint")
    if value is None:
        return None
    try:
        parsed = msgspec.convert(value, Endpoint)
    except msgspec.ValidationError as error:
        raise Rejected(str(error), field="status.endpoint") from error
    if srv6.parse_sid(parsed.sid).vpc != vpc:
        raise Rejected(f"{parsed.sid} is not a SID of VPC {names.vpc_hex(vpc)}", field="status.endpoint.sid")
    return parsed


def compose(
    vpc: int,
    cluster: str,
    base: View | None,
    endpoints: Collection[Endpoint],
    detached: Mapping[int, int],
) -> View | None:
    """The whole table, or None where ``base``, MQTT's last one, has everything.

    ``detached``: attachments of our cluster that were seen to be detached, with the epoch they had.
    """
    revision, before = base or View(0, {})
    epochs: dict[int, int] = {}
    for known in before.values():
        function, own = holder_of(known)
        if own:
            epochs[function] = max(epochs.get(function, 0), epoch_of(known))
    newer = [endpoint for endpoint in endpoints if _counts(endpoint, revision, epochs)]
    replaced = {endpoint.function for endpoint in newer}
    routes = {}
    for network, known in before.items():
        function, own = holder_of(known)
        if not own or (function not in replaced and detached.get(function, -1) < epoch_of(known)):
            routes[network] = known
    for endpoint in sorted(newer, key=lambda endpoint: (endpoint.revision, endpoint.epoch)):
        routes |= _entries(vpc, cluster, endpoint)
    if base is not None and _same(before, routes):
        return None
    return View(max([revision, *(endpoint.revision for endpoint in newer)]) + 1, routes)


def _counts(endpoint: Endpoint, revision: int, epochs: Mapping[int, int]) -> bool:
    epoch = epochs.get(endpoint.function)
    if epoch is None:
        return endpoint.revision >= revision
    return endpoint.epoch > epoch or (endpoint.epoch == epoch and endpoint.revision >= revision)


def _entries(vpc: int, cluster: str, endpoint: Endpoint) -> dict[PackedNetwork, Entry]:
    function = names.function_hex(endpoint.function)
    entries = {}
    for network in endpoint.networks:
        route = Route(
            network, (endpoint.sid,), endpoint.cluster or cluster, endpoint.node, function, endpoint.epoch
        )
        try:
            packed, known = entry(vpc, cluster, route)
        except Rejected as error:
            log.warning("route ignored", vpc=names.vpc_hex(vpc), network=network, error=str(error))
        else:
            entries[packed] = known
    return entries


def _same(one: Mapping[PackedNetwork, Entry], other: Mapping[PackedNetwork, Entry]) -> bool:
    return len(one) == len(other) and all(
        network in other and known[:COMPARED] == other[network][:COMPARED] for network, known in one.items()
    )

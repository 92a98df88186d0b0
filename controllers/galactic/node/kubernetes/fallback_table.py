"""The table of a VPC while MQTT does not tell it: the last one it told, and what the API server knows that is newer.

The API server is no substitute by itself. It knows the attachments of its own cluster only, and it lags: the router
records an endpoint after having told of it. So nothing is believed to be gone because it is not there; it goes when it
was seen to go, or when something newer takes its place:

- an endpoint counts if its epoch is newer than what the table has of that attachment, or if it was recorded at the
  table's revision or later; what was recorded before, the table has seen and decided about;
- of two that name the same network the later recorded one has it, and before the table;
- the result's revision is one above all it is made of: a recorded one may be too low by one, because the router says
  the revision that it published last.
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
"""The bytes of an entry that say where it leads and since when."""


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
    """Where an attachment of that VPC is attached, by its status. Raises Rejected on one that nobody understands, and
    on one that leads out of the VPC.
    """
    given = status.get("endpoint")
    if given is None:
        return None
    try:
        found = msgspec.convert(given, Endpoint)
    except msgspec.ValidationError as error:
        raise Rejected(str(error), field="status.endpoint") from error
    if srv6.parse_sid(found.sid).vpc != vpc:
        raise Rejected(f"{found.sid} is no SID of VPC {names.vpc_hex(vpc)}", field="status.endpoint.sid")
    return found


def compose(
    vpc: int,
    cluster: str,
    base: View | None,
    endpoints: Collection[Endpoint],
    gone: Mapping[int, int],
) -> View | None:
    """The whole table, or None where ``base``, the last one that MQTT told, says it all.

    ``gone``: attachments of our cluster that were seen to be detached, with the epoch they had.
    """
    revision, before = base or View(0, {})
    epochs: dict[int, int] = {}
    for known in before.values():
        function, own = holder_of(known)
        if own:
            epochs[function] = max(epochs.get(function, 0), epoch_of(known))
    newer = [each for each in endpoints if _counts(each, revision, epochs)]
    replaced = {each.function for each in newer}
    routes = {}
    for network, known in before.items():
        function, own = holder_of(known)
        if not own or (function not in replaced and gone.get(function, -1) < epoch_of(known)):
            routes[network] = known
    for each in sorted(newer, key=lambda it: (it.revision, it.epoch)):
        routes |= _entries(vpc, cluster, each)
    if base is not None and _same(before, routes):
        return None
    return View(max([revision, *(each.revision for each in newer)]) + 1, routes)


def _counts(told: Endpoint, revision: int, epochs: Mapping[int, int]) -> bool:
    known = epochs.get(told.function)
    if known is None:
        return told.revision >= revision
    return told.epoch > known or (told.epoch == known and told.revision >= revision)


def _entries(vpc: int, cluster: str, told: Endpoint) -> dict[PackedNetwork, Entry]:
    function = names.function_hex(told.function)
    entries = {}
    for network in told.networks:
        route = Route(network, (told.sid,), told.cluster or cluster, told.node, function, told.epoch)
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

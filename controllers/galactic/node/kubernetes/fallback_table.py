"""The table of a VPC while MQTT has none: MQTT's last one, and the newer endpoints in the API server.

The API server is no substitute by itself. It has the attachments of its own cluster only, and it lags: the router
records an endpoint after having published it. So an endpoint that is not there has not gone; it goes when it was seen
to go, or when a newer one takes its place:

- an endpoint counts if its epoch is newer than the attachment's in the table, or if it was recorded at the table's
  revision or later; those recorded before were an input of the table;
- of two with the same network the later recorded one holds it, and before the table;
- an endpoint of a peer counts as well where the table has no route to its attachment: the peering may be newer than the
  table. Its networks count inside the peer's, and where the VPC has no route of its own;
- the result's revision is one above all that it is made of: a recorded one may be too low by one, because the router
  records the revision that it published last.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import structlog

from galactic import names, srv6
from galactic.errors import Rejected
from galactic.linux.objects import PackedNetwork
from galactic.messages import Route
from galactic.node.state.attachment import Key
from galactic.node.state.remote import (
    Entry,
    Ranges,
    View,
    entry,
    epoch_of,
    holder_of,
    inside,
    is_imported,
    of_cluster,
    vpc_of,
)

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
    def key(self) -> Key:
        """The identifiers of VPC and attachment. Raises Rejected on a SID that is none."""
        sid = srv6.parse_sid(self.sid)
        return sid.vpc, sid.function


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


def compose(  # noqa: PLR0917
    vpc: int,
    cluster: str,
    base: View | None,
    endpoints: Collection[Endpoint],
    detached: Mapping[Key, int],
    peers: Mapping[int, Ranges] = MappingProxyType({}),
) -> View | None:
    """The whole table, or None where ``base``, MQTT's last one, has everything.

    ``endpoints``: of the VPC and its ``peers``. ``detached``: attachments of our cluster that were seen to be detached,
    with the epoch they had.
    """
    revision, before = base or View(0, {})
    epochs: dict[Key, int] = {}
    for known in before.values():
        if (key := _key(vpc, known)) is not None:
            epochs[key] = max(epochs.get(key, 0), epoch_of(known))
    newer = [endpoint for endpoint in endpoints if _counts(vpc, endpoint, revision, epochs)]
    replaced = {endpoint.key for endpoint in newer}
    routes = {}
    for network, known in before.items():
        key = _key(vpc, known)
        if key is None or (key not in replaced and detached.get(key, -1) < epoch_of(known)):
            routes[network] = known
    imported: dict[PackedNetwork, Entry] = {}
    for endpoint in sorted(newer, key=lambda endpoint: (endpoint.revision, endpoint.epoch)):
        number = endpoint.key[0]
        if number == vpc:
            routes |= _entries(vpc, cluster, endpoint)
        elif number in peers:
            imported |= {
                network: known
                for network, known in _entries(vpc, cluster, endpoint).items()
                if inside(network, peers[number])
            }
    routes |= {
        network: known
        for network, known in imported.items()
        if network not in routes or is_imported(routes[network])
    }
    if base is not None and _same(before, routes):
        return None
    return View(max([revision, *(endpoint.revision for endpoint in newer)]) + 1, routes)


def _key(vpc: int, known: Entry) -> Key | None:
    """The attachment of a route; None: of another cluster."""
    function, _ = holder_of(known)
    if not of_cluster(known):
        return None
    return (vpc_of(known) if is_imported(known) else vpc), function


def _counts(vpc: int, endpoint: Endpoint, revision: int, epochs: Mapping[Key, int]) -> bool:
    number, _ = key = endpoint.key
    epoch = epochs.get(key)
    if epoch is None:
        return number != vpc or endpoint.revision >= revision
    return endpoint.epoch > epoch or (endpoint.epoch == epoch and endpoint.revision >= revision)


def _entries(vpc: int, cluster: str, endpoint: Endpoint) -> dict[PackedNetwork, Entry]:
    function = names.function_hex(endpoint.key[1])
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

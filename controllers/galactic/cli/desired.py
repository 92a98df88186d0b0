"""A VPC's desired routes, and their differences from advertised and kernel routes: pure functions.

Desired routes are computed by the router's own function (``galactic.router.rib.table``) from the same objects.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, Final

from galactic.cli.snapshot import Snapshot
from galactic.errors import Rejected
from galactic.linux.objects import WAY_OUT_METRIC
from galactic.messages import Endpoint, Route
from galactic.names import function_hex, parse_function, parse_vpc, vpc_hex
from galactic.router.kubernetes.peers import PeerIndex
from galactic.router.rib.imports import tables_with_imports, vpc_of
from galactic.router.rib.networks import Network, entitled
from galactic.router.rib.path import Attachment, NodeRef, Segment
from galactic.router.rib.peerings import Peerings
from galactic.router.rib.table import VpcTable, table
from galactic.srv6 import locator, parse_prefix, parse_sid

Holder = tuple[int, str]
"""The identifiers of a VPC and of its attachment, the latter as messages write it."""
AHEAD_NS: Final = 24 * 3600 * 1_000_000_000
"""How far ahead of this clock an epoch may be, as in the router."""
UNREACHABLE: Final = frozenset({"0.0.0.0/0", "::/0"})


def attachments(snapshot: Snapshot) -> dict[str, Attachment]:
    """Each VPCAttachment as the router reads it."""
    attachments = {}
    for name, attachment in snapshot.attachments.items():
        vpc = snapshot.vpcs.get(snapshot.vpc_of(attachment))
        addresses = attachment.status.addresses or attachment.spec.interface.addresses
        networks = entitled(addresses, ((route.destination, route.via) for route in attachment.spec.routes))
        number, function = None, None
        with contextlib.suppress(Rejected):
            number = parse_vpc(vpc.status.identifier) if vpc and vpc.status.identifier else None
            function = parse_function(attachment.status.identifier) if attachment.status.identifier else None
        attachments[name] = Attachment(number, function, networks, attachment.status.ready)
    return attachments


def segments(snapshot: Snapshot, cluster: str = "default") -> dict[NodeRef, Segment]:
    """Each NodeSegment as the router reads it."""
    segments = {}
    for name, segment in snapshot.segments.items():
        prefix = None
        with contextlib.suppress(Rejected):
            prefix = parse_prefix(segment.spec.prefix)
        endpoints = tuple(
            Endpoint(
                status.vpc, status.function, status.attachment, status.sid, status.networks, status.epoch
            )
            for status in segment.status.endpoints
        )
        segments[NodeRef(cluster, name)] = Segment(prefix, endpoints)
    return segments


def desired(
    snapshot: Snapshot, vpc: int, advertised: Mapping[Network, Route], cluster: str = "default"
) -> VpcTable:
    """The VPC's table with its peers' routes, computed from the kinds' objects and the advertised routes.

    Routes to other clusters are taken from the advertised routes.
    """
    horizon = int(snapshot.at * 1e9) + AHEAD_NS
    installed: dict[int, dict[Network, Route]] = {}
    for network, route in advertised.items():  # what is imported is in the peer's own table
        installed.setdefault(vpc_of(route) or vpc, {})[network] = route
    tables = table(segments(snapshot, cluster), attachments(snapshot), installed, horizon).vpcs
    own = {number: one.routes for number, one in tables.items()}
    routes_ = tables_with_imports(own, peerings(snapshot, cluster)).get(vpc, {})
    wanted = replace(tables.get(vpc, VpcTable()), routes=routes_)
    for network, route in advertised.items():
        if route.cluster != cluster:
            wanted.routes.setdefault(network, route)
    return wanted


def peerings(snapshot: Snapshot, cluster: str = "default") -> Peerings:
    """The peerings in force, as the router computes them."""
    result = Peerings()
    index = PeerIndex(cluster, result)
    for name, vpc in snapshot.vpcs.items():
        namespace, _, own = name.partition("/")
        index.put((namespace, own), vpc)
    return result


def attachment_names(snapshot: Snapshot) -> dict[Holder, str]:
    """The attachments of this cluster by the identifiers of VPC and attachment."""
    names = {}
    for name, attachment in attachments(snapshot).items():
        if attachment.vpc is not None and attachment.function is not None:
            names[attachment.vpc, function_hex(attachment.function)] = name
    return names


@dataclass(frozen=True, slots=True)
class Row:
    """One network of a VPC. ``kernels``: each node's route: a SID, ``local``, or empty for none.

    ``peer``: the identifier of the peer that it is imported from; empty for the VPC's own.
    """

    network: str
    desired: str = ""
    advertised: str = ""
    node: str = ""
    attachment: str = ""
    kernels: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    peer: str = ""

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {
            "kernels": dict(self.kernels),
            "differences": [*self.differences],
        }


def rows(
    wanted: Mapping[Network, Route],
    advertised: Mapping[Network, Route] | None,
    kernels: Mapping[str, Mapping[str, Any] | None],
    names: Mapping[Holder, str],
    *,
    vpc: int,
    cluster: str = "default",
) -> list[Row]:
    """All networks of one VPC, in order.

    ``advertised``: None if no router could be read. ``kernels``: each node's table of this VPC from
    ``galactic-node-inspect``; None if the node does not have the VPC. ``names``: this cluster's attachments.
    """
    tables = {node: routes(table) for node, table in kernels.items() if table is not None}
    known = {*wanted, *(advertised or {}), *(network for table in tables.values() for network in table)}
    result = []
    for network in sorted(known, key=_order):
        route, sent = wanted.get(Network(network)), (advertised or {}).get(Network(network))
        sid = route.segments[0] if route else ""
        holder = route or sent
        to = (vpc_of(holder) or vpc) if holder else vpc
        peer = vpc_hex(to) if to != vpc else ""
        differences = []
        if advertised is not None and (sent.segments[0] if sent else "") != sid:
            differences.append("advertised")
        kernel = {node: table.get(network, "") for node, table in tables.items()}
        for node, has in kernel.items():
            local = route is not None and (route.cluster, route.node, peer) == (cluster, node, "")
            if has != ("local" if local else sid):
                differences.append(node)
        result.append(
            Row(
                str(network),
                sid,
                sent.segments[0] if sent else "",
                holder.node if holder else "",
                names.get((to, holder.function), "") if holder and holder.cluster == cluster else "",
                kernel,
                tuple(differences),
                peer,
            )
        )
    return result


def routes(table: Mapping[str, Any]) -> dict[str, str]:
    """A kernel's table: network → SID, ``local`` or ``unreachable``; the lowest metric counts."""
    result: dict[str, str] = {}
    for route in table["routes"]:
        kind, network = route["kind"], route["network"]
        if kind == "unreachable" and network in UNREACHABLE:
            continue  # the default of every VRF
        if route["metric"] == WAY_OUT_METRIC:
            continue  # to the VPC's gateway, which is in no router's table
        where = route["sid"] if kind == "sid" else "local" if kind in ("device", "via") else kind
        result.setdefault(network, where)
    return result


def node_of_sid(snapshot: Snapshot, sid: str) -> str:
    """The node of a SID; empty for none."""
    with contextlib.suppress(Rejected):
        place = parse_sid(sid).locator
        for name, segment in snapshot.segments.items():
            with contextlib.suppress(Rejected):
                if int(locator(parse_prefix(segment.spec.prefix)).network_address) >> 64 == place:
                    return name
    return ""


def advertised_routes(answers: Iterable[Mapping[str, Any]], vpc: str) -> dict[Network, Route]:
    """The routes of a VPC that the router with the highest term has published."""
    ranked = sorted(answers, key=lambda answer: answer["term"])
    table = ranked[-1]["vpcs"].get(vpc, {"routes": []}) if ranked else {"routes": []}
    return {
        Network(route["network"]): Route(
            route["network"],
            (route["sid"],),
            route["cluster"],
            route["node"],
            route["function"],
            route["epoch"],
        )
        for route in table["routes"]
    }


def _order(network: str) -> tuple[bool, bytes, int]:
    parsed = ip_network(network)
    return parsed.version == 6, parsed.network_address.packed, parsed.prefixlen

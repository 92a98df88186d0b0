"""The hops between two nodes, over the underlay: pure functions."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, ip_network
from typing import Any, Final

from galactic.cli.hop import STOPS, Hop, controller_remedy
from galactic.cli.observed import silent_neighbour
from galactic.cli.smaller_links import smaller_links
from galactic.cli.snapshot import Snapshot
from galactic.names import vpc_hex
from galactic.srv6 import parse_sid

LOOPBACK: Final = "lo-galactic"


def underlay_hops(sid: str, near: str, far: str, local: Mapping[str, Any]) -> Iterator[Hop]:
    """From node to node, over the underlay."""
    where = f"underlay of {near}"
    if not any(text.endswith(f" {LOOPBACK}") for text in local["addresses"]):
        yield Hop(
            where,
            f"{LOOPBACK} has no address, which packets need as their source",
            STOPS,
            controller_remedy(near),
        )
    if not any(IPv6Address(sid) in ip_network(rule["to"]) for rule in local["rules"]):
        what = f"no rule sends SIDs to the main table: packets to {sid} are dropped in the VRF"
        yield Hop(where, what, STOPS, controller_remedy(near))
    way = local["ways"].get(sid, {"type": "unknown", "device": "", "gateway": ""})
    if near == far:
        yield Hop(where, f"{sid} is this node's own")
    elif way["type"] != "unicast":
        remedy = f"the underlay must route {far}'s prefix to it: ip -6 route get {sid} on {near}; see docs/underlay.md"
        yield Hop(where, f"no route to {sid} of {far} ({way['type']})", STOPS, remedy)
    else:
        via = f" via {way['gateway']}" if way["gateway"] else ""
        yield Hop(where, f"to {far}: {way['device']}{via}; hops between the nodes are not visible")
        cause = f"is that router up? ip -6 neigh show dev {way['device']} on {near}; see docs/underlay.md"
        yield from silent_neighbour(where, near, way, local.get("resolving", {}), cause)


def smaller_link_hops(sid: str, near: str, far: str, snapshot: Snapshot) -> Iterator[Hop]:
    """The smaller link that a router has reported on the way to the SID."""
    for link in smaller_links(snapshot, near):
        if IPv6Address(sid) in link.locator:
            what = f"packets to {far} may have {link.mtu} bytes, as {link.router} has reported; pods learn it"
            yield Hop(f"underlay of {near}", what)


def decapsulated(
    sid: str, node: str, remote: Mapping[str, Any], device: str, peer: str = ""
) -> Iterator[Hop]:
    """At the SID, into the VRF ``device``: at least one hop."""
    where = f"SID {sid} on {node}"
    ends = [route for route in remote["sids"] if route["network"] == f"{sid}/128" and route["kind"] == "end"]
    if not ends:
        what = "the node has no such SID: the attachment has moved or ended, or its route is missing"
        vpc = vpc_hex(parse_sid(sid).vpc)
        remedy = f"galactic routes {vpc} shows which nodes still send there; {controller_remedy(node)}"
        yield Hop(where, what, STOPS, remedy)
        return
    if remote["sysctls"].get("net/vrf/strict_mode") != "1":
        what = "net.vrf.strict_mode is off: End.DT46 drops packets"
        yield Hop(where, what, STOPS, f"on {node}: sysctl -w net.vrf.strict_mode=1")
    yield Hop(where, f"End.DT46 into {ends[0]['device']}{peer}")
    if ends[0]["device"] != device:
        what = f"{ends[0]['device']} is another VPC's VRF, not {device}"
        yield Hop(where, what, STOPS, controller_remedy(node))

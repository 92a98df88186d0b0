"""The data path from pod to pod, hop by hop, from the kernels' and the API server's state: pure functions.

The order of the hops is that of docs/architecture.md, "The idea". A walk ends at the first hop that drops packets.
``galactic.cli.observed`` judges what happened to packets on the path.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

from galactic.cli.desired import node_of_sid
from galactic.cli.hop import RECREATE, STOPS, UNKNOWN, Hop, controller_remedy
from galactic.cli.observed import (
    Echo,
    answered,
    arrived,
    blocked,
    dropped,
    silent_gateway,
    silent_neighbour,
    stopped,
)
from galactic.cli.rules import ruled
from galactic.cli.snapshot import Snapshot
from galactic.cli.underlay_hops import decapsulated, smaller_link_hops, underlay_hops
from galactic.cli.way_out import Outward, outside, way_out
from galactic.names import host_end, parse_function, parse_vpc, vpc_hex, vrf
from galactic.router.rib.table import VpcTable
from galactic.srv6 import parse_sid

Inspection = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Location of an attachment: an endpoint in its node's NodeSegment."""

    attachment: str
    pod: str
    node: str
    vpc: str  # hex
    function: str  # hex
    netns: str
    ifname: str
    sid: str
    networks: tuple[str, ...]

    @property
    def inside(self) -> str:
        """The pod's network namespace and interface, as ``galactic-node-inspect`` takes them."""
        return f"{self.netns}@{self.ifname}"

    @property
    def device(self) -> str:
        """The host end of the veth pair."""
        return host_end(parse_vpc(self.vpc), parse_function(self.function))

    @property
    def vrf(self) -> str:
        return vrf(parse_vpc(self.vpc))


def places(snapshot: Snapshot) -> dict[str, Place]:
    """The location of each attachment by name; where two nodes list it, the one with the newest epoch."""
    newest: dict[str, tuple[int, Place]] = {}
    for node, segment in snapshot.segments.items():
        for endpoint in segment.status.endpoints:
            pods = snapshot.carriers(endpoint.attachment)
            on = [pod for pod in pods if snapshot.pods[pod]["spec"].get("nodeName") == node]
            place = Place(
                endpoint.attachment,
                (on or pods or [""])[0],
                node,
                endpoint.vpc,
                endpoint.function,
                endpoint.netns,
                endpoint.ifname,
                endpoint.sid,
                endpoint.networks,
            )
            if endpoint.attachment not in newest or newest[endpoint.attachment][0] < endpoint.epoch:
                newest[endpoint.attachment] = endpoint.epoch, place
    return {name: place for name, (_, place) in newest.items()}


def vpc_name(snapshot: Snapshot, identifier: str) -> str:
    """The VPC with an identifier, as namespace/name; the identifier where there is none here."""
    names = (name for name, vpc in snapshot.vpcs.items() if vpc.status.identifier == identifier)
    return min(names, default=identifier)


@dataclass(frozen=True, slots=True)
class _Flow:
    """Packets of a pod to an address. ``echo``: the result of its echo requests; None: none were sent."""

    source: Place
    address: str
    snapshot: Snapshot
    echo: Echo | None


def walk(
    source: Place,
    address: str,
    kernels: Mapping[str, Inspection | str],
    snapshot: Snapshot,
    table: VpcTable,
    *,
    echo: Echo | None = None,
) -> Iterator[Hop]:
    """The hops of a packet from ``source`` to ``address``.

    ``kernels``: by node the output of ``galactic-node-inspect``, or the error. It covers both pods, ``VPC@ADDRESS`` on
    both nodes, and on the first node the route to the SID.
    """
    for hop in _hops(_Flow(source, address, snapshot, echo), kernels, table):
        yield hop
        if hop.state == STOPS:
            if echo is not None and echo.complete:
                what = f"but {echo.answered} of {echo.sent} echo requests were answered: the state changed meanwhile"
                yield Hop(address, what, UNKNOWN, "trace again")
            return


def _hops(flow: _Flow, kernels: Mapping[str, Inspection | str], table: VpcTable) -> Iterator[Hop]:
    """All hops, also those behind one that stops packets."""
    source, address, snapshot, echo = flow.source, flow.address, flow.snapshot, flow.echo
    local = kernels.get(source.node, "it was not inspected")
    if isinstance(local, str):
        yield Hop(
            f"node {source.node}",
            f"its kernel cannot be read: {local}",
            UNKNOWN,
            controller_remedy(source.node),
        )
        return
    yield from _source_hops(flow, local)
    yield from ruled(snapshot, source.attachment, "out", address)
    way = local["ways"].get(f"{source.vpc}@{address}", {"type": "unknown", "device": "", "sid": ""})
    where = f"VRF {source.vrf} on {source.node}"
    if not sid_of(table, address) and outside(snapshot, source.vpc, address):
        vpc = vpc_name(snapshot, source.vpc)
        yield from way_out(Outward(snapshot, vpc, source.vpc, source.node, address, kernels, echo))
        return
    yield from _order(address, source.vrf, source.node, local, lost=way["type"] != "unicast")
    if way["type"] != "unicast":
        why = _no_route_reason(source, ip_address(address), snapshot, table)
        yield Hop(where, f"no route to {address} ({way['type']})", STOPS, why)
    if not way["sid"]:
        yield Hop(where, f"{address} is on this node, behind {way['device']}")
        yield from _destination_hops(flow, way, local, source.node)
        return
    yield Hop(where, f"{address} is encapsulated to SID {way['sid']}")
    node = node_of_sid(snapshot, way["sid"])
    if not node:
        what = f"no NodeSegment has SID {way['sid']}: it belongs to another cluster or a removed node"
        yield Hop("SRv6", what, UNKNOWN)
        yield from answered(address, echo)
        return
    yield from underlay_hops(way["sid"], source.node, node, local)
    yield from smaller_link_hops(way["sid"], source.node, node, snapshot)
    remote = kernels.get(node, "it was not inspected")
    if isinstance(remote, str):
        yield Hop(f"node {node}", f"its kernel cannot be read: {remote}", UNKNOWN, controller_remedy(node))
        yield from answered(address, echo)
        return
    yield from _decapsulation_hops(flow, way["sid"], node, remote)


def _source_hops(flow: _Flow, local: Inspection) -> Iterator[Hop]:
    """From the pod into the VRF."""
    source, destination = flow.source, ip_address(flow.address)
    pod = local["pods"].get(source.inside)
    where = f"pod {source.pod or source.attachment}"
    if pod is None:
        yield Hop(where, f"its interface {source.ifname} is not in {source.netns}", STOPS, RECREATE)
        return
    if not pod.get("up", True):
        yield Hop(where, f"its interface {source.ifname} is down", STOPS, _set_up(source))
    mine = [text for text in pod["addresses"] if ip_interface(text).version == destination.version]
    if not mine:
        has = ", ".join(pod["addresses"]) or "none"
        what = f"{source.ifname} has no IPv{destination.version} address (it has {has})"
        yield Hop(where, what, STOPS, "give the attachment one: spec.interface.addresses")
        return
    if any(ip_interface(text).ip == destination for text in pod["addresses"]):
        yield Hop(where, f"{destination} is its own address", STOPS, "trace another address")
    if not (route := covering(pod["routes"], destination)):
        what = f"no route to {destination} on {source.ifname}: packets leave by the pod's default network or not at all"
        remedy = (
            "the address is outside the VPC's networks: add a network to the VPC's spec.networks, or "
            "a route to the attachment; one without via leads out by the VPC's gateway"
        )
        yield Hop(where, what, STOPS, remedy)
        return
    gateway = route.get("gateway", "")
    yield Hop(where, f"{mine[0]} on {source.ifname}; {route['network']} via {gateway or 'its gateway'}")
    yield from _host_end_hops(source, local)
    way = local["ways"].get(f"{source.vpc}@{flow.address}", {})
    tunnelled = bool(way.get("sid"))
    devices = (source.device, source.vrf, way.get("device", ""))
    yield from stopped(source.node, devices, flow.echo, local)
    yield from blocked(source.node, destination.version, flow.echo, local, tunnelled=tunnelled)
    if gateway:
        yield from silent_gateway(where, source.node, source.ifname, gateway, flow.echo)
    yield from dropped(source.node, flow.echo, flow.echo.local if flow.echo else None)


def _order(address: str, device: str, node: str, inspection: Inspection, *, lost: bool) -> Iterator[Hop]:
    """The node's policy rules look packets of VRFs up elsewhere first. ``lost``: so there is no route."""
    order = inspection.get("lookups", {}).get(f"IPv{ip_address(address).version}")
    if order is None or order["vrf_first"]:
        return
    what = (
        f"no policy rule leads packets of {device} to its table before the table local: an address that the node has "
        "too, or that no table has, goes to the node and not to the pod"
    )
    rule = "ip rule" if ip_address(address).version == 4 else "ip -6 rule"
    remedy = f"{rule} on {node}: another program deleted the rule l3mdev; {controller_remedy(node)}"
    yield Hop(f"policy rules of {node}", what, STOPS if lost else UNKNOWN, remedy)


def _host_end_hops(source: Place, local: Inspection) -> Iterator[Hop]:
    link = local["links"].get(source.device)
    where = f"{source.device} on {source.node}"
    if link is None or not link["up"] or link["master"] != source.vrf:
        what = (
            "does not exist" if link is None else "is down" if not link["up"] else f"is not in {source.vrf}"
        )
        yield Hop(where, f"the host end {what}", STOPS, controller_remedy(source.node))
        return
    yield Hop(
        where, f"the host end, MTU {link['mtu']}, {link.get('rx_packets', '?')} packets came from the pod"
    )
    master = local["links"].get(source.vrf)
    if master is None or not master["up"]:
        what = "does not exist" if master is None else "is down"
        yield Hop(f"VRF {source.vrf}", what, STOPS, controller_remedy(source.node))


def _set_up(place: Place) -> str:
    return f"in the pod: ip link set {place.ifname} up; or {RECREATE}"


def _decapsulation_hops(flow: _Flow, sid: str, node: str, remote: Inspection) -> Iterator[Hop]:
    """Decapsulation, into the VRF of the SID's VPC, and to the pod. That of a peer is another one than the source's."""
    source, address = flow.source, flow.address
    vpc = vpc_hex(parse_sid(sid).vpc)
    device = vrf(parse_vpc(vpc))
    peer = "" if vpc == source.vpc else f", the VRF of peer {vpc_name(flow.snapshot, vpc)}"
    ended = [*decapsulated(sid, node, remote, device, peer)]
    yield from ended
    if ended[-1].state == STOPS:
        return
    yield from dropped(node, flow.echo, flow.echo.remote if flow.echo else None)
    way = remote["ways"].get(f"{vpc}@{address}", {"type": "unknown", "device": "", "sid": ""})
    yield from stopped(node, (device, way["device"]), flow.echo, remote)
    yield from blocked(node, ip_address(address).version, flow.echo, remote, tunnelled=True)
    yield from _order(address, device, node, remote, lost=way["type"] != "unicast")
    where = f"VRF {device} on {node}"
    if way["type"] != "unicast" or way["sid"]:
        what = (
            f"sends {address} on to SID {way['sid']}"
            if way["sid"]
            else f"no route to {address} ({way['type']})"
        )
        yield Hop(
            where, what, STOPS, f"the pod has moved or is ending; if it stays so: {controller_remedy(node)}"
        )
    yield Hop(where, f"{address} is behind {way['device']}")
    yield from _destination_hops(flow, way, remote, node)


def _destination_hops(flow: _Flow, way: Mapping[str, Any], remote: Inspection, node: str) -> Iterator[Hop]:
    """Hops from the host end into the pod. A fault inside the pod comes before its consequences."""
    address, device, source = flow.address, way["device"], flow.source
    where, link = f"{device} on {node}", remote["links"].get(device)
    if link is None or not link["up"]:
        yield Hop(where, "does not exist" if link is None else "is down", STOPS, controller_remedy(node))
        return
    what = f"the host end, MTU {link['mtu']}, {link.get('tx_packets', '?')} packets went to the pod"
    yield Hop(where, what)
    at = places(flow.snapshot).values()
    target = next((place for place in at if place.device == device and place.node == node), None)
    if target is None:
        what = f"no attachment of {node} is behind {device}"
        yield Hop(f"node {node}", what, STOPS, controller_remedy(node))
        return
    name, pod = f"pod {target.pod or target.attachment}", remote["pods"].get(target.inside)
    if pod is None:
        yield Hop(name, f"its interface {target.ifname} is not in {target.netns}", STOPS, RECREATE)
        return
    if not pod.get("up", True):
        yield Hop(name, f"its interface {target.ifname} is down", STOPS, _set_up(target))
    own = {str(ip_interface(text).ip) for text in pod["addresses"]}
    hop = (way.get("neighbour") or {}).get("address", "")
    cause = (
        f"{hop} is not on {target.ifname} (it has {', '.join(sorted(own)) or 'no address'}); "
        f"{controller_remedy(node)}"
    )
    yield from silent_neighbour(where, node, way, remote.get("resolving", {}), "" if hop in own else cause)
    if str(ip_address(address)) in own:
        yield Hop(name, f"has {address} on {target.ifname}")
    else:
        what = f"{address} is not on {target.ifname}: the pod terminates the network and forwards from there"
        yield Hop(name, what)
    if origin := _origin(flow):
        yield from ruled(flow.snapshot, target.attachment, "in", origin)
    start = (f"pod {source.pod or source.attachment}", source.device, source.node)
    yield from arrived(address, start, node, device, name, flow.echo)


def _origin(flow: _Flow) -> str:
    """The source's own address in the family of the destination; empty without one."""
    attachment = flow.snapshot.attachments.get(flow.source.attachment)
    own = (ip_interface(text).ip for text in (attachment.status.addresses if attachment else ()))
    return next((str(one) for one in own if one.version == ip_address(flow.address).version), "")


def covering(
    routes: Sequence[Mapping[str, Any]], address: IPv4Address | IPv6Address
) -> Mapping[str, Any] | None:
    """The route that a packet to ``address`` takes: the longest prefix, then the lowest metric."""
    fits = [route for route in routes if _contains(route["network"], address)]
    if not fits:
        return None
    return max(fits, key=lambda route: (ip_network(route["network"]).prefixlen, -route["metric"]))


def _contains(network: str, address: IPv4Address | IPv6Address) -> bool:
    parsed = ip_network(network)
    return parsed.version == address.version and address in parsed


def _no_route_reason(
    source: Place, destination: IPv4Address | IPv6Address, snapshot: Snapshot, table: VpcTable
) -> str:
    """Why the VPC has no route to the destination, with the remedy."""
    for conflict in table.conflicts:
        if _contains(conflict.network, destination):
            return (
                f"{conflict.path.attachment} and {conflict.owner.attachment} both announce {conflict.network}: "
                "delete one of them, or give it another address"
            )
    if any(_contains(network, destination) for network in table.routes):
        why = (
            f"the route is desired but missing in this kernel: {controller_remedy(source.node)}; galactic "
            f"routes {source.vpc}"
        )
        if name := _unrouted(source, destination, snapshot):
            describe = f"kubectl describe vpca -n {name.replace('/', ' ')}"
            why = f"VPCAttachment {name} has it, but no router has published its route: galactic status, and {describe}"
        return why
    for name, attachment in snapshot.attachments.items():
        vpc = snapshot.vpcs.get(snapshot.vpc_of(attachment))
        if vpc is None or vpc.status.identifier != source.vpc:
            continue
        if any(ip_interface(text).ip == destination for text in attachment.status.addresses):
            if not attachment.status.ready:
                describe = f"kubectl describe vpca -n {name.replace('/', ' ')}"
                return f"VPCAttachment {name} has it, but is not Ready: {describe}"
            if carriers := snapshot.carriers(name):
                return f"VPCAttachment {name} has it, but its pod {carriers[0]} is not attached: describe the pod"
            return f"VPCAttachment {name} has it, but no pod uses it: create one with its annotation"
    return "no attachment of this VPC has it: galactic vpcs -o json lists all attachments"


def _unrouted(source: Place, destination: IPv4Address | IPv6Address, snapshot: Snapshot) -> str:
    """The attachment with this address whose condition Routed is False; empty for none."""
    for name, attachment in snapshot.attachments.items():
        vpc = snapshot.vpcs.get(snapshot.vpc_of(attachment))
        silent = any(
            condition.type == "Routed" and condition.status == "False"
            for condition in attachment.status.conditions
        )
        mine = silent and vpc is not None and vpc.status.identifier == source.vpc
        if mine and any(ip_interface(text).ip == destination for text in attachment.status.addresses):
            return name
    return ""


def sid_of(table: VpcTable, address: str) -> str:
    """The desired SID for ``address`` in the VPC; empty for none."""
    parsed = ip_address(address)
    fits = [network for network in table.routes if _contains(network, parsed)]
    if not fits:
        return ""
    best = max(fits, key=lambda network: ip_network(network).prefixlen)
    return table.routes[best].segments[0]

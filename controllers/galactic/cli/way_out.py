"""The hops beyond a VPC's default route, by the nodes of its VPCGateway: pure functions.

The source node may use several of the gateway's nodes at once, so each is followed. Packets leave by all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from galactic.cli.hop import PASSES, STOPS, UNKNOWN, Hop, controller_remedy
from galactic.cli.observed import Echo, blocked, dropped, silent_neighbour
from galactic.cli.snapshot import Snapshot
from galactic.cli.underlay_hops import decapsulated, smaller_link_hops, underlay_hops
from galactic.crds.vpcgateway import GatewayNode, VpcGateway
from galactic.linux.objects import WAY_OUT_METRIC
from galactic.names import (
    exit_end,
    gateway_vrf,
    inner_end,
    join_end,
    main_end,
    parse_function,
    parse_vpc,
    vrf,
)
from galactic.node.dataplane.gateway_rules import ALWAYS
from galactic.srv6 import parse_sid

EVERYTHING: Final = {4: "0.0.0.0/0", 6: "::/0"}
DOCUMENTED: Final = "see docs/gateways.md"


@dataclass(frozen=True, slots=True)
class Outward:
    """Packets of a VPC (``vpc``: its name, ``identifier``: hex) from a node to an address outside.

    ``kernels``: by node the output of ``galactic-node-inspect``, or the error. The node's own has been read.
    """

    snapshot: Snapshot
    vpc: str
    identifier: str
    node: str
    address: str
    kernels: Mapping[str, Mapping[str, Any] | str]
    echo: Echo | None

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        return ip_address(self.address)

    @property
    def local(self) -> Mapping[str, Any]:
        kernel = self.kernels[self.node]
        assert not isinstance(kernel, str)
        return kernel

    @property
    def device(self) -> str:
        return vrf(parse_vpc(self.identifier))

    def way(self, node: Mapping[str, Any], *, vrf: bool = True) -> Mapping[str, Any]:
        """A kernel's way to the address, from the VRF or from the table main."""
        text = f"{self.identifier}@{self.address}" if vrf else self.address
        unknown = {"type": "unknown", "device": "", "gateway": "", "sid": ""}
        way: Mapping[str, Any] = node["ways"].get(text, unknown)
        return way


def outside(snapshot: Snapshot, identifier: str, address: str) -> bool:
    """Whether an address is in none of the VPC's networks, nor of its peers in force."""
    destination = ip_address(address)
    networks = [
        network
        for vpc in snapshot.vpcs.values()
        if vpc.status.identifier == identifier
        for network in (*vpc.spec.networks, *(text for peer in vpc.status.peers for text in peer.networks))
    ]
    return bool(networks) and not any(destination in ip_network(text, strict=False) for text in networks)


def way_out(outward: Outward) -> Iterator[Hop]:
    """From the VRF to the network outside. The last hop is the answer to echo requests, if some were sent."""
    where = f"VRF {outward.device} on {outward.node}"
    known = outward.snapshot.gateway_of(outward.vpc)
    if known is None:
        what = f"no route to {outward.address} ({outward.way(outward.local)['type']}): nothing leads {outward.vpc} out"
        yield Hop(where, what, STOPS, f"make a VPCGateway in the VPC's namespace, {DOCUMENTED}")
        return
    name, gateway = known
    if (obstacle := _obstacle(outward, name, gateway)) is not None:
        yield obstacle
        return
    here = next((one for one in gateway.status.nodes if one.node == outward.node), None)
    used = [here] if here is not None and leads(gateway, here, outward.destination.version) else []
    if not used:
        used = _used(outward, gateway)
    if not used:
        what = f"VPCGateway {name} leads out, but this kernel has no default route to its nodes"
        yield Hop(where, what, STOPS, controller_remedy(outward.node))
        return
    yield Hop(where, f"{outward.address} is outside: by VPCGateway {name}, {_listed(used)}")
    yield from _answering(outward, name, gateway, used)
    for exit_ in used:
        yield from _exit_hops(outward, gateway, exit_)
    yield from _answer(outward, gateway, used)


def leads(gateway: VpcGateway, exit_: GatewayNode, family: int) -> bool:
    """Whether a node is to lead out packets of the family: with SNAT it holds an address of it."""
    if f"IPv{family}" not in gateway.status.families:
        return False
    return not gateway.status.snat or any(ip_address(text).version == family for text in exit_.addresses)


def _obstacle(outward: Outward, name: str, gateway: VpcGateway) -> Hop | None:
    """Why no node of the gateway leads out packets of this family, from its conditions."""
    family, where = outward.destination.version, f"VPCGateway {name}"
    describe = f"kubectl describe vpcgw -n {name.replace('/', ' ')}"
    conditions = {condition.type: condition for condition in gateway.status.conditions}
    for kind in ("Accepted", "Ready"):
        state = conditions.get(kind)
        if state is None:
            return Hop(
                where, "the operator has not decided about it yet", STOPS, f"galactic status; {describe}"
            )
        if kind == "Accepted" and state.status != "True":
            return Hop(where, f"is not accepted ({state.reason}): {state.message}", STOPS, describe)
    families = gateway.status.families
    if families and f"IPv{family}" not in families:
        what = f"leads out {' and '.join(families)} alone"
        return Hop(where, what, STOPS, f"add IPv{family} to its spec.families, and an address of it")
    if any(exit_.ready and leads(gateway, exit_, family) for exit_ in gateway.status.nodes):
        return None
    lacking = [text for exit_ in gateway.status.nodes if (text := not_ready(outward.snapshot, exit_))]
    what = f"is not ready ({conditions['Ready'].reason}): {'; '.join(lacking) or conditions['Ready'].message}"
    return Hop(where, what, STOPS, f"{describe}; the program nft is needed on its nodes, {DOCUMENTED}")


def not_ready(snapshot: Snapshot, exit_: GatewayNode) -> str:
    """Why a gateway's node does not lead out, as the node reports it; empty if it does."""
    if exit_.ready:
        return ""
    segment = snapshot.segments.get(exit_.node)
    for condition in segment.status.conditions if segment else ():
        if condition.type == "Gateways" and condition.status == "False":
            return f"{exit_.node}: {condition.message}"
    return f"{exit_.node} has not reported the way out"


def _used(outward: Outward, gateway: VpcGateway) -> list[GatewayNode]:
    """The nodes to which the source node's default route leads now."""
    table = outward.local["vpcs"].get(outward.identifier) or {"routes": ()}
    sids = {
        sid["sid"]
        for route in table["routes"]
        if route["network"] == EVERYTHING[outward.destination.version] and route["metric"] == WAY_OUT_METRIC
        for sid in (route.get("sids") or ([route] if route["kind"] == "sid" else ()))
    }
    sids |= {outward.way(outward.local)["sid"]} - {""}  # of a node of an earlier version
    return [exit_ for exit_ in gateway.status.nodes if exit_.sid in sids]


def loopback(exit_: GatewayNode) -> str:
    """The node's SRv6 loopback, which nodes ask whether it answers."""
    return str(IPv6Address(int(parse_sid(exit_.sid).address) | (1 << 64) - 1))


def _answering(outward: Outward, name: str, gateway: VpcGateway, used: list[GatewayNode]) -> Iterator[Hop]:
    """Which of the gateway's nodes answer the source node, if it asked; and which of them it does not use."""
    answers, where = outward.local.get("answers", {}), f"gateway's nodes, from {outward.node}"
    for exit_ in gateway.status.nodes:
        if exit_.node == outward.node or not leads(gateway, exit_, outward.destination.version):
            continue
        answering, using = answers.get(loopback(exit_)), exit_ in used
        if answering is False:
            what = f"{exit_.node} does not answer echo requests to {loopback(exit_)}"
            if not using:
                yield Hop(where, f"{what}: packets are led round it")
                continue
            remedy = (
                f"is {exit_.node} up, and does the underlay route its prefix? ip -6 route get {exit_.sid}"
            )
            yield Hop(where, f"{what}, and is used all the same", UNKNOWN, remedy)
        elif not exit_.ready:
            yield Hop(where, f"{not_ready(outward.snapshot, exit_)}: VPCGateway {name} goes without it")
        elif answering:
            yield Hop(where, f"{exit_.node} answers{'' if using else ', and is not used now'}")


def _exit_hops(outward: Outward, gateway: VpcGateway, exit_: GatewayNode) -> Iterator[Hop]:
    """One of the gateway's nodes: into its VRF, and out of the cluster."""
    node, local = exit_.node, outward.local
    if node != outward.node:
        yield from underlay_hops(exit_.sid, outward.node, node, local)
        yield from smaller_link_hops(exit_.sid, outward.node, node, outward.snapshot)
    remote = outward.kernels.get(node, "it was not inspected")
    if isinstance(remote, str):
        yield Hop(f"node {node}", f"its kernel cannot be read: {remote}", UNKNOWN, controller_remedy(node))
        return
    if node != outward.node:
        yield from decapsulated(exit_.sid, node, remote, outward.device)
        yield from dropped(node, outward.echo, _counted(outward, node))
        yield from blocked(node, outward.destination.version, outward.echo, remote, tunnelled=True)
    yield from _separated(outward, gateway, node, remote)
    yield from _forbidden(outward, gateway, node, remote)
    yield from _out(outward, gateway, exit_, remote)


def _separated(outward: Outward, gateway: VpcGateway, node: str, remote: Mapping[str, Any]) -> Iterator[Hop]:
    """From the VRF by the two pairs of devices, or by the one pair of a gateway that translates nothing."""
    number = parse_vpc(outward.identifier), parse_function(gateway.status.function or "")
    out, main = exit_end(*number), main_end(*number)
    own = gateway_vrf(*number)
    publishes = any(entry.node and entry.inside for entry in gateway.status.published)
    # A node of an earlier version has the gateway's own VRF only where it publishes.
    between = [join_end(*number), inner_end(*number), own] if publishes or own in remote["links"] else []
    missing = [device for device in (*between, out, main) if not remote["links"].get(device, {}).get("up")]
    if missing:
        what = f"{' and '.join(missing)} are not there or are down: the way out is not in this kernel"
        yield Hop(
            f"VRF {outward.device} on {node}", what, STOPS, f"{controller_remedy(node)}, condition Gateways"
        )
        return
    way = outward.way(remote)
    where = f"VRF {outward.device} on {node}"
    out = (*between, out)[0]
    if way["type"] != "unicast" or way["device"] != out:
        leads_to = (
            f"to {way['device'] or way['sid']}" if way["type"] == "unicast" else f"nowhere ({way['type']})"
        )
        what = f"{outward.address} is led {leads_to}, not to {out}"
        yield Hop(where, what, STOPS, controller_remedy(node))
        return
    yield Hop(where, f"{outward.address} leaves the VRF by {out}")


def _forbidden(outward: Outward, gateway: VpcGateway, node: str, remote: Mapping[str, Any]) -> Iterator[Hop]:
    """Destinations that the node's rules drop."""
    destination, where = outward.destination, f"gateway's rules on {node}"
    for text in ALWAYS[destination.version]:
        if destination in ip_network(text):
            yield Hop(where, f"drop {destination}: no gateway leads to {text}", STOPS, DOCUMENTED)
            return
    for text in gateway.status.forbidden:
        if destination in ip_network(text):
            what = f"drop {destination}: {text} is the cluster's own, or forbidden by an administrator"
            remedy = "an administrator allows parts of it by the chart's value gateways.allowed"
            yield Hop(where, what, STOPS, remedy)
            return
    if outward.way(remote, vrf=False)["type"] == "local":
        yield Hop(where, f"drop {destination}: it is an address of {node} itself", STOPS, DOCUMENTED)


def _out(
    outward: Outward, gateway: VpcGateway, exit_: GatewayNode, remote: Mapping[str, Any]
) -> Iterator[Hop]:
    """From the table main to the network outside, and the packets' source there."""
    node, way = exit_.node, outward.way(remote, vrf=False)
    where = f"table main of {node}"
    if way["type"] != "unicast":
        remedy = f"ip route get {outward.address} on {node}: it needs a route to the network outside"
        yield Hop(where, f"no route to {outward.address} ({way['type']})", STOPS, remedy)
        return
    via = f" via {way['gateway']}" if way["gateway"] else ""
    yield Hop(where, f"leaves by {way['device']}{via} with {sources(outward, gateway, exit_)}")
    yield from silent_neighbour(where, node, way, remote.get("resolving", {}))


def sources(outward: Outward, gateway: VpcGateway, exit_: GatewayNode) -> str:
    """The source of packets outside, in words."""
    if not gateway.status.snat:
        return "the pod's own address"
    addresses = [text for text in exit_.addresses if ip_address(text).version == outward.destination.version]
    return (
        addresses[0]
        if len(addresses) == 1
        else f"one of {', '.join(addresses)}, the same for each of a pod's connections"
    )


def _answer(outward: Outward, gateway: VpcGateway, used: list[GatewayNode]) -> Iterator[Hop]:
    """The result of the echo requests, and how far they came by the devices' counters."""
    echo, address = outward.echo, outward.address
    if echo is None:
        return
    if echo.complete:
        text = f"answers: {echo.answered} of {echo.sent} echo requests, {echo.milliseconds:g} ms"
        yield Hop(address, text, PASSES)
        return
    if echo.refused and not echo.sent:
        yield Hop(address, f"the pod's kernel sends no echo request: {echo.refused}", STOPS)
        return
    number = parse_vpc(outward.identifier), parse_function(gateway.status.function or "")
    main, nodes = main_end(*number), [exit_.node for exit_ in used]
    came = [
        f"{packets.get('rx_packets', 0)} packets left by {node}, {packets.get('tx_packets', 0)} came back"
        for node in nodes
        if (packets := (_counted(outward, node) or {}).get("links", {}).get(main)) is not None
    ]
    what = "; ".join([f"{echo.answered} of {echo.sent} echo requests were answered", *came, *echo.errors])
    back = (
        "does the network outside route " + _routed(used, outward.destination.version)
        if gateway.status.snat
        else f"does the network outside route the VPC's networks to {_listed(used)}"
    )
    yield Hop(address, what, UNKNOWN, f"{back}? The host may not answer pings: try a service of it")


def _routed(used: list[GatewayNode], family: int) -> str:
    """E.g. ``203.0.113.2 to node-2``."""
    return ", ".join(
        f"{text} to {exit_.node}"
        for exit_ in used
        for text in exit_.addresses
        if ip_address(text).version == family
    )


def _counted(outward: Outward, node: str) -> Mapping[str, Any] | None:
    """The counters that rose on a node during the echo requests; None if unknown.

    Those of another node are of the one to which the source node's kernel leads the address.
    """
    if outward.echo is None:
        return None
    if node == outward.node:
        return outward.echo.local
    chosen = outward.way(outward.local)["sid"]
    exits = outward.snapshot.gateway_of(outward.vpc)
    target = next((one.node for one in exits[1].status.nodes if one.sid == chosen), "") if exits else ""
    return outward.echo.remote if node == target else None


def _listed(exits: list[GatewayNode]) -> str:
    return " and ".join(exit_.node for exit_ in exits)

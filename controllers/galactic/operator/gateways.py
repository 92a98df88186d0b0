"""The reconciler of VPCGateways: identifier, nodes, addresses, published ports, and destinations that are not led to.

Nodes act by the status alone (docs/design/gateways.md): so no tenant chooses a node, an address or a destination that
is not checked here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, collapse_addresses, ip_address
from typing import Any

import structlog

from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcgateway import MAX_FORBIDDEN, GatewayNode, GatewayStatus, VpcGateway
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import ACCEPTED, PUBLISHED, READY, REDUNDANT, State, conditions, now, reason_of
from galactic.kube.resources import VPC_GATEWAYS
from galactic.names import function_hex, parse_function, parse_vpc, vpc_hex
from galactic.operator.cluster_networks import ClusterNetworks
from galactic.operator.context import ReconcileContext
from galactic.operator.gateway_nodes import chosen, spread
from galactic.operator.objects import Invalid, status_of
from galactic.operator.published import Members, Published, condition, insides, restored
from galactic.operator.segments import obstacle
from galactic.srv6 import parse_prefix, sid
from galactic.validation.gateways import Owned, ParsedGateway, disjoint, parse_gateway, routable
from galactic.validation.holders import GATEWAY
from galactic.validation.networks import Address, Network, parse_networks

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A gateway's decision."""

    parsed: ParsedGateway
    families: tuple[int, ...]
    networks: tuple[Network, ...]
    nodes: tuple[GatewayNode, ...]
    holders: Mapping[Address, str]  # published address → node


class Gateways:
    """Of all VPCGateways."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        self._networks = ClusterNetworks(context)

    async def reconcile(self, key: Key) -> None:
        context = self._context
        gateway = context.caches.gateways.get(key)
        if gateway is None:
            self._release(key)
            return
        status = status_of(GatewayStatus, gateway)
        after: dict[str, Any]
        try:
            if isinstance(gateway, Invalid):
                raise gateway.problem
            owned = await self._networks.owned()
            placed = self._placed(key, gateway, owned)
        except (Rejected, NotYet) as error:
            state = State("False", reason_of(error), str(error))
            # What is in force stays until it can be decided again; what was refused leads nowhere.
            after = {} if isinstance(error, NotYet) else {"nodes": [], "forbidden": [], "published": []}
            accepted = (
                state if isinstance(error, Rejected) else State("True", "Valid", "the specification is valid")
            )
            after |= {
                "ready": False,
                "conditions": {ACCEPTED: accepted, READY: state, REDUNDANT: None, PUBLISHED: None},
            }
            if isinstance(error, Rejected):
                self._release(key)
        else:
            after = self._status(key, gateway, placed, owned)
        meta = gateway.metadata
        after["conditions"] = conditions(status.conditions, after["conditions"], meta.generation, now())
        after["observedGeneration"] = meta.generation
        await context.status(VPC_GATEWAYS, meta, status, after)

    def _placed(self, key: Key, gateway: VpcGateway, owned: Sequence[Owned]) -> _Placed:
        context, rules = self._context, self._context.rules
        parsed = parse_gateway(gateway, rules.gateway_addresses, rules.srv6_block)
        vpc = context.caches.vpcs.get(parsed.vpc)
        number = context.allocator.vpcs.of(parsed.vpc)
        if not isinstance(vpc, Vpc) or not vpc.status.ready or number is None:
            raise NotYet(
                f"VPC {'/'.join(parsed.vpc)} is not ready, or does not exist; make it", reason="VPCNotReady"
            )
        networks = parse_networks(vpc.spec.networks, rules.srv6_block)
        families = parsed.families or tuple(sorted({network.version for network in networks}))
        _in_families(parsed, networks)
        self._sole(key, gateway, parsed)
        if parsed.snat:
            disjoint(parsed.fields, owned)
        else:
            routable((one for one in networks if one.version in families), rules.gateway_addresses, owned)
        self._identify(key, gateway, parsed.vpc)
        nodes = self._nodes(key, gateway, parsed)
        return _Placed(parsed, families, networks, nodes, _holders(gateway, parsed, nodes))

    def _sole(self, key: Key, gateway: VpcGateway, parsed: ParsedGateway) -> None:
        """Raises Rejected where an older gateway has the VPC, or one of the addresses."""
        for other_key, other in self._context.caches.gateways.items():
            if (
                other_key == key
                or not isinstance(other, VpcGateway)
                or _age(other_key, other) > _age(key, gateway)
            ):
                continue
            if (other.metadata.namespace, other.spec.vpc.name) == parsed.vpc:
                raise Rejected(
                    f"{parsed.vpc[1]} is led out by VPCGateway {other_key[1]} already; delete one of them, or add to "
                    "that one's replicas and addresses",
                    reason="VPCHasGateway",
                    field="spec.vpc",
                )
            held = {*other.spec.snat.addresses, *(entry.address for entry in other.spec.publish)}
            taken = {*map(str, parsed.fields)} & {*map(_canonical, held)}
            if taken:
                where = (
                    f"VPCGateway {other_key[1]}"
                    if other_key[0] == key[0]
                    else "another namespace's VPCGateway"
                )
                raise Rejected(
                    f"{min(taken)} is held by {where}; give another address",
                    reason="AddressTaken",
                    field=parsed.fields[ip_address(min(taken))],
                )

    def _identify(self, key: Key, gateway: VpcGateway, vpc: Key) -> int:
        functions = self._context.allocator.of(vpc).functions
        holder = key[0], GATEWAY + key[1]
        present = functions.of(holder)
        if present is None and gateway.status.function:
            try:
                if functions.claim(holder, number := parse_function(gateway.status.function)):
                    return number
            except Rejected:
                pass  # another client overwrote the status
        return functions.allocate(holder, gateway.metadata.uid)

    def _release(self, key: Key) -> None:
        """The gateway's identifier, in whichever VPC it has one."""
        holder = key[0], GATEWAY + key[1]
        for vpc in [vpc for vpc in self._context.caches.vpcs if vpc[0] == key[0]]:
            allocations = self._context.allocator.allocated(vpc)
            if allocations is not None:
                allocations.functions.release(holder)
                if allocations.addresses.release(holder):
                    self._free(vpc)

    def _free(self, vpc: Key) -> None:
        """Attachments that wait for an address try again."""
        for attachment in self._context.allocator.of(vpc).blocked:
            self._context.dirty(("attachment", attachment))

    def _nodes(self, key: Key, gateway: VpcGateway, parsed: ParsedGateway) -> tuple[GatewayNode, ...]:
        caches, allocator = self._context.caches, self._context.allocator
        spec, before = gateway.spec, gateway.status.nodes
        eligible: dict[str, bool] = {}
        prefixes: dict[str, IPv6Network] = {}
        current = [one.node for one in before]
        for (_, name), node in caches.nodes.items():
            segment = caches.segments.get(("", name))
            fits = all(
                node.metadata.labels.get(label) == value
                for selector in (spec.node_selector, self._context.rules.gateway_node_selector)
                for label, value in selector.items()
            )
            if (
                not fits
                or not isinstance(segment, NodeSegment)
                or node.metadata.deletion_timestamp is not None
            ):
                continue
            try:
                prefixes[name] = parse_prefix(segment.spec.prefix)
            except Rejected:
                continue
            ready = obstacle(caches, ("", name), node.metadata.uid) == ""
            if ready or name in current:
                eligible[name] = ready if name not in current else not node.away
        names = chosen(current, eligible, spec.replicas, gateway.metadata.uid)
        holders = {address: one.node for one in before for address in one.addresses}
        held: dict[str, list[str]] = {name: [] for name in names}
        for family in (4, 6):
            texts = [str(address) for address in parsed.addresses if address.version == family]
            for name, addresses in spread(texts, names, holders).items():
                held[name] += addresses
        vpc, function = (
            allocator.vpcs.of(parsed.vpc),
            allocator.of(parsed.vpc).functions.of((key[0], GATEWAY + key[1])),
        )
        assert vpc is not None
        assert function is not None
        placed = []
        for name in names:
            segment = caches.segments.get(("", name))
            text = str(sid(prefixes[name], vpc, function))
            ready = isinstance(segment, NodeSegment) and text in segment.status.gateways
            placed.append(GatewayNode(node=name, sid=text, addresses=tuple(held[name]), ready=ready))
        return tuple(placed)

    def _status(
        self, key: Key, gateway: VpcGateway, placed: _Placed, owned: Sequence[Owned]
    ) -> dict[str, Any]:
        allocator = self._context.allocator
        vpc = allocator.vpcs.of(placed.parsed.vpc)
        function = allocator.of(placed.parsed.vpc).functions.of((key[0], GATEWAY + key[1]))
        assert vpc is not None
        assert function is not None
        ready, redundant = _states(gateway.spec.replicas, placed)
        entries = self._published(key, gateway, placed)
        return {
            "ready": ready.status == "True",
            "identifier": vpc_hex(vpc),
            "function": function_hex(function),
            "families": [f"IPv{family}" for family in placed.families],
            "snat": placed.parsed.snat,
            "networks": [str(network) for network in placed.networks],
            "forbidden": self._forbidden(owned),
            "nodes": [node.model_dump(by_alias=True, mode="json") for node in placed.nodes],
            "published": [
                one.entry.model_dump(by_alias=True, mode="json", exclude_none=True) for one in entries
            ],
            "conditions": {
                ACCEPTED: State("True", "Valid", "the specification is valid"),
                READY: ready,
                REDUNDANT: redundant,
                PUBLISHED: condition(entries, self._reported),
            },
        }

    def _reported(self, node: str, address: str) -> bool:
        """Whether the node reports that its kernel leads in what is for the address."""
        segment = self._context.caches.segments.get(("", node))
        return isinstance(segment, NodeSegment) and address in segment.status.published

    def _published(self, key: Key, gateway: VpcGateway, placed: _Placed) -> list[Published]:
        """The entries, each with its node, its address inside and its pods."""
        vpc, holder = placed.parsed.vpc, (key[0], GATEWAY + key[1])
        allocations = self._context.allocator.of(vpc)
        inside, released = insides(
            allocations.addresses, holder, gateway.status, placed.parsed, placed.networks
        )
        if released:
            self._free(vpc)
        members = Members(
            self._context.caches, vpc, [member for member in allocations.members if member[0] == key[0]]
        )
        return [
            members.published(one, placed.holders.get(one.address, ""), inside.get(one.address))
            for one in placed.parsed.publish
        ]

    def _forbidden(self, owned: Sequence[Owned]) -> list[str]:
        """The cluster's networks and those that an administrator forbids, without what is allowed."""
        rules = self._context.rules
        networks = [one.network for one in owned] + list(rules.gateway_forbidden)
        for allowed in rules.gateway_allowed:
            networks = [rest for network in networks for rest in _without(network, allowed)]
        return [str(network) for family in (4, 6) for network in _merged(networks, family)][:MAX_FORBIDDEN]


def _merged(networks: Sequence[Network], family: int) -> Iterable[Network]:
    """Those of a family, without those inside others."""
    chosen: Any = [network for network in networks if network.version == family]
    return collapse_addresses(chosen)


def _without(network: Network, allowed: Network) -> list[Network]:
    """The network without an allowed part of it."""
    if network.version != allowed.version or not network.overlaps(allowed):
        return [network]
    if network.subnet_of(allowed):  # type: ignore[arg-type]
        return []
    return list(network.address_exclude(allowed))  # type: ignore[arg-type]


def _in_families(parsed: ParsedGateway, networks: Sequence[Network]) -> None:
    """Raises Rejected where a port is published of a family that the VPC does not have."""
    versions = {network.version for network in networks}
    for index, one in enumerate(parsed.publish):
        if one.address.version not in versions:
            raise Rejected(
                f"{one.address}: the VPC has no IPv{one.address.version} network; give an address of the other family, "
                "or add a network to the VPC's spec.networks",
                reason="FamilyMismatch",
                field=f"spec.publish[{index}].address",
            )


def _holders(gateway: VpcGateway, parsed: ParsedGateway, nodes: Sequence[GatewayNode]) -> dict[Address, str]:
    """The nodes that hold the published addresses."""
    holders = {ip_address(text): node.node for node in nodes for text in node.addresses}
    before = {entry.address: entry.node for entry in gateway.status.published}
    for family in (4, 6):
        texts = [str(address) for address in parsed.further if address.version == family]
        for name, given in spread(texts, [node.node for node in nodes], before).items():
            holders |= {ip_address(text): name for text in given}
    return holders


def _states(replicas: int, placed: _Placed) -> tuple[State, State]:
    """Ready and Redundant."""
    serving: Mapping[int, list[str]] = {
        family: [
            node.node
            for node in placed.nodes
            if node.ready
            and (not placed.parsed.snat or any(_family(text) == family for text in node.addresses))
        ]
        for family in placed.families
    }
    without = [family for family, nodes in serving.items() if not nodes]
    waiting = [node.node for node in placed.nodes if not node.ready]
    if not placed.nodes:
        ready = State(
            "False",
            "NoNodes",
            "no Node with a ready NodeSegment has the labels of spec.nodeSelector; label some",
        )
    elif without:
        addressless = [
            family
            for family in without
            if placed.parsed.snat and all(address.version != family for address in placed.parsed.addresses)
        ]
        if addressless:
            ready = State(
                "False",
                "FamilyWithoutAddress",
                f"spec.snat.addresses has no IPv{addressless[0]} address; give one, or leave IPv{addressless[0]} out "
                "of spec.families",
            )
        else:
            ready = State(
                "False",
                "NotReported",
                f"{', '.join(waiting)} have not reported the way out yet; see the condition Gateways of their "
                "NodeSegments",
            )
    else:
        led = sorted({node for nodes in serving.values() for node in nodes})
        ready = State("True", "Ready", f"packets leave by {', '.join(led)}")
    fewest = min((len(nodes) for nodes in serving.values()), default=0)
    if fewest >= replicas:
        return ready, State("True", "AsAsked", f"{fewest} nodes lead out each family")
    message = f"{fewest} of {replicas} nodes lead out each family"
    if len(placed.nodes) < replicas:
        message += "; label more Nodes, or lower spec.replicas"
    elif placed.parsed.snat and not waiting:
        message += "; give as many addresses of each family as replicas, or lower spec.replicas"
    return ready, State("False", "FewerNodes", message)


def _family(text: str) -> int:
    return ip_address(text).version


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _age(key: Key, gateway: VpcGateway) -> tuple[str, Key]:
    return gateway.metadata.creation_timestamp, key


def enter(context: ReconcileContext) -> None:
    """Claims the identifiers that live gateways hold: before any other is given."""
    allocator = context.allocator
    for key, gateway in context.caches.gateways.items():
        if not isinstance(gateway, VpcGateway) or not (gateway.status.function and gateway.status.identifier):
            continue
        try:
            vpc = allocator.vpcs.holder(parse_vpc(gateway.status.identifier))
            if vpc == (key[0], gateway.spec.vpc.name):
                holder = key[0], GATEWAY + key[1]
                allocator.of(vpc).functions.claim(holder, parse_function(gateway.status.function))
                restored(allocator.of(vpc).addresses, holder, gateway.status)
        except Rejected as error:
            log.warning("malformed status, allocated again", gateway=key, error=str(error))

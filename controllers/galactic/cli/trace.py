"""``galactic trace POD POD|ADDRESS``: the data path in both directions, and where it stops."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from galactic.cli.cluster_options import DEGRADED, FINE, Absent, ClusterOptions
from galactic.cli.render import BOLD, GREEN, RED, YELLOW, Form, Output, document, paint
from galactic.errors import Rejected, Unreachable

if TYPE_CHECKING:
    from galactic.cli.cluster_access import ClusterAccess
    from galactic.cli.hop import Hop
    from galactic.cli.observed import Echo
    from galactic.cli.snapshot import Snapshot
    from galactic.cli.walk import Place
    from galactic.crds.vpcgateway import VpcGateway
    from galactic.router.rib.table import VpcTable

MARKS: Final = {"passes": ("✓", GREEN), "stops": ("✗", RED), "unknown": ("?", YELLOW)}
ECHO_BYTES: Final = 431
"""Size of the first path's echo requests. Each further path's are a byte larger, so that counters can be assigned."""
PROBE_SECONDS: Final = 60.0
"""Additional time for unanswered neighbours and echo requests, beyond --request-timeout."""
PAUSE_SECONDS: Final = 1.0
"""Between two traces with --wait."""


def trace(
    options: ClusterOptions,
    source: Annotated[
        str, typer.Argument(metavar="POD", help="Source pod: NAMESPACE/NAME, or NAME with -n.")
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="POD|ADDRESS", help="Destination: a pod, or an address of the VPC or outside."
        ),
    ],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the pods.")] = "default",
    *,
    probe: Annotated[
        bool,
        typer.Option("--probe/--no-probe", help="Send echo requests from the pods, and resolve neighbours."),
    ] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Trace again until the packets arrive.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds that --wait waits.")] = 60.0,
    output: Form = Output.TABLE,
) -> int:
    """Trace the data path from a pod to another, hop by hop, in both directions: where it stops, and why.

    Routes, devices and addresses are read from both kernels. Each pod sends three echo requests, and neighbours and
    packet filters are checked for losses. With --no-probe nothing is sent. With --wait the last trace is printed, and
    pods that are not attached yet are waited for.
    """
    until = time.monotonic() + (timeout if wait else 0.0)
    while True:
        last = time.monotonic() >= until
        try:
            report = options.run(
                traced(options, source, destination, namespace, probe=probe),
                seconds=options.seconds + (PROBE_SECONDS if probe else 0.0),
            )
        except (NotAttached, Unreachable):
            if last:
                raise
        else:
            ways: list[dict[str, Any]] = report["ways"]
            arrives = all(hop.state == "passes" for way in ways for hop in way["hops"])
            if arrives or last:
                break
        time.sleep(PAUSE_SECONDS)
    if not document(report | {"ways": [_plain(way) for way in ways]}, output):
        for way in ways:
            print_way(way)
    return FINE if arrives else DEGRADED


class NotAttached(Absent):
    """The pod requests an attachment that is not in force, as a moment after its start."""


class _Pair(NamedTuple):
    """A source pod, a destination address, and the size of the echo requests."""

    start: "Place"
    address: str
    size: int

    @property
    def name(self) -> str:
        """The name of the echo requests in ``galactic-node-inspect``."""
        return f"{self.start.inside}@{self.address}"

    @property
    def arguments(self) -> list[str]:
        return ["--echo", f"{self.name}@{self.size}"]


async def traced(
    options: ClusterOptions, source: str, destination: str, namespace: str = "default", *, probe: bool = True
) -> dict[str, Any]:
    """The paths in both directions with their ``hops``. ``probe``: pods send echo requests, neighbours are resolved."""
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.snapshot import read  # noqa: PLC0415
    from galactic.cli.walk import places  # noqa: PLC0415

    async with options.kube() as kube:
        snapshot = await read(kube)
        where = places(snapshot)
        start = _place(snapshot, where, source, namespace)
        targets, end = _targets(snapshot, where, start, destination, namespace)
        access = cluster_access(options, kube)
        table = await _desired_table(snapshot, start.vpc, access)
        pairs = _pairs(snapshot, start, targets, end)
        vpcs = {start.vpc, *(end.vpc for end in (end,) if end)}
        members = [place for place in {*where.values()} if place.vpc in vpcs]
        kernels = await _inspected(snapshot, pairs, members, table, access, probe=probe)
        paths = await _walked(snapshot, pairs, kernels, table, access)
    return {
        "from": start.pod or start.attachment,
        "to": destination,
        "ways": [
            {"from": pair.start.pod or pair.start.attachment, "to": pair.address, "hops": hops}
            for pair, hops in zip(pairs, paths, strict=True)
        ],
    }


async def _desired_table(snapshot: "Snapshot", vpc: str, access: "ClusterAccess") -> "VpcTable":
    """The VPC's desired table. Without a router's published table, the first holder of a network counts."""
    from galactic.cli.desired import advertised_routes, desired  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415
    from galactic.names import parse_vpc  # noqa: PLC0415

    try:
        advertised = advertised_routes(await access.router_tables([vpc]), vpc)
    except GalacticError:
        advertised = {}
    return desired(snapshot, parse_vpc(vpc), advertised)


def _pairs(snapshot: "Snapshot", start: "Place", targets: list[str], end: "Place | None") -> list[_Pair]:
    """The source and its destination addresses, and the way back from each address of a known destination."""
    directions = [(start, address) for address in targets]
    if end is not None:
        directions += [
            (end, back) for address in targets if (back := _source_address(snapshot, start, address))
        ]
    return [
        _Pair(origin, address, ECHO_BYTES + number) for number, (origin, address) in enumerate(directions)
    ]


async def _inspected(
    snapshot: "Snapshot",
    pairs: Sequence[_Pair],
    members: Iterable["Place"],
    table: "VpcTable",
    access: "ClusterAccess",
    *,
    probe: bool,
) -> dict[str, Any]:
    """The kernels of the sources' nodes and of the SIDs' nodes, or the error of each that could not be read."""
    from galactic.cli.desired import node_of_sid  # noqa: PLC0415
    from galactic.cli.walk import sid_of  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415
    from galactic.names import vpc_hex  # noqa: PLC0415
    from galactic.srv6 import parse_sid  # noqa: PLC0415

    kernels: dict[str, Any] = {}

    async def inspect(node: str) -> None:
        arguments = ["--vpc", pairs[0].start.vpc, *(["--resolve"] if probe else [])]
        for place in members:
            arguments += ["--pod", place.inside] if place.node == node else []
        for pair in pairs:
            arguments += ["--way", f"{pair.start.vpc}@{pair.address}"]
            if sid := sid_of(table, pair.address):
                vpc = vpc_hex(parse_sid(sid).vpc)
                arguments += ["--way", sid]
                arguments += ["--way", f"{vpc}@{pair.address}"] if vpc != pair.start.vpc else []
            arguments += pair.arguments if probe and pair.start.node == node else []
        for pair, gateway in led_out:
            arguments += ["--way", pair.address]
            arguments += [word for exit_ in gateway.status.nodes for word in ("--way", exit_.sid)]
        try:
            kernels[node] = await access.inspect(node, arguments)
        except GalacticError as error:
            kernels[node] = str(error)

    led_out = [(pair, gateway) for pair in pairs if (gateway := _gateway(snapshot, pair, table)) is not None]
    holders = {node_of_sid(snapshot, sid_of(table, pair.address)) for pair in pairs} - {""}
    holders |= {exit_.node for _, gateway in led_out for exit_ in gateway.status.nodes if exit_.ready}
    await asyncio.gather(*map(inspect, sorted({pair.start.node for pair in pairs} | holders)))
    if probe:
        await asyncio.gather(*(_ask(pair.start.node, gateway, kernels, access) for pair, gateway in led_out))
    await _inspect_actual_target(snapshot, pairs, kernels, access)
    return kernels


def _gateway(snapshot: "Snapshot", pair: _Pair, table: "VpcTable") -> "VpcGateway | None":
    """The VPC's gateway, where the address is outside."""
    from galactic.cli.walk import sid_of, vpc_name  # noqa: PLC0415
    from galactic.cli.way_out import outside  # noqa: PLC0415

    if sid_of(table, pair.address) or not outside(snapshot, pair.start.vpc, pair.address):
        return None
    known = snapshot.gateway_of(vpc_name(snapshot, pair.start.vpc))
    return known[1] if known else None


async def _ask(node: str, gateway: "VpcGateway", kernels: dict[str, Any], access: "ClusterAccess") -> None:
    """Whether the gateway's other nodes answer that node. Unknown where a node of an earlier version cannot ask."""
    from galactic.cli.way_out import loopback  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415

    others = [loopback(exit_) for exit_ in gateway.status.nodes if exit_.node != node]
    if not others or not isinstance(kernels.get(node), dict):
        return
    with contextlib.suppress(GalacticError):
        answered = await access.inspect(node, [word for text in others for word in ("--answers", text)])
        kernels[node]["answers"] = answered.get("answers", {})


async def _walked(
    snapshot: "Snapshot",
    pairs: Sequence[_Pair],
    kernels: dict[str, Any],
    table: "VpcTable",
    access: "ClusterAccess",
) -> "list[list[Hop]]":
    """The hops of each path. Unanswered echo requests are sent again, with the counters of the other node."""
    from galactic.cli.walk import walk  # noqa: PLC0415

    def paths(echoes: "Mapping[str, Echo]") -> "list[list[Hop]]":
        return [
            [*walk(pair.start, pair.address, kernels, snapshot, table, echo=echoes.get(pair.name))]
            for pair in pairs
        ]

    echoes = _echoes(snapshot, pairs, kernels)
    first = paths(echoes)
    unanswered = [
        pair
        for pair, hops in zip(pairs, first, strict=True)
        if pair.name in echoes and [hop.state for hop in hops if hop.state != "passes"] == ["unknown"]
    ]
    again = await _recounted(snapshot, unanswered, kernels, access)
    return paths(echoes | again) if again else first


def _echoes(snapshot: "Snapshot", pairs: Iterable[_Pair], kernels: Mapping[str, Any]) -> "dict[str, Echo]":
    """The results of the first inspection's echo requests, by name."""
    from galactic.cli.observed import Echo  # noqa: PLC0415

    echoes = {}
    for pair in pairs:
        local = kernels.get(pair.start.node)
        sent = local["echoes"].get(pair.name) if isinstance(local, Mapping) else None
        if sent is not None:
            near = _target_node(snapshot, pair, kernels) == pair.start.node
            echoes[pair.name] = Echo.of(sent, sent if near else None)
    return echoes


def _target_node(snapshot: "Snapshot", pair: _Pair, kernels: Mapping[str, Any]) -> str:
    """The node to which the pod's kernel sends; empty if unknown."""
    from galactic.cli.desired import node_of_sid  # noqa: PLC0415

    local = kernels.get(pair.start.node)
    if not isinstance(local, Mapping):
        return ""
    sid = local["ways"].get(f"{pair.start.vpc}@{pair.address}", {}).get("sid", "")
    return node_of_sid(snapshot, sid) if sid else pair.start.node


async def _recounted(
    snapshot: "Snapshot", pairs: Iterable[_Pair], kernels: Mapping[str, Any], access: "ClusterAccess"
) -> "dict[str, Echo]":
    """The same echo requests again with the other node's counters, one source node after the other."""
    from galactic.cli.observed import Echo, rises  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415

    by_node: dict[str, list[tuple[_Pair, str]]] = {}
    for pair in pairs:
        far = _target_node(snapshot, pair, kernels)
        if far and far != pair.start.node and isinstance(kernels.get(far), Mapping):
            by_node.setdefault(pair.start.node, []).append((pair, far))
    echoes: dict[str, Echo] = {}
    for near, several in by_node.items():
        others = sorted({far for _, far in several})
        arguments = [word for pair, _ in several for word in ("--pod", pair.start.inside, *pair.arguments)]
        try:
            before = await asyncio.gather(*(access.inspect(node, []) for node in others))
            sent = (await access.inspect(near, arguments))["echoes"]
            after = await asyncio.gather(*(access.inspect(node, []) for node in others))
        except GalacticError:
            continue  # the first inspection's result stays
        rises_by_node = {
            node: rises(*inspections) for node, *inspections in zip(others, before, after, strict=True)
        }
        echoes |= {
            pair.name: Echo.of(sent[pair.name], rises_by_node[far])
            for pair, far in several
            if sent[pair.name]
        }
    return echoes


async def _inspect_actual_target(
    snapshot: "Snapshot", pairs: Iterable[_Pair], kernels: dict[str, Any], access: "ClusterAccess"
) -> None:
    """Inspects the SID to which a kernel really sends, and that SID's node, where they differ from the desired ones."""
    from galactic.cli.desired import node_of_sid  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415
    from galactic.names import vpc_hex  # noqa: PLC0415
    from galactic.srv6 import parse_sid  # noqa: PLC0415

    for start, address, _ in pairs:
        local = kernels.get(start.node)
        sid = local["ways"].get(f"{start.vpc}@{address}", {}).get("sid") if isinstance(local, Mapping) else ""
        if not sid or not isinstance(local, Mapping):
            continue
        try:
            if sid not in local["ways"]:
                local["ways"].update((await access.inspect(start.node, ["--way", sid]))["ways"])
            if (node := node_of_sid(snapshot, sid)) and node not in kernels:
                vpc = vpc_hex(parse_sid(sid).vpc)
                arguments = ["--vpc", vpc, "--way", f"{vpc}@{address}"]
                kernels[node] = await access.inspect(node, arguments)
        except GalacticError as error:
            kernels.setdefault(node_of_sid(snapshot, sid), str(error))


def _place(snapshot: "Snapshot", where: "Mapping[str, Place]", pod: str, namespace: str) -> "Place":
    """The location of a pod's attachment. Raises Absent and NotAttached with the reason."""
    from galactic.kube.pods import requested_attachment, requested_vpc  # noqa: PLC0415

    name = (
        pod.removeprefix("pod/")
        if "/" in pod.removeprefix("pod/")
        else f"{namespace}/{pod.removeprefix('pod/')}"
    )
    pod_object = snapshot.pods.get(name)
    if name in snapshot.refused:
        raise Absent(
            f"pod {name} is not attached, because its node refuses it; for the reason: galactic status"
        )
    if pod_object is None:
        known = ", ".join(sorted(snapshot.pods)[:10]) or "none"
        raise Absent(f"no pod {name} requests an attachment; pods that do: {known}")
    attachment = requested_attachment(pod_object)
    if not attachment:
        raise Absent(
            f"pod {name} requests VPC {requested_vpc(pod_object)} but was created without an attachment: recreate it"
        )
    full = f"{name.partition('/')[0]}/{attachment}"
    if full not in where:
        on = pod_object["spec"].get("nodeName") or "no node yet"
        raise NotAttached(
            f"pod {name} is not attached by {full} on {on}; for the reason: kubectl describe pod -n "
            f"{name.replace('/', ' ')}, "
            "and galactic status"
        )
    return where[full]


def _targets(
    snapshot: "Snapshot", where: "Mapping[str, Place]", start: "Place", destination: str, namespace: str
) -> "tuple[list[str], Place | None]":
    """The destination addresses, and their attachment's location if known."""
    from galactic.cli.desired import peerings  # noqa: PLC0415
    from galactic.names import parse_vpc, vpc_hex  # noqa: PLC0415

    peers = {start.vpc, *map(vpc_hex, peerings(snapshot).peers(parse_vpc(start.vpc)))}
    try:
        address = str(_address(destination))
    except ValueError:
        end = _place(snapshot, where, destination, namespace)
        if end.vpc not in peers:
            raise Absent(
                f"pods {start.pod} and {end.pod} are in different VPCs ({start.vpc}, {end.vpc}) without a peering in "
                "force: no route leads from one to the other, by design; for peers: galactic vpcs"
            ) from None
        status = snapshot.attachments[end.attachment].status
        return [text.partition("/")[0] for text in status.addresses], end
    for place in where.values():
        attachment = snapshot.attachments.get(place.attachment)
        its = {text.partition("/")[0] for text in attachment.status.addresses} if attachment else set()
        if place.vpc in peers and address in its:
            return [address], place
    return [address], None


def _address(text: str) -> Any:
    """The address without a prefix length. Raises ValueError for a pod's name, Rejected for a bad length."""
    address, slash, _ = text.partition("/")
    parsed = ip_address(address)
    try:
        return ip_interface(text).ip if slash else parsed
    except ValueError as error:
        raise Rejected(
            f"{text!r}: {error}; write an address, such as 10.1.1.2", field="POD|ADDRESS"
        ) from error


def _source_address(snapshot: "Snapshot", start: "Place", address: str) -> str:
    """The source's address of the same family; empty for none."""
    version = ip_address(address).version
    for text in snapshot.attachments[start.attachment].status.addresses:
        bare = text.partition("/")[0]
        if ip_address(bare).version == version:
            return bare
    return ""


def _plain(way: dict[str, Any]) -> dict[str, Any]:
    hops: list[Hop] = way["hops"]
    return way | {"hops": [hop.plain() for hop in hops]}


def print_way(way: dict[str, Any]) -> None:
    print(paint(f"{way['from']} → {way['to']}", BOLD))
    width = max(len(hop.where) for hop in way["hops"])
    for hop in way["hops"]:
        mark, colour = MARKS[hop.state]
        print(f"  {paint(mark, colour)} {hop.where.ljust(width)}  {hop.what}")
        if hop.remedy:
            print(f"  {'':{width + 2}}  → {hop.remedy}")
    print()

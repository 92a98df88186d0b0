"""``galactic flows POD``: a pod's flows in its VPC at present, and whether its node lets them through."""

from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.cluster_options import DEGRADED, FINE, Absent, ClusterOptions
from galactic.cli.render import RED, YELLOW, Form, Output, document, show, table

if TYPE_CHECKING:
    from galactic.cli.snapshot import Snapshot
    from galactic.crds.vpcattachment import VpcAttachment

MARKS: Final[dict[str, tuple[str, ...]]] = {"passed": (), "dropped": (RED,), "unknown": (YELLOW,)}
ICMP: Final = {
    "icmp": {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"},
    "icmpv6": {
        1: "unreachable",
        2: "packet too big",
        3: "time exceeded",
        128: "echo request",
        129: "echo reply",
    },
}


def flows(  # noqa: PLR0917 - as many as there are options
    options: ClusterOptions,
    pod: Annotated[str, typer.Argument(metavar="POD", help="NAMESPACE/NAME, or NAME with -n.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the pod.")] = "default",
    seconds: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds to watch for.")] = 5.0,
    limit: Annotated[int, typer.Option(min=1, help="Flows to show, those with most bytes first.")] = 50,
    output: Form = Output.TABLE,
) -> int:
    """Watch a pod's flows in its VPC for some seconds: 5-tuple, packets, bytes, and the verdict of its node.

    The node opens a packet socket for that time, and changes nothing. The verdict is passed if all packets left it
    towards their destination, or went into the pod. Exit code 3 if a flow was dropped.
    """
    watched = options.run(_watched(options, pod, namespace, seconds), seconds=options.seconds + seconds)
    dropped = any(flow["verdict"] == "dropped" for of in watched for flow in of["flows"])
    if not document(watched, output):
        for of in watched:
            _print(of, limit)
    return DEGRADED if dropped else FINE


async def _watched(options: ClusterOptions, pod: str, namespace: str, seconds: float) -> list[dict[str, Any]]:
    import asyncio  # noqa: PLC0415

    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.snapshot import read  # noqa: PLC0415

    async with options.kube() as kube:
        snapshot = await read(kube)
        access = cluster_access(options, kube)
        chosen = carried(snapshot, pod if "/" in pod else f"{namespace}/{pod}")

        async def watched(name: str, attachment: "VpcAttachment") -> dict[str, Any]:
            node = attachment.status.endpoint.node if attachment.status.endpoint else node_of(attachment)
            if not node:
                raise Absent(f"attachment {name} is on no node yet: kubectl describe vpca shows why")
            vpc = snapshot.vpc_of(attachment)
            answer = await access.inspect(node, ["--flows", argument(snapshot, vpc, attachment, seconds)])
            by_address = addresses(snapshot, vpc)
            for flow in answer["flows"]:
                flow["source_name"] = by_address.get(flow["source"], "")
                flow["destination_name"] = by_address.get(flow["destination"], "")
            return {"attachment": name, "vpc": vpc, "node": node} | answer

        return list(await asyncio.gather(*(watched(*item) for item in chosen.items())))


def carried(snapshot: "Snapshot", pod: str) -> "dict[str, VpcAttachment]":
    """The attachments that a pod (namespace/name) carries. Raises Absent."""
    found = {
        name: attachment
        for name, attachment in snapshot.attachments.items()
        if pod in snapshot.carriers(name)
        or any(
            f"{name.partition('/')[0]}/{carrier.pod}" == pod for carrier in attachment.status.carriers or ()
        )
    }
    if not found:
        known = "no such pod" if pod not in snapshot.pods else "it carries no attachment"
        raise Absent(f"pod {pod}: {known}; galactic vpcs -o json lists the pods of each attachment")
    return found


def node_of(attachment: "VpcAttachment") -> str:
    """The Node of its carrier."""
    return next((carrier.node for carrier in attachment.status.carriers or () if carrier.node), "")


def argument(snapshot: "Snapshot", vpc: str, attachment: "VpcAttachment", seconds: float) -> str:
    """DEVICE@SECONDS@NETWORK,… for ``galactic-node-inspect``. Raises Absent."""
    from galactic import names  # noqa: PLC0415

    known = snapshot.vpcs.get(vpc)
    if known is None or not known.status.identifier or not attachment.status.identifier:
        raise Absent(f"VPC {vpc} or its attachment has no identifier yet: galactic vpcs shows why")
    device = names.host_end(
        names.parse_vpc(known.status.identifier), names.parse_function(attachment.status.identifier)
    )
    own = [str(ip_interface(address).ip) for address in attachment.status.addresses]
    configuration = attachment.status.configuration
    own += [
        termination.network for termination in (configuration.terminations if configuration else ()) or ()
    ]
    return f"{device}@{seconds:g}@{','.join(own)}"


def addresses(snapshot: "Snapshot", vpc: str) -> dict[str, str]:
    """The attachment of each address of a VPC."""
    return {
        str(ip_interface(address).ip): name
        for name, attachment in snapshot.members(vpc).items()
        for address in attachment.status.addresses
    }


def _end(flow: dict[str, Any], end: str) -> str:
    address, port, name = flow[end], flow[f"{end}_port"], flow[f"{end}_name"]
    shown = f"[{address}]" if port and ip_address(address).version == 6 else address
    if port and flow["protocol"] not in ICMP:
        shown = f"{shown}:{port}"
    return f"{shown} ({name})" if name else shown


def _print(of: dict[str, Any], limit: int) -> None:
    listed = of["flows"][:limit]
    print(
        f"{of['attachment']} in {of['vpc']} on {of['node']}: {len(of['flows'])} flows in {of['seconds']:g} s"
    )
    if listed:
        header = ("DIRECTION", "PROTOCOL", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "VERDICT")
        rows, marks = [], []
        for flow in listed:
            kind = ICMP.get(flow["protocol"], {}).get(flow["source_port"], "")
            verdict = flow["verdict"]
            if flow["why"]:
                amount = f" {flow['dropped']} of {flow['packets']}" if flow["dropped"] else ""
                verdict = f"{verdict}{amount}: {flow['why']}"
            rows.append(
                (
                    flow["direction"],
                    f"{flow['protocol']} {kind}".strip(),
                    _end(flow, "source"),
                    _end(flow, "destination"),
                    str(flow["packets"]),
                    str(flow["bytes"]),
                    verdict,
                )
            )
            marks.append(MARKS[flow["verdict"]])
        show(table(header, rows, marks))
    if len(of["flows"]) > limit:
        print(f"… {len(of['flows']) - limit} more: --limit")
    if of["lost"]:
        print(
            f"{of['lost']} packets were not counted, since they arrived too fast: the real numbers are higher"
        )

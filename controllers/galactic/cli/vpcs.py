"""``galactic vpcs``: the VPCs, their attachments and nodes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from galactic.cli.cluster_options import FINE, Absent, ClusterOptions
from galactic.cli.render import RED, Form, Output, document, show, table

if TYPE_CHECKING:
    from galactic.cli.snapshot import Snapshot


def vpcs(
    options: ClusterOptions,
    name: Annotated[str, typer.Argument(help="Only this VPC: NAMESPACE/NAME, NAME or its identifier.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only VPCs in this namespace.")] = "",
    output: Form = Output.TABLE,
) -> int:
    """List the VPCs with identifier, networks, number of attachments and nodes."""
    from galactic.cli.snapshot import read  # noqa: PLC0415

    async def work() -> "Snapshot":
        async with options.kube() as kube:
            return await read(kube)

    snapshot = options.run(work())
    wanted = [find(snapshot, name, namespace)] if name else sorted(snapshot.vpcs)
    chosen = [name for name in wanted if not namespace or name.startswith(f"{namespace}/")]
    described_vpcs = [described(snapshot, name) for name in chosen]
    if document(described_vpcs, output):
        return FINE
    if not described_vpcs:
        raise Absent(
            f"no VPC{f' in namespace {namespace}' if namespace else ''}; apply one: examples/10-blue.yaml"
        )
    wide = output is Output.WIDE
    header = ("VPC", "IDENTIFIER", "NETWORKS", "ATTACHMENTS", "ATTACHED", "NODES", "PEERS", "READY")
    rows = [_row(vpc, wide=wide) for vpc in described_vpcs]
    marks = [() if vpc["ready"] else (RED,) for vpc in described_vpcs]
    show(table((*header, "ADMITS", "GATEWAY", "WHY") if wide else header, rows, marks))
    return FINE


def find(snapshot: "Snapshot", name: str, namespace: str = "") -> str:
    """The VPC by namespace/name, a unique name, or an identifier. Raises Absent."""
    given = f"{namespace}/{name}" if namespace and "/" not in name else name
    if given in snapshot.vpcs:
        return given
    same = [
        key for key, vpc in snapshot.vpcs.items() if name in (key.partition("/")[2], vpc.status.identifier)
    ]
    if len(same) == 1:
        return same[0]
    if same:
        raise Absent(f"{len(same)} VPCs have the name {name!r}: give one of {', '.join(sorted(same))}")
    known = ", ".join(sorted(snapshot.vpcs)[:10]) or "none"
    raise Absent(f"no VPC {given!r}; VPCs: {known}")


def described(snapshot: "Snapshot", name: str) -> dict[str, Any]:
    """One VPC as JSON types."""
    vpc, members = snapshot.vpcs[name], snapshot.members(name)
    ready = [condition for condition in vpc.status.conditions if condition.type == "Ready"]
    grant = vpc.spec.allowed_namespaces
    return {
        "name": name,
        "identifier": vpc.status.identifier,
        "networks": [*vpc.spec.networks],
        "ready": vpc.status.ready,
        "why": "" if vpc.status.ready or not ready else ready[0].message,
        "admits": grant.from_ if grant else "Same",
        "peers": [
            {
                "name": f"{peer.namespace}/{peer.name}",
                "inForce": peer.in_force,
                "reason": peer.reason,
                "message": peer.message,
            }
            for peer in vpc.status.peers
        ],
        "gateway": gateway[0] if (gateway := snapshot.gateway_of(name)) else None,
        "attachments": [
            {
                "name": attachment,
                "identifier": member.status.identifier,
                "addresses": [*member.status.addresses],
                "ready": member.status.ready,
                "node": member.status.endpoint.node if member.status.endpoint else None,
                "sid": member.status.endpoint.sid if member.status.endpoint else None,
                "pods": snapshot.carriers(attachment),
            }
            for attachment, member in sorted(members.items())
        ],
    }


def _row(vpc: dict[str, Any], *, wide: bool) -> list[str]:
    nodes = sorted({member["node"] for member in vpc["attachments"] if member["node"]})
    row = [
        vpc["name"],
        vpc["identifier"] or "-",
        ",".join(vpc["networks"]),
        str(len(vpc["attachments"])),
        str(sum(member["node"] is not None for member in vpc["attachments"])),
        ",".join(nodes) or "-",
        "yes" if vpc["ready"] else "no",
    ]
    peers = ",".join(
        peer["name"] if peer["inForce"] else f"{peer['name']} ({peer['reason']})" for peer in vpc["peers"]
    )
    row.insert(6, peers or "-")
    return [*row, vpc["admits"], vpc["gateway"] or "-", vpc["why"] or "-"] if wide else row

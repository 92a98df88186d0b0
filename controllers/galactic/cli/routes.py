"""``galactic routes VPC``: desired, advertised and kernel routes side by side."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.cluster_options import DEGRADED, FINE, ClusterOptions
from galactic.cli.render import BOLD, GREEN, RED, Form, Output, document, paint, show, table

if TYPE_CHECKING:
    from galactic.cli.desired import Row

AT_ONCE: Final = 16
"""Kernels that are read in parallel."""


def routes(  # noqa: PLR0917 - as many as there are options
    options: ClusterOptions,
    vpc: Annotated[str, typer.Argument(help="NAMESPACE/NAME, NAME or its identifier.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the VPC.")] = "",
    differences: Annotated[
        bool, typer.Option("--differences", "-d", help="Only networks that differ.")
    ] = False,
    kernels: Annotated[
        bool, typer.Option(help="Read the nodes' kernels; without, only desired and advertised routes.")
    ] = True,
    cluster: Annotated[
        str, typer.Option(help="Name of this cluster among those that share a broker.")
    ] = "default",
    output: Form = Output.TABLE,
) -> int:
    """Show a VPC's routes: desired, advertised by the router, and in the kernel of each node; marks differences.

    Exit code 3 if routes differ or could not be read.
    """
    report = options.run(_report(options, vpc, namespace, kernels=kernels, cluster=cluster))
    rows: list[Row] = report["rows"]
    wrong = [row for row in rows if row.differences]
    chosen = wrong if differences else rows
    code = DEGRADED if wrong or report["unread"] else FINE
    plain = {
        "vpc": report["vpc"],
        "identifier": report["identifier"],
        "routes": [row.plain() for row in chosen],
        "conflicts": report["conflicts"],
        "unread": report["unread"],
    }
    if not document(plain, output):
        _print(plain, chosen, report["peers"], wide=output is Output.WIDE)
    return code


async def _report(
    options: ClusterOptions, vpc: str, namespace: str, *, kernels: bool, cluster: str
) -> dict[str, Any]:
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.desired import advertised_routes, attachment_names, desired, rows  # noqa: PLC0415
    from galactic.cli.snapshot import read  # noqa: PLC0415
    from galactic.cli.vpcs import find  # noqa: PLC0415
    from galactic.errors import GalacticError, NotYet  # noqa: PLC0415
    from galactic.names import parse_vpc  # noqa: PLC0415

    unread: dict[str, str] = {}
    async with options.kube() as kube:
        snapshot = await read(kube)
        name = find(snapshot, vpc, namespace)
        identifier = snapshot.vpcs[name].status.identifier
        if not identifier:
            raise NotYet(f"VPC {name} has no identifier yet; for the reason: galactic status")
        access, advertised = cluster_access(options, kube), None
        try:
            advertised = advertised_routes(await access.router_tables([identifier]), identifier)
        except GalacticError as error:
            unread["advertised"] = str(error)
        wanted = desired(snapshot, parse_vpc(identifier), advertised or {}, cluster)
        hosts = {
            node
            for node, segment in snapshot.segments.items()
            if any(endpoint.vpc == identifier for endpoint in segment.status.endpoints)
        } | {route.node for route in wanted.routes.values() if route.cluster == cluster}
        asked = sorted(hosts) if kernels else []
        turn = asyncio.Semaphore(AT_ONCE)

        async def kernel(node: str) -> Mapping[str, Any] | None:
            async with turn:
                try:
                    seen = await access.inspect(node, ["--vpc", identifier])
                except GalacticError as error:
                    unread[node] = str(error)
                    return None
            table: Mapping[str, Any] = seen["vpcs"].get(identifier, {"routes": []})
            return table

        tables = dict(zip(asked, await asyncio.gather(*map(kernel, asked)), strict=True))
    names = attachment_names(snapshot)
    return {
        "vpc": name,
        "identifier": identifier,
        "rows": rows(wanted.routes, advertised, tables, names, vpc=parse_vpc(identifier), cluster=cluster),
        "peers": {
            vpc.status.identifier: peer for peer, vpc in snapshot.vpcs.items() if vpc.status.identifier
        },
        "conflicts": [
            {
                "network": conflict.network,
                "claimed_by": conflict.path.attachment,
                "held_by": conflict.owner.attachment,
            }
            for conflict in wanted.conflicts
        ],
        "unread": unread,
    }


def _print(plain: dict[str, Any], rows: "list[Row]", peers: Mapping[str, str], *, wide: bool) -> None:
    nodes = sorted({node for row in rows for node in row.kernels})
    header = ["", "NETWORK", "ATTACHMENT", "NODE", "DESIRED", "ADVERTISED", *(node.upper() for node in nodes)]
    lines, marks = [], []
    for row in rows:
        advertised = row.advertised if wide else _short(row.advertised, row.desired)
        kernels = [
            has if wide else _short(has, row.desired) for has in (row.kernels.get(node, "") for node in nodes)
        ]
        mark = "≠" if row.differences else ""
        lines.append(
            [
                mark,
                row.network,
                (row.attachment or "-") + (f" of peer {peers.get(row.peer, row.peer)}" if row.peer else ""),
                row.node or "-",
                row.desired or "-",
                advertised,
                *kernels,
            ]
        )
        marks.append((RED,) if row.differences else ())
    print(paint(f"VPC {plain['vpc']} ({plain['identifier']})", BOLD))
    show(table(header, lines, marks))
    print()
    for conflict in plain["conflicts"]:
        print(
            f"conflict: {conflict['network']} is claimed by {conflict['claimed_by']}, and "
            f"{conflict['held_by']} holds it: "
            "delete one of them, or give it another network"
        )
    for what, why in plain["unread"].items():
        print(paint(f"not read: {what}: {why}", RED))
    wrong = [row for row in rows if row.differences]
    if wrong:
        print(
            paint(f"{len(wrong)} of {len(rows)} networks differ (≠)", RED)
            + ": advertised follows desired within a second, kernels within another; if differences stay, check the "
            "logs of galactic-router and of galactic-node on those nodes"
        )
    elif not plain["unread"]:
        print(paint(f"{len(rows)} networks: desired, advertised and kernel routes are equal.", GREEN))


def _short(has: str, desired: str) -> str:
    """``=`` for the desired SID: SIDs are long."""
    return "=" if has and has == desired else has or "-"

"""``galactic top [vpc|attachment|gateway]``: traffic at present, from the counters of the nodes' kernels."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from galactic.cli.cluster_options import DEGRADED, FINE, Absent, ClusterOptions
from galactic.cli.render import RED, Form, Output, document, show, table

if TYPE_CHECKING:
    from galactic.cli.snapshot import Snapshot

AT_ONCE: Final = 16
"""Nodes that are read in parallel."""
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
COUNTERS: Final = ("sent_bytes", "sent_packets", "received_bytes", "received_packets")
DROPS: Final = {"no_route": "no route", "too_big": "MTU", "policy": "policy", "device": "device"}
CLEAR: Final = "\x1b[2J\x1b[H"


class Of(StrEnum):
    """The rows."""

    ATTACHMENT = "attachment"
    VPC = "vpc"
    GATEWAY = "gateway"


class SortBy(StrEnum):
    """The order: largest first, names ascending."""

    BYTES = "bytes"
    SENT = "sent"
    RECEIVED = "received"
    PACKETS = "packets"
    DROPS = "drops"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rates per second of an attachment, a VPC, or a gateway on a node. ``dropped``: packets, by reason."""

    name: str
    vpc: str
    node: str
    sent_bytes: float = 0.0
    sent_packets: float = 0.0
    received_bytes: float = 0.0
    received_packets: float = 0.0
    dropped: Mapping[str, float] = field(default_factory=dict)

    @property
    def drops(self) -> float:
        return sum(self.dropped.values())


def top(
    options: ClusterOptions,
    of: Annotated[
        Of,
        typer.Argument(
            metavar="[attachment|vpc|gateway]", help="Rows: attachments, VPCs, or gateways by node."
        ),
    ] = Of.ATTACHMENT,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only those of this namespace.")] = "",
    *,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="All namespaces; the default without --namespace.")
    ] = False,
    sort_by: Annotated[SortBy, typer.Option("--sort-by", help="Column to sort by.")] = SortBy.BYTES,
    seconds: Annotated[float, typer.Option(min=0.2, max=60.0, help="Seconds to measure for.")] = 2.0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Measure again until interrupted.")] = False,
    output: Form = Output.TABLE,
) -> int:
    """Show the current traffic of attachments, VPCs or gateways, per second. Sent and received are from the pod's side.

    Every node's kernel is read twice. Bytes include Ethernet headers. Exit code 3 if a node could not be read.
    """
    chosen = "" if everywhere else namespace
    while True:
        rows, unread = options.run(_measured(options, seconds, of), seconds=options.seconds + seconds)
        rows = ordered(by_vpc(rows) if of is Of.VPC else rows, sort_by)
        rows = [row for row in rows if not chosen or row.name.startswith(f"{chosen}/")]
        if watch and output in (Output.TABLE, Output.WIDE):
            print(CLEAR, end="")
        _print(rows, unread, of, output)
        if not watch:
            break
        time.sleep(0.1)
    if not rows and not unread and output in (Output.TABLE, Output.WIDE):
        what = "no gateway leads out by a node" if of is Of.GATEWAY else "no attachment is on a node"
        raise Absent(f"{what}{f' in namespace {chosen}' if chosen else ''}")
    return DEGRADED if unread else FINE


async def _measured(options: ClusterOptions, seconds: float, of: Of) -> tuple[list[Traffic], dict[str, str]]:
    """The rates of attachments or gateways, and the nodes that could not be read with the reason."""
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.snapshot import read  # noqa: PLC0415
    from galactic.errors import GalacticError  # noqa: PLC0415

    async with options.kube() as kube:
        snapshot = await read(kube)
        access, limited = cluster_access(options, kube), asyncio.Semaphore(AT_ONCE)

        async def inspected(node: str) -> dict[str, Any] | str:
            async with limited:
                try:
                    return await access.inspect(node, ["--traffic", f"{seconds:g}"])
                except GalacticError as error:
                    return str(error)

        nodes = sorted(
            {one.node for gateway in snapshot.gateways.values() for one in gateway.status.nodes if one.ready}
            if of is Of.GATEWAY
            else {node for node, segment in snapshot.segments.items() if segment.status.endpoints}
        )
        answers = dict(zip(nodes, await asyncio.gather(*map(inspected, nodes)), strict=True))
    unread = {node: answer for node, answer in answers.items() if isinstance(answer, str)}
    measured = {node: answer for node, answer in answers.items() if isinstance(answer, dict)}
    if of is Of.GATEWAY:
        return attachments(gateways(snapshot), measured, "M"), unread
    return attachments(named(snapshot), measured), unread


def named(snapshot: "Snapshot") -> dict[tuple[str, str], tuple[str, str]]:
    """(attachment, VPC) by the identifiers of VPC and attachment."""
    return {
        (vpc.status.identifier, attachment.status.identifier): (name, vpc_name)
        for name, attachment in snapshot.attachments.items()
        if (vpc := snapshot.vpcs.get(vpc_name := snapshot.vpc_of(attachment)))
        and vpc.status.identifier
        and attachment.status.identifier
    }


def gateways(snapshot: "Snapshot") -> dict[tuple[str, str], tuple[str, str]]:
    """(gateway, VPC) by the identifiers of VPC and gateway."""
    return {
        (status.identifier, status.function): (name, f"{gateway.metadata.namespace}/{gateway.spec.vpc.name}")
        for name, gateway in snapshot.gateways.items()
        if (status := gateway.status).identifier and status.function
    }


def attachments(
    known: Mapping[tuple[str, str], tuple[str, str]],
    measured: Mapping[str, Mapping[str, Any]],
    end: str = "H",
) -> list[Traffic]:
    """The rates of attachments that have a name, or of gateways (``end`` M). ``measured``: the nodes' inspections."""
    from galactic.names import function_hex, parse_interface, vpc_hex  # noqa: PLC0415

    rows = []
    for node, inspection in measured.items():
        seconds = inspection["seconds"] or 1.0
        for device, counted in inspection["devices"].items():
            interface = parse_interface(device)
            if interface is None or interface[2] != end:
                continue
            key = vpc_hex(interface[0]), function_hex(interface[1])
            if key not in known:
                continue
            rates = {counter: rise / seconds for counter, rise in counted["rises"].items()}
            dropped = {words: rates[counter] for counter, words in DROPS.items() if rates.get(counter)}
            name, vpc = known[key]
            counters = {counter: rates[counter] for counter in COUNTERS}
            rows.append(Traffic(name, vpc, node, dropped=dropped, **counters))
    return rows


def by_vpc(rows: Iterable[Traffic]) -> list[Traffic]:
    """One row a VPC: the sums of its attachments."""
    members: dict[str, list[Traffic]] = {}
    for row in rows:
        members.setdefault(row.vpc, []).append(row)
    return [_sum(vpc, group) for vpc, group in members.items()]


def _sum(vpc: str, group: list[Traffic]) -> Traffic:
    reasons = sorted({reason for row in group for reason in row.dropped})
    return Traffic(
        vpc,
        vpc,
        ",".join(sorted({row.node for row in group})),
        dropped={reason: sum(row.dropped.get(reason, 0.0) for row in group) for reason in reasons},
        **{name: sum(getattr(row, name) for row in group) for name in COUNTERS},
    )


def ordered(rows: Iterable[Traffic], sort_by: SortBy) -> list[Traffic]:
    """The rows, the largest first."""
    values: dict[SortBy, Any] = {
        SortBy.BYTES: lambda row: row.sent_bytes + row.received_bytes,
        SortBy.SENT: lambda row: row.sent_bytes,
        SortBy.RECEIVED: lambda row: row.received_bytes,
        SortBy.PACKETS: lambda row: row.sent_packets + row.received_packets,
        SortBy.DROPS: lambda row: row.drops,
        SortBy.NAME: lambda _: 0.0,
    }
    return sorted(rows, key=lambda row: (-values[sort_by](row), row.name, row.node))


def size(amount: float) -> str:
    """E.g. ``1.5 KiB``."""
    for unit in UNITS:
        if amount < 1024 or unit == UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError


def _print(rows: list[Traffic], unread: Mapping[str, str], of: Of, output: Output) -> None:
    plain = {"traffic": [asdict(row) for row in rows], "unread": dict(unread)}
    if document(plain, output):
        return
    first = ("VPC", "NODES") if of is Of.VPC else (of.value.upper(), "VPC", "NODE")
    header = (*first, "SENT/s", "RECEIVED/s", "PACKETS SENT/s", "RECEIVED/s", "DROPS/s", "WHY")
    lines = [
        [
            *((row.name, row.node) if of is Of.VPC else (row.name, row.vpc, row.node)),
            size(row.sent_bytes),
            size(row.received_bytes),
            f"{row.sent_packets:.0f}",
            f"{row.received_packets:.0f}",
            f"{row.drops:.1f}" if row.drops else "0",
            ",".join(row.dropped) or "-",
        ]
        for row in rows
    ]
    if rows:
        show(table(header, lines, [(RED,) if row.drops else () for row in rows]))
    for node, why in unread.items():
        typer.echo(f"galactic top: {node} not read: {why}", err=True)

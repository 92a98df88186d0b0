"""``galactic graph``: VPCs over nodes as SVG, written without a layout program: the picture is a grid."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from xml.sax.saxutils import escape, quoteattr

import typer

from galactic.cli.cluster_options import FINE, Absent, ClusterOptions
from galactic.errors import Rejected

if TYPE_CHECKING:
    from galactic.cli.snapshot import Snapshot

COLOURS: Final = ("#3b6fb5", "#2e8b57", "#b5533b", "#7a4fa3", "#a3822b", "#2b8a93", "#a33b77", "#5b6770")
ROW, TOP, PAD, DOT, CHARACTER = 18, 64, 14, 16, 8
LONGEST: Final = 44
"""The most characters of a label; the tooltip has the whole text."""
ELSEWHERE: Final = "not attached"


@dataclass(frozen=True, slots=True)
class Dot:
    """One attachment, or a node of a gateway: label, tooltip, and whether it is Ready."""

    label: str
    detail: str
    fine: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """VPCs are rows, nodes columns; ``cells`` by both."""

    vpcs: Sequence[tuple[str, str, bool]]  # name, networks, whether it is Ready
    nodes: Sequence[tuple[str, str, bool]]
    cells: Mapping[tuple[str, str], Sequence[Dot]]


def graph(
    options: ClusterOptions,
    file: Annotated[Path | None, typer.Argument(help="Path of the SVG; default: standard output.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only VPCs in this namespace.")] = "",
) -> int:
    """Draw the VPCs over the nodes, as SVG for a browser, with all attachments and gateways."""
    from galactic.cli.snapshot import read  # noqa: PLC0415

    async def work() -> "Snapshot":
        async with options.kube() as kube:
            return await read(kube)

    seen = picture(options.run(work()), namespace)
    if not seen.vpcs:
        raise Absent(f"no VPC{f' in namespace {namespace}' if namespace else ''} to draw")
    if file is None:
        sys.stdout.write(svg(seen))
        return FINE
    try:
        file.write_text(svg(seen), "utf-8")
    except OSError as error:
        raise Rejected(f"{str(file)!r} cannot be written: {error.strerror}", field="FILE") from error
    return FINE


def picture(snapshot: "Snapshot", namespace: str = "") -> Picture:
    """The picture of a snapshot."""
    names = [name for name in sorted(snapshot.vpcs) if not namespace or name.startswith(f"{namespace}/")]
    cells: dict[tuple[str, str], list[Dot]] = {}
    for vpc in names:
        for name, attachment in sorted(snapshot.members(vpc).items()):
            endpoint = attachment.status.endpoint
            carriers = snapshot.carriers(name)
            addresses = ", ".join(attachment.status.addresses) or "no address"
            detail = f"{name}: {addresses}" + (f"; pod {carriers[0]}" if carriers else "; no pod")
            detail += f"; SID {endpoint.sid}" if endpoint else ""
            place = endpoint.node if endpoint else ELSEWHERE
            bare = attachment.status.addresses[0].partition("/")[0] if attachment.status.addresses else "?"
            dot = Dot(f"{name.partition('/')[2]} {bare}", detail, attachment.status.ready)
            cells.setdefault((vpc, place), []).append(dot)
        if known_gateway := snapshot.gateway_of(vpc):
            gateway, led = known_gateway
            for exit_ in led.status.nodes:
                addresses = ", ".join(exit_.addresses) or "without SNAT"
                state = "leads out" if exit_.ready else "does not lead out yet"
                dot = Dot(
                    f"{gateway.partition('/')[2]} ↗ {addresses}",
                    f"VPCGateway {gateway} {state} with {addresses}; SID {exit_.sid}",
                    exit_.ready and led.status.ready,
                )
                cells.setdefault((vpc, exit_.node), []).append(dot)
    nodes = [
        (name, segment.spec.prefix, _ready(snapshot, name))
        for name, segment in sorted(snapshot.segments.items())
    ]
    known = {name for name, *_ in nodes}
    others = sorted({place for _, place in cells} - known - {ELSEWHERE})
    nodes += [(name, "another cluster, or removed", False) for name in others]
    if any(place == ELSEWHERE for _, place in cells):
        nodes.append((ELSEWHERE, "", True))
    vpcs = [
        (name, ", ".join(snapshot.vpcs[name].spec.networks), snapshot.vpcs[name].status.ready)
        for name in names
    ]
    return Picture(vpcs, nodes, cells)


def _ready(snapshot: "Snapshot", node: str) -> bool:
    return any(
        condition.type == "Ready" and condition.status == "True"
        for condition in snapshot.segments[node].status.conditions
    )


def svg(seen: Picture) -> str:
    """The picture as SVG, without scripts and external resources, for light and dark themes."""
    heights = [
        max([ROW * len(seen.cells.get((vpc, node), ())) for node, *_ in seen.nodes] + [2 * ROW]) + 2 * PAD
        for vpc, *_ in seen.vpcs
    ]
    left = 2 * PAD + _room([text for vpc, what, _ in seen.vpcs for text in (vpc, what)])
    edges = [left]  # the left edge of each column, and the right edge of the last
    for node, what, _ in seen.nodes:
        labels = [dot.label for vpc, *_ in seen.vpcs for dot in seen.cells.get((vpc, node), ())]
        edges.append(edges[-1] + DOT + _room([node, what, *labels]) + PAD)
    width, height = edges[-1] + PAD, TOP + sum(heights) + PAD
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" aria-label="VPCs over nodes">'
        ),
        (
            "<style>text{font:12px sans-serif;fill:#222}.b{font-weight:bold}.s{font-size:10px;fill:#666}"
            ".x{fill:#c0392b}.g{fill:#f4f6f8;stroke:#ccd}.d{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#999}"
            ".g{fill:#20242a;stroke:#445}.d{fill:#14171b}}</style>"
        ),
        f'<rect class="d" width="{width}" height="{height}"/>',
    ]
    for x, end, (node, what, fine) in zip(edges, edges[1:], seen.nodes, strict=False):
        lines += [
            f'<rect class="g" x="{x}" y="{PAD}" width="{end - x - PAD}" height="{height - 2 * PAD}" rx="6"/>',
            _text(x + PAD, PAD + 20, node, "b" if fine else "b x"),
            _text(x + PAD, PAD + 36, what, "s"),
        ]
    y = TOP
    for number, ((vpc, what, fine), tall) in enumerate(zip(seen.vpcs, heights, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        lines += [
            (
                f'<rect x="{PAD}" y="{y + 4}" width="{width - 2 * PAD}" height="{tall - 8}" rx="6" fill="{colour}" '
                f'fill-opacity=".13" stroke="{colour}"/>'
            ),
            _text(2 * PAD, y + PAD + 14, vpc, "b" if fine else "b x"),
            _text(2 * PAD, y + PAD + 30, what, "s"),
        ]
        for edge, (node, *_) in zip(edges, seen.nodes, strict=False):
            for line, dot in enumerate(seen.cells.get((vpc, node), ())):
                x, at = edge + PAD, y + PAD + ROW * line
                lines.append(
                    f"<g><title>{escape(dot.detail)}</title>"
                    f'<circle cx="{x + 5}" cy="{at + 9}" r="5" fill="{colour if dot.fine else "#c0392b"}"/>'
                    f"{_text(x + DOT, at + 13, dot.label, '' if dot.fine else 'x')}</g>"
                )
        y += tall
    return "\n".join([*lines, "</svg>"]) + "\n"


def _room(texts: Sequence[str]) -> int:
    """Pixels for the longest text in the widest common font, with a margin."""
    return max(20, *(len(_cut(text)) for text in texts)) * CHARACTER + 2 * PAD


def _text(x: int, y: int, text: str, classes: str) -> str:
    return f'<text x="{x}" y="{y}" class={quoteattr(classes)}>{escape(_cut(text))}</text>'


def _cut(text: str) -> str:
    """A long text without its middle: replicas differ at the end, where the address is."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}…{text[-half:]}"

"""galactic-node-inspect: what the kernel of this node has of Galactic, as JSON. It changes nothing.

It reads the kernel itself, so it tells the same whether the node controller runs or not. ``galactic routes``, ``trace``
and ``sysdump`` run it on nodes.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from galactic import __version__, names
from galactic.errors import GalacticError, Rejected
from galactic.linux import sysctl
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import (
    MAIN_TABLE,
    Direct,
    Encap,
    EndDT46,
    Objects,
    RouteKey,
    RouteTarget,
    Unreachable,
    Via,
    route_of,
)
from galactic.linux.ways import way
from galactic.node.plan import tables_of

PROGRAM: Final = "galactic-node-inspect"
SYSCTLS: Final = (
    "net/vrf/strict_mode",
    "net/ipv4/conf/all/forwarding",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/seg6_enabled",
)
COUNTERS: Final = ("rx_packets", "tx_packets", "rx_dropped", "tx_dropped", "rx_errors", "tx_errors")


def target(to: RouteTarget) -> dict[str, Any]:
    """Where a route leads. ``kind`` is device, via, sid, end or unreachable."""
    match to:
        case Direct(device):
            return {"kind": "device", "device": device}
        case Via(device, gateway):
            return {"kind": "via", "device": device, "gateway": str(ip_address(gateway))}
        case Encap(device, segment, mode):
            return {"kind": "sid", "device": device, "sid": str(IPv6Address(segment)), "mode": mode}
        case EndDT46(device, table):
            return {"kind": "end", "device": device, "table": table}
        case Unreachable():
            return {"kind": "unreachable"}
        case _:
            return {"kind": "other"}


def routes(found: Mapping[RouteKey, RouteTarget]) -> list[dict[str, Any]]:
    """Routes in the order of their networks."""
    listed = sorted(((route_of(key), to) for key, to in found.items()), key=lambda each: _order(each[0]))
    return [{"network": str(network), "metric": metric} | target(to) for (_, network, metric), to in listed]


def _order(route: tuple[int, Any, int]) -> tuple[int, bytes, int, int]:
    _, network, metric = route
    return network.version, network.network_address.packed, network.prefixlen, metric


def counters(device: str, folder: Path = Path("/sys/class/net")) -> dict[str, int]:
    """A device's packets, as far as the kernel tells."""
    found = {}
    for name in COUNTERS:
        try:
            found[name] = int((folder / device / "statistics" / name).read_text())
        except (OSError, ValueError):
            continue
    return found


async def inspection(
    *,
    vpcs: Iterable[str] = (),
    everything: bool = False,
    ways: Iterable[str] = (),
    pods: Iterable[str] = (),
) -> dict[str, Any]:
    """What there is.

    ``vpcs``: identifiers (hex) whose tables to tell; ``everything``: all of them. ``ways``: addresses, or VPC@ADDRESS
    for an address as the VPC's VRF sees it. ``pods``: NETNS@INTERFACE. Raises Rejected for what is none of these.
    """
    async with LinuxKernel() as kernel:
        found = await kernel.look()
        numbers = tables_of(found)
        chosen = sorted(numbers) if everything else [names.parse_vpc(vpc) for vpc in vpcs]
        return {
            "version": __version__,
            "kernel": os.uname().release,
            "links": _links(found),
            "addresses": sorted(f"{address} {device}" for device, address in found.addresses),
            "rules": [
                {"priority": rule.priority, "to": str(rule.destination), "table": rule.table}
                for rule in found.rules
            ],
            "sysctls": sysctl.values(Namespace.own(), SYSCTLS),
            "sids": routes(await kernel.routes_in(MAIN_TABLE)),
            "vpcs": {
                names.vpc_hex(vpc): {
                    "table": numbers[vpc],
                    "device": names.vrf(vpc),
                    "routes": routes(await kernel.routes_in(numbers[vpc])),
                }
                for vpc in chosen
                if vpc in numbers
            },
            "ways": {text: await _way(text) for text in ways},
            "pods": {text: await _pod(kernel, text) for text in pods},
        }


def _links(found: Objects) -> dict[str, Any]:
    return {
        name: {"kind": link.kind, "up": link.up, "table": link.table, "master": link.master, "mtu": link.mtu}
        | counters(name)
        for name, link in sorted(found.links.items())
    }


async def _way(text: str) -> dict[str, str]:
    vpc, at, address = text.rpartition("@")
    try:
        destination = ip_address(address)
    except ValueError as error:
        raise Rejected(f"{address!r} is no address", field="--way") from error
    found = await way(destination, device=names.vrf(names.parse_vpc(vpc)) if at else "")
    return {"type": found.type, "device": found.device, "gateway": found.gateway, "sid": found.segment}


async def _pod(kernel: LinuxKernel, text: str) -> dict[str, Any] | None:
    """None: the namespace is gone, or the device in it."""
    netns, _, device = text.rpartition("@")
    found = await kernel.read_pod(netns, device)
    if found is None:
        return None
    return {
        "addresses": sorted(str(address) for _, address in found.addresses),
        "routes": routes(found.routes),
    }


def parser() -> argparse.ArgumentParser:
    told = argparse.ArgumentParser(PROGRAM, description="What this node's kernel has of Galactic, as JSON.")
    told.add_argument("--vpc", action="append", default=[], metavar="HEX", help="tell this VPC's table")
    told.add_argument("--all", action="store_true", help="tell every VPC's table")
    told.add_argument(
        "--way",
        action="append",
        default=[],
        metavar="[VPC@]ADDRESS",
        help="the kernel's way to it (from the VPC)",
    )
    told.add_argument(
        "--pod",
        action="append",
        default=[],
        metavar="NETNS@INTERFACE",
        help="what is inside that pod's namespace",
    )
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit code 2 for what is not understood, 1 where the kernel does not answer."""
    given = parser().parse_args(arguments)
    try:
        found = asyncio.run(inspection(vpcs=given.vpc, everything=given.all, ways=given.way, pods=given.pod))
    except GalacticError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(2 if isinstance(error, Rejected) else 1) from error
    json.dump(found, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

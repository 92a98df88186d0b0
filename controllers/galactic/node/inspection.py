"""galactic-node-inspect: prints Galactic's objects in this node's kernel, and its probes' results, as JSON.

It reads the kernel itself, so that it works without the node controller. It changes nothing; with ``--resolve`` the
kernel solicits neighbours, with ``--echo`` pods send echo requests. ``galactic routes``, ``trace`` and ``sysdump`` run
it on nodes.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from galactic import __version__, errors, names
from galactic.errors import GalacticError, Rejected
from galactic.linux import sysctl
from galactic.linux.drop_counters import drops, rise
from galactic.linux.fib_rules import UNDERLAY_PRIORITY
from galactic.linux.foreign_chains import dropping, packets
from galactic.linux.kernel import LinuxKernel
from galactic.linux.legacy import in_use
from galactic.linux.namespace import Namespace
from galactic.linux.nftables import Nftables
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    Balanced,
    Direct,
    Encap,
    EndDT46,
    Neighbour,
    NeighbourState,
    Objects,
    RouteKey,
    RouteTarget,
    Unreachable,
    Via,
    route_of,
)
from galactic.linux.route_lookup import chosen_route
from galactic.linux.underlay import underlay
from galactic.node.dataplane.counter_reader import rates
from galactic.node.dataplane.flows import LONGEST_SECONDS, flows
from galactic.node.dataplane.host_settings import ARP_IGNORE
from galactic.node.dataplane.host_settings import problems as host_problems
from galactic.node.dataplane.plan import DEVICE_SYSCTLS, tables_of
from galactic.node.dataplane.probes import Sending, answering, counters, inside, next_hop, plain, send
from galactic.node.policies.ruleset import DROPPED, TABLE

PROGRAM: Final = "galactic-node-inspect"
SYSCTLS: Final = (
    "net/vrf/strict_mode",
    "net/ipv4/conf/all/forwarding",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/seg6_enabled",
)

HOST_SYSCTLS: Final = (ARP_IGNORE,)
STOPPING: Final = {
    "ipv4": ("forwarding", "rp_filter", "arp_ignore"),
    "ipv6": ("disable_ipv6", "forwarding"),
}
"""Sysctls of Galactic's devices with which packets stop."""


def target(to: RouteTarget) -> dict[str, Any]:
    """Where a route leads. ``kind`` is device, via, sid, balanced, end or unreachable."""
    match to:
        case Direct(device) | Via(device):
            via = {"gateway": str(ip_address(to.gateway))} if isinstance(to, Via) else {}
            return {"kind": "via" if via else "device", "device": device} | via
        case Encap(device, segment, mode):
            return {"kind": "sid", "device": device, "sid": str(IPv6Address(segment)), "mode": mode}
        case Balanced(device, hops, mode):
            sids = [{"sid": str(IPv6Address(segment)), "weight": weight} for segment, weight in hops]
            return {"kind": "balanced", "device": device, "sids": sids, "mode": mode}
        case EndDT46(device, table):
            return {"kind": "end", "device": device, "table": table}
        case Unreachable():
            return {"kind": "unreachable"}
        case _:
            return {"kind": "other"}


def routes(targets: Mapping[RouteKey, RouteTarget]) -> list[dict[str, Any]]:
    """Routes in the order of their networks."""
    listed = sorted(((route_of(key), to) for key, to in targets.items()), key=lambda item: _order(item[0]))
    return [{"network": str(network), "metric": metric} | target(to) for (_, network, metric), to in listed]


def _order(route: tuple[int, Any, int]) -> tuple[int, bytes, int, int]:
    _, network, metric = route
    return network.version, network.network_address.packed, network.prefixlen, metric


async def inspection(
    *,
    vpcs: Iterable[str] = (),
    everything: bool = False,
    ways: Iterable[str] = (),
    pods: Iterable[str] = (),
    resolve: bool = False,
    echoes: Iterable[str] = (),
) -> dict[str, Any]:
    """The objects and probes, as they are printed.

    ``vpcs``: identifiers (hex) whose tables to print; ``everything``: all of them. ``ways``: addresses, or VPC@ADDRESS
    for an address as the VPC's VRF sees it. ``pods``: NETNS@INTERFACE. ``resolve``: solicits the next hops of ways,
    within seconds. ``echoes``: NETNS@INTERFACE@ADDRESS@SIZE, sent one after the other; the pod is among ``pods``.
    Raises Rejected for text of another form.
    """
    sending = [Sending.parse(text) for text in echoes]
    async with LinuxKernel() as kernel:
        objects = await kernel.objects()
        numbers = tables_of(objects)
        chosen = sorted(numbers) if everything else [names.parse_vpc(vpc) for vpc in vpcs]
        pod_objects = {text: await _pod(kernel, text) for text in pods}
        routes_by_way = {text: await _way(text) for text in ways}
        before = drops(in_use())
        await asyncio.gather(
            *(next_hop(way, asked=resolve) for way in routes_by_way.values()),
            *(inside(text, pod) for text, pod in pod_objects.items() if pod),
        )
        resolving = rise(before, drops(in_use()))
        return {
            "version": __version__,
            "kernel": os.uname().release,
            "links": _links(objects),
            "addresses": sorted(f"{address} {device}" for device, address in objects.addresses),
            "rules": [
                {"priority": rule.priority, "to": str(rule.destination), "table": rule.table}
                for rule in objects.rules
            ],
            "lookups": {
                f"IPv{family}": {"vrf_first": order.vrf_first, "block": str(order.block), "main": order.main}
                for family, order in objects.lookups.items()
            },
            "sysctls": sysctl.values(Namespace.own(), SYSCTLS),
            "settings": _settings(objects),
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
            "ways": routes_by_way,
            "pods": pod_objects,
            "neighbours": _by_device(await kernel.neighbours()),
            "resolving": {"drops": plain(resolving)},
            "echoes": {
                requests.text: await send(requests, pod_objects.get(requests.pod)) for requests in sending
            },
            "drops": plain(drops(in_use())),
            "foreign": await _foreign(objects),
        }


def _settings(objects: Objects) -> list[dict[str, str]]:
    """Sysctls that stop packets: those of Galactic's devices that differ from the plan's, and the host's own."""
    wanted = {
        f"net/{family}/conf/{device}/{name}": value
        for device, link in objects.links.items()
        if link.kind in {"vrf", "veth"}
        for family, stopping in STOPPING.items()
        for name, value in DEVICE_SYSCTLS[family].items()
        if name in stopping
    }
    wanted |= {f"net/{family}/conf/all/forwarding": "1" for family in STOPPING}
    wanted["net/ipv4/conf/all/rp_filter"] = "0"  # the kernel uses the larger one of all and the device
    values = sysctl.values(Namespace.own(), (*wanted, *HOST_SYSCTLS))
    differing = [
        {
            "device": path.split("/")[3],
            "text": f"{path.replace('/', '.')} is {values[path]}, and VPCs need {value}",
        }
        for path, value in wanted.items()
        if values.get(path, value) != value
    ]
    host = {path: values[path] for path in HOST_SYSCTLS if path in values}
    return differing + [{"device": "all", "text": problem} for problem in host_problems(host)]


async def _foreign(objects: Objects) -> list[dict[str, Any]]:
    """Chains of other programs that drop packets of VPCs; none where the node has no plan yet."""
    block = next((rule.destination for rule in objects.rules if rule.priority == UNDERLAY_PRIORITY), None)
    own = [address.ip for device, address in objects.addresses if device == LOOPBACK_DEVICE]
    loopback = next((address for address in own if isinstance(address, IPv6Address)), None)
    if block is None or loopback is None:
        return []
    try:
        uplinks = (await underlay(block)).uplinks
    except GalacticError:
        uplinks = ()
    return [
        {
            "text": str(chain),
            "packets": chain.packets,
            "remedy": chain.remedy,
            "counted": chain.counted,
        }
        for chain in dropping(tuple(packets(block, loopback, uplinks)), block)
    ]


def _by_device(states: Mapping[Neighbour, NeighbourState]) -> dict[str, dict[str, str]]:
    devices: dict[str, dict[str, str]] = {}
    for (device, address), state in states.items():
        if not address.is_multicast:
            devices.setdefault(device, {})[str(address)] = state
    return devices


def _links(objects: Objects) -> dict[str, Any]:
    packets = counters()
    return {
        name: {"kind": link.kind, "up": link.up, "table": link.table, "master": link.master, "mtu": link.mtu}
        | packets.get(name, {})
        for name, link in sorted(objects.links.items())
    }


async def _way(text: str) -> dict[str, Any]:
    vpc, at, address = text.rpartition("@")
    try:
        destination = ip_address(address)
    except ValueError as error:
        raise Rejected(f"{address!r} is not an address", field="--way") from error
    route = await chosen_route(destination, device=names.vrf(names.parse_vpc(vpc)) if at else "")
    return {
        "address": str(destination),
        "type": route.type,
        "device": route.device,
        "gateway": route.gateway,
        "sid": route.segment,
    }


async def _pod(kernel: LinuxKernel, text: str) -> dict[str, Any] | None:
    """None: the namespace is gone, or the device in it."""
    netns, _, device = text.rpartition("@")
    objects = await kernel.read_pod(netns, device)
    if objects is None:
        return None
    return {
        "addresses": sorted(str(address) for _, address in objects.addresses),
        "routes": routes(objects.routes),
    }


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        PROGRAM, description="Galactic's objects in this node's kernel, as JSON."
    )
    arguments.add_argument("--vpc", action="append", default=[], metavar="HEX", help="print this VPC's table")
    arguments.add_argument("--all", action="store_true", help="print every VPC's table")
    arguments.add_argument(
        "--way",
        action="append",
        default=[],
        metavar="[VPC@]ADDRESS",
        help="print the kernel's way to it (from the VPC)",
    )
    arguments.add_argument(
        "--pod",
        action="append",
        default=[],
        metavar="NETNS@INTERFACE",
        help="print the addresses and routes in that pod's namespace",
    )
    arguments.add_argument(
        "--resolve",
        action="store_true",
        help="resolve the next hops of all ways, and print their states",
    )
    arguments.add_argument(
        "--echo",
        action="append",
        default=[],
        metavar="NETNS@INTERFACE@ADDRESS@SIZE",
        help="send echo requests from that --pod, and print the answers and the packets counted meanwhile",
    )
    arguments.add_argument(
        "--answers",
        action="append",
        default=[],
        metavar="LOOPBACK",
        help="print whether the node with this SRv6 loopback answers echo requests, alone",
    )
    arguments.add_argument(
        "--traffic",
        type=float,
        metavar="SECONDS",
        help="print what each host end counts within that time, alone",
    )
    arguments.add_argument(
        "--flows",
        metavar="DEVICE@SECONDS@NETWORK,…",
        help="print the flows at that host end within that time, alone; its pod sends from these networks",
    )
    return arguments


async def _policy_drops() -> Counter[str]:
    """Packets that rules dropped, by host end; none where no rules are in force."""
    dropped: Counter[str] = Counter()
    with suppress(GalacticError):
        for name in DROPPED:
            dropped.update(await Nftables().counted(TABLE, name))
    return dropped


async def _answers(addresses: Sequence[str]) -> dict[str, bool]:
    """Whether each node answers this one, by its SRv6 loopback. Raises Rejected, and Unreachable without one here."""
    try:
        destinations = {IPv6Address(address) for address in addresses}
    except ValueError as error:
        raise Rejected(f"{error}; give SRv6 loopbacks", field="--answers") from error
    async with LinuxKernel() as kernel:
        own = [
            address.ip for device, address in (await kernel.objects()).addresses if device == LOOPBACK_DEVICE
        ]
    source = next((address for address in own if isinstance(address, IPv6Address)), None)
    if source is None:
        raise errors.Unreachable("kernel", f"{LOOPBACK_DEVICE} has no address")
    answered = await answering(source, destinations)
    return {str(destination): destination in answered for destination in sorted(destinations)}


async def _printed(options: argparse.Namespace) -> dict[str, Any]:
    if options.flows is not None:
        return await flows(options.flows)
    if options.answers:
        return {"answers": await _answers(options.answers)}
    if options.traffic is not None:
        return await rates(min(max(options.traffic, 0.1), LONGEST_SECONDS), _policy_drops)
    return await inspection(
        vpcs=options.vpc,
        everything=options.all,
        ways=options.way,
        pods=options.pod,
        resolve=options.resolve,
        echoes=options.echo,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit code 2 for invalid arguments, 1 where the kernel does not answer."""
    options = parser().parse_args(arguments)
    try:
        printed = asyncio.run(_printed(options))
    except GalacticError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        raise SystemExit(2 if isinstance(error, Rejected) else 1) from error
    json.dump(printed, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

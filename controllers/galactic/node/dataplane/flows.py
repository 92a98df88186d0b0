"""Flows of a pod during some seconds, each with a verdict: how many of its packets this node let through.

A packet from the pod passes the host end, the VRF (behind the check of its source) and the device that it leaves by.
One to the pod passes the VRF and the host end. Where fewer packets come out than went in, the node dropped the
difference. A fragment other than the first counts nowhere. The count of the first place ends CLOSING_SECONDS before the
others', so that no packet on its way counts as dropped.
"""

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Final

from galactic import names
from galactic.errors import Rejected
from galactic.linux.capture import FRAGMENT, Capture, Sighting, Tuple5
from galactic.linux.objects import Network
from galactic.linux.route_lookup import chosen_route

CLOSING_SECONDS: Final = 0.2
LONGEST_SECONDS: Final = 60.0
FLOWS: Final = 1_000
"""Flows that are counted."""
LOOKUPS: Final = 200
"""Destinations whose routes are looked up."""
PASSED, UNKNOWN = "passed", "unknown"
FORGED, NO_ROUTE, FILTERED = "forged source", "no route", "policy or packet filter"
UNDELIVERED: Final = "policy, packet filter, or the pod does not answer ARP or neighbour discovery"
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


@dataclass(slots=True)
class Flow:
    """Packets at the first place, in the VRF, and into the pod. ``sent``: from the pod. ``exits``: packets that left,
    by the VPC of the SID or host end that they left for; 0: for none.
    """

    sent: bool
    bytes: int = 0
    first: int = 0
    vrf: int = 0
    last: int = 0
    last_bytes: int = 0
    exits: dict[int, int] = field(default_factory=dict)


class Flows:
    """Counts sightings. Pure. ``device``: the pod's host end; ``own``: the networks that the pod may send from."""

    def __init__(self, device: str, own: Sequence[Network]) -> None:
        interface = names.parse_interface(device)
        if interface is None or interface[2] != "H":
            raise Rejected(
                f"{device!r} is no host end: galactic status shows a node's attachments", field="--flows"
            )
        self._vpc = interface[0]
        self._device, self._vrf, self._own = device, names.vrf(interface[0]), own
        self._flows: dict[Tuple5, Flow] = {}
        self.more = 0
        """Packets of flows beyond FLOWS."""

    def add(self, sighting: Sighting, *, closing: bool = False) -> None:
        """``closing``: the first places count no more."""
        flow, at_pod = sighting.flow, sighting.device == self._device
        if flow.protocol == FRAGMENT or _is_local(flow):
            return
        known = self._flows.get(flow)
        if at_pod and not sighting.outgoing:
            if not closing:
                self._count(flow, known, Flow(sent=True, bytes=sighting.size, first=1))
        elif at_pod:
            self._count(flow, known, Flow(sent=False, last=1, last_bytes=sighting.size))
        elif sighting.device == self._vrf:
            sent = known.sent if known else any(flow.source in network for network in self._own)
            if sent:
                self._count(flow, known, Flow(sent=True, vrf=1))
            elif not closing:
                self._count(flow, known, Flow(sent=False, bytes=sighting.size, first=1, vrf=1))
        elif sighting.outgoing and known and known.sent:
            vpc = _vpc(sighting.device, sighting.segment)
            known.exits[vpc] = known.exits.get(vpc, 0) + 1

    def _count(self, flow: Tuple5, known: Flow | None, more: Flow) -> None:
        if known is None:
            if len(self._flows) >= FLOWS:
                self.more += 1
            else:
                self._flows[flow] = more
            return
        known.bytes, known.last_bytes = known.bytes + more.bytes, known.last_bytes + more.last_bytes
        known.first, known.vrf, known.last = (
            known.first + more.first,
            known.vrf + more.vrf,
            known.last + more.last,
        )

    def destinations(self) -> list[str]:
        """Those of flows from the pod, the most used first."""
        sent = [item for item in self._flows.items() if item[1].sent and item[1].first]
        sent.sort(key=lambda item: -item[1].first)
        return list(dict.fromkeys(str(flow.destination) for flow, _ in sent))[:LOOKUPS]

    def results(self, routes: Mapping[str, int | None], lost: int) -> list[dict[str, Any]]:
        """All flows, those with most bytes first. ``routes``: the VPC that a destination is reached in, None: no route;
        the pod's own VPC where it is missing. ``lost``: packets that were not seen: nothing counts as dropped.
        """
        found = [item for item in self._flows.items() if item[1].first or item[1].last]
        results = [self._result(*item, routes, lost) for item in found]
        return sorted(results, key=lambda result: (-result["bytes"], str(result)))

    def _result(
        self, flow: Tuple5, counted: Flow, routes: Mapping[str, int | None], lost: int
    ) -> dict[str, Any]:
        route = routes.get(str(flow.destination), self._vpc)
        left = counted.last
        if counted.sent:
            left = 0 if route is None else counted.exits.get(route, 0)
        dropped, why = max(counted.first - left, 0), ""
        if dropped and counted.sent and counted.vrf < counted.first:
            own = any(flow.source in network for network in self._own)
            why = FILTERED if own else FORGED
        elif dropped:
            why = (NO_ROUTE if route is None else FILTERED) if counted.sent else UNDELIVERED
        verdict = PASSED if not dropped else UNKNOWN if lost else "dropped"
        return {
            "protocol": _PROTOCOLS.get(flow.protocol, str(flow.protocol)),
            "source": str(flow.source),
            "source_port": flow.source_port,
            "destination": str(flow.destination),
            "destination_port": flow.destination_port,
            "direction": "sent" if counted.sent else "received",
            "packets": counted.first or left,
            "bytes": counted.bytes or counted.last_bytes,
            "dropped": 0 if verdict == UNKNOWN else dropped,
            "verdict": verdict,
            "why": "packets were too many to see all" if verdict == UNKNOWN else why,
            "seen": {"first": counted.first, "vrf": counted.vrf, "left": left},
        }


def _vpc(device: str, segment: bytes) -> int:
    """The VPC of a SID, or of a host end; 0: of neither."""
    if segment:
        return int.from_bytes(segment[8:14], "big")
    interface = names.parse_interface(device)
    return interface[0] if interface is not None else 0


def _is_local(flow: Tuple5) -> bool:
    """Between the pod and its gateway: neighbour discovery, and the gateway's ICMP errors."""
    ends = flow.source, flow.destination
    return any(end.is_link_local or end.is_multicast or end.is_unspecified for end in ends)


async def flows(
    text: str, opened: Callable[..., Capture] = Capture, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """The flows of ``DEVICE@SECONDS@NETWORK,…``: a host end, and the networks that its pod may send from.

    Raises Rejected for text of another form, Unreachable.
    """
    device, seconds, own = parsed(text)
    counted = Flows(device, own)
    try:
        index = socket.if_nametoindex(device)
    except OSError as error:
        raise Rejected(
            f"no device {device} on this node: {os.strerror(error.errno or 0)}", field="--flows"
        ) from error
    vrf = names.vrf(int(names.parse_interface(device)[0]))  # type: ignore[index]
    hosts = [network.network_address for network in own if network.num_addresses == 1]
    with opened(index, vrf, hosts) as capture:
        deadline = clock() + seconds
        while (rest := deadline - clock()) > -CLOSING_SECONDS:
            await asyncio.to_thread(select.select, [capture], [], [], min(max(rest, 0.02), 0.2))
            for sighting in capture.waiting():
                counted.add(sighting, closing=clock() > deadline)
        lost = capture.lost() + counted.more
    routes: dict[str, int | None] = {}
    for destination in counted.destinations():
        route = await chosen_route(ip_address(destination), device=vrf)
        reached = route.type in ("unicast", "local")
        segment = ip_address(route.segment).packed if route.segment else b""
        routes[destination] = _vpc(route.device, segment) if reached else None
    return {"seconds": seconds, "lost": lost, "flows": counted.results(routes, lost)}


def parsed(text: str) -> tuple[str, float, list[Network]]:
    """Raises Rejected."""
    try:
        device, seconds, networks = text.split("@")
        own: list[Network] = [ip_network(network) for network in networks.split(",")]
        duration = float(seconds)
    except ValueError as error:
        raise Rejected(f"{text!r} is not DEVICE@SECONDS@NETWORK,…: {error}", field="--flows") from error
    if not 0 < duration <= LONGEST_SECONDS:
        raise Rejected(f"{seconds} is not between 0 and {LONGEST_SECONDS:g} seconds", field="--flows")
    return device, duration, own

"""Probes on demand: the state of next hops, and the answers to echo requests from a pod.

While echo requests are under way, the node counts the packets of every device and of every DROP rule of ours.
"""

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from ipaddress import IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from galactic import names
from galactic.errors import Rejected
from galactic.linux import neighbours
from galactic.linux.drop_counters import Drops, drops, rise
from galactic.linux.echo import echo
from galactic.linux.legacy import in_use
from galactic.linux.liveness import EchoSocket
from galactic.linux.namespace import Namespace, device_up
from galactic.linux.objects import LOOPBACK_DEVICE, Address

COUNTERS: Final = {
    "rx_packets": 1,
    "tx_packets": 9,
    "rx_dropped": 3,
    "tx_dropped": 11,
    "rx_errors": 2,
    "tx_errors": 10,
}
"""Name → column of /proc/net/dev."""
LARGEST_ECHO: Final = 1280
"""Bytes: the smallest MTU that a pod's interface may have."""

REQUESTS: Final = 4
"""Echo requests to a gateway's node; as many in a row unanswered, and other nodes lead round it."""
REQUEST_SECONDS: Final = 0.15
"""Between two of them."""


class Sending(NamedTuple):
    """Echo requests to send. ``pod``: NETNS@INTERFACE; ``text``: that and the address, which names them."""

    pod: str
    address: Address
    size: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of NETNS@INTERFACE@ADDRESS@SIZE. Raises Rejected."""
        pod, _, rest = text.rpartition("@")[0].rpartition("@")
        size = text.rpartition("@")[2]
        try:
            sending = cls(pod, ip_address(rest), int(size))
        except ValueError as error:
            raise Rejected(
                f"{text!r} is not NETNS@INTERFACE@ADDRESS@SIZE: {error}", field="--echo"
            ) from error
        if "@" not in pod or not 0 < sending.size <= LARGEST_ECHO:
            raise Rejected(
                f"{text!r} is not NETNS@INTERFACE@ADDRESS@SIZE, of at most {LARGEST_ECHO} bytes",
                field="--echo",
            )
        return sending

    @property
    def text(self) -> str:
        return f"{self.pod}@{self.address}"


def counters(table: Path = Path("/proc/thread-self/net/dev")) -> dict[str, dict[str, int]]:
    """The packets of every device in this network namespace (proc_pid_net(5)); empty where /proc cannot be read."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return {}
    counted = {}
    for line in lines:
        device, colon, numbers = line.rpartition(":")
        if colon:
            values = list(map(int, numbers.split()))
            counted[device.strip()] = {name: values[column] for name, column in COUNTERS.items()}
    return counted


def plain(dropped: Iterable[Drops]) -> list[dict[str, Any]]:
    return [drop.plain() for drop in dropped]


async def send(sending: Sending, pod: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The answers to the requests, and the packets counted meanwhile on this node; None where they cannot be sent.

    Where one was not answered, the gateway is resolved: after the requests, because in a pod without a usable
    link-local address (tentative, or none) only a packet makes the kernel solicit.
    """
    own = (ip_interface(address).ip for address in (pod or {}).get("addresses", ()))
    source = next((address for address in own if address.version == sending.address.version), None)
    netns, _, device = sending.pod.rpartition("@")
    if source is None or pod is None:
        return None
    try:
        namespace = Namespace.at(netns)
    except OSError:
        return None
    states: dict[str, str] = {}
    with namespace:
        dropped, before = drops(in_use()), counters()
        answer = await echo(namespace, source, sending.address, sending.size)
        if answer.answered < max(1, answer.sent):
            for hop in _gateways(pod):
                if hop.version == source.version:
                    states[str(hop)] = await neighbours.resolve(namespace, (device, hop))
        after = counters()
    counted = {"drops": plain(rise(dropped, drops(in_use()))), "links": _risen(before, after)}
    return asdict(answer) | {"size": sending.size, "source": str(source), "gateways": states} | counted


def _gateways(pod: Mapping[str, Any]) -> list[Address]:
    gateways = {ip_address(route["gateway"]) for route in pod["routes"] if route["kind"] == "via"}
    return sorted(gateways, key=str)


def _risen(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """By how much the counters of our devices rose; devices of which none did are left out."""
    risen = {}
    for device in filter(names.parse_interface, before.keys() & after.keys()):
        rises = {name: value - before[device][name] for name, value in after[device].items()}
        if any(rises.values()):
            risen[device] = rises
    return risen


async def next_hop(way: dict[str, Any], *, asked: bool) -> None:
    """Adds the state of a way's next hop, where it is behind a device that has neighbours.

    It is the state after an attempt if ``asked``, else the present one.
    """
    device, end = way["device"], names.parse_interface(way["device"])
    if (
        way["type"] != "unicast"
        or way["sid"]
        or device in ("", "lo", LOOPBACK_DEVICE)
        or (end and end[2] == "V")
    ):
        return
    hop = ip_address(way["gateway"] or way["address"])
    if asked:
        state = await neighbours.resolve(Namespace.own(), (device, hop))
    else:
        known = await neighbours.read(Namespace.own(), lambda name: name == device)
        state = known.get((device, hop), "NONE")
    way["neighbour"] = {"address": str(hop), "asked": asked, "state": state}


async def inside(text: str, pod: dict[str, Any]) -> None:
    """Adds the states of a pod's gateways, and whether its interface is up. ``text``: NETNS@INTERFACE."""
    netns, _, device = text.rpartition("@")
    try:
        namespace = Namespace.at(netns)
    except OSError:
        return
    with namespace:
        known = await neighbours.read(namespace, lambda name: name == device)
        pod["up"] = device_up(namespace, device)
    pod["neighbours"] = {str(hop): known.get((device, hop), "NONE") for hop in _gateways(pod)}


async def answering(source: IPv6Address, destinations: AbstractSet[IPv6Address]) -> set[IPv6Address]:
    """The destinations that answer one of some requests from ``source``. Raises Unreachable."""
    answered: set[IPv6Address] = set()
    with EchoSocket(source) as echoes:
        for _ in range(REQUESTS):
            if not (silent := destinations - answered):
                break
            echoes.send(silent)
            await asyncio.sleep(REQUEST_SECONDS)
            answered |= echoes.answered() & destinations
    return answered

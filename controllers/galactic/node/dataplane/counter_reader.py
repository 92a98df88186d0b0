"""Reads the counters of this node's host ends, adds them to the usage of its attachments, and writes that to a file.

One dump of the kernel's links every READ_SECONDS, and one line of /proc/net/dev when an attachment goes: no API
request, and nothing on the way of a packet.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
import structlog

from galactic import names
from galactic.errors import GalacticError
from galactic.linux import link_counters
from galactic.linux.drop_counters import Drops, drops, reason
from galactic.linux.legacy import in_use
from galactic.linux.link_counters import LinkCounters, Reading, traffic, unrouted4
from galactic.linux.namespace import Namespace
from galactic.linux.objects import Address
from galactic.node.dataplane import connection_rules
from galactic.node.state.attachment import Key
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.store import Store
from galactic.node.state.usage import UsageCounters, UsageFile
from galactic.node.traffic_metrics import Series, TrafficSeries, traffic_series

log = structlog.get_logger(__name__)
READ_SECONDS: Final = 10.0
COUNTED: Final = "HM"
"""The devices of which rates are read: host ends, and the ends of ways out that are in no VRF."""
CountedByDevice = Callable[[], Awaitable[Mapping[str, int]]]
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
UNDERSTOOD: Final = 1
"""The latest schema of the file of usage that this version reads."""


def now() -> float:
    """Seconds since the host started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class CounterReader:
    """Keeps the usage of this node's attachments.

    ``read``: all veth devices; ``one``: bytes and packets of a device.
    """

    def __init__(
        self,
        store: Store,
        checkpoint: Checkpoint,
        read: Callable[[], Awaitable[dict[str, Reading]]],
        one: Callable[[str], LinkCounters | None] = traffic,
    ) -> None:
        self._store, self._checkpoint, self._read, self._one = store, checkpoint, read, one
        store.detaching = self.detaching
        self.usage = restored(checkpoint, boot_id())
        self.policy_drops: CountedByDevice | None = None
        """Where rules of policies are enforced: the packets that they dropped, by host end."""
        self.refused_connections: CountedByDevice | None = None
        """Where rules of gateways are kept: packets of new connections that they dropped, by device."""
        self._refused: Mapping[str, int] = {}
        self._readings: Mapping[str, Reading] = {}
        self.node_drops: Mapping[tuple[str, int], int] = {}
        """Packets that the packet filter dropped, and those without a route, by reason and IP version."""

    async def run(self) -> None:
        """For ever. A round that fails is followed by the next: the kernel goes on counting."""
        reported = ""
        while True:
            problem = ""
            try:
                await self.round()
            except GalacticError as error:
                problem = str(error)
                if problem != reported:
                    log.warning("traffic not read", error=problem)
            reported = problem
            await asyncio.sleep(READ_SECONDS)

    async def round(self) -> None:
        """Reads everything once, and writes the file. Raises Unreachable."""
        readings = with_policies(await self._read(), await self._dropped())
        self._readings = readings
        self.usage.observe(now(), self._store.attachments, readings, names.host_end)
        self.node_drops = node_drops(drops(in_use()), unrouted4())
        if self.refused_connections is not None:
            with suppress(GalacticError):
                self._refused = await self.refused_connections()
        self.save()

    async def _dropped(self) -> dict[str, int]:
        """By host end; as before where the rules' part does not know yet, or cannot read them."""
        devices = self.usage.devices.items()
        dropped = {names.host_end(*key): device.counters.policy for key, device in devices}
        if self.policy_drops is not None:
            with suppress(GalacticError):
                dropped |= await self.policy_drops()
        return dropped

    def detaching(self, key: Key) -> None:
        """An attachment is about to go, and its device with it."""
        attachment = self._store.attachments.get(key)
        counters = self._one(names.host_end(*key)) if attachment and not self.usage.fresh else None
        if attachment and counters:
            self.usage.read_traffic(now(), attachment, counters)

    def too_big(self, vpc: int, sender: Address) -> None:
        """A router reported a packet from that address of the VPC as too big."""
        for attachment in self._store.attachments.of_vpc(vpc):
            if any(sender in network for network in attachment.announces):
                self.usage.too_big(attachment)
                return

    def series(self, vpc_names: Mapping[int, str], limit: int) -> TrafficSeries:
        """The series to expose, as they were last read."""
        current = traffic_series(self.usage, self._store.attachments, vpc_names, limit)
        led_out, refused = [*self._led_out()], self._not_led()
        return replace(current, gateways=led_out, refused=refused, node_drops=self.node_drops)

    def _led_out(self) -> Iterator[Series]:
        """The ways out on this node, counted by the end of the pair of devices that is in no VRF."""
        gateways, prefix = self._store.gateways, self._store.node.prefix
        for vpc, gateway in sorted(gateways.all.items()):
            reading = self._readings.get(names.main_end(vpc, gateway.function))
            if reading is not None and gateways.exit_here(vpc, prefix):
                namespace, _, name = gateway.name.partition("/")
                yield Series((namespace, name), reading.counters)

    def _not_led(self) -> dict[tuple[str, str], int]:
        """New connections' packets that were dropped, by gateway."""
        gateways, prefix = self._store.gateways, self._store.node.prefix
        counted = {}
        for vpc, gateway in sorted(gateways.all.items()):
            if gateways.exit_here(vpc, prefix):
                namespace, _, name = gateway.name.partition("/")
                counted[namespace, name] = sum(
                    self._refused.get(device, 0) for device in connection_rules.ends(gateway)
                )
        return counted

    def save(self) -> None:
        """Writes the file. Raises Unreachable."""
        self._checkpoint.put_usage(msgspec.json.encode(self.usage.file()))


def with_policies(readings: Mapping[str, Reading], dropped: Mapping[str, int]) -> dict[str, Reading]:
    """The readings with packets that rules dropped."""
    return {
        device: Reading(reading.ifindex, reading.counters._replace(policy=dropped.get(device, 0)))
        for device, reading in readings.items()
    }


async def rates(seconds: float, policy_drops: CountedByDevice) -> dict[str, Any]:
    """Counters of host ends and ways out here: their rise within these seconds, and in all. Raises Unreachable."""
    namespace = Namespace.own()

    async def counted() -> tuple[dict[str, Reading], float]:
        return with_policies(await link_counters.read(namespace), await policy_drops()), time.monotonic()

    before, began = await counted()
    await asyncio.sleep(seconds)
    after, ended = await counted()
    devices = {}
    for device, reading in after.items():
        interface, earlier = names.parse_interface(device), before.get(device)
        if (
            interface is not None
            and interface[2] in COUNTED
            and earlier
            and earlier.ifindex == reading.ifindex
        ):
            rises = (max(now - then, 0) for now, then in zip(reading.counters, earlier.counters, strict=True))
            devices[device] = {
                "counters": reading.counters._asdict(),
                "rises": LinkCounters(*rises)._asdict(),
            }
    return {"seconds": ended - began, "devices": devices}


def restored(checkpoint: Checkpoint, boot: str) -> UsageCounters:
    """Usage from the file; a new one where there is none, or none that can be read."""
    try:
        if data := checkpoint.usage():
            file = msgspec.json.decode(data, type=UsageFile)
            if file.schema <= UNDERSTOOD:
                return UsageCounters.of(file, boot)
            log.warning(
                "file of usage is of a newer version: counting starts again at zero", schema=file.schema
            )
    except (msgspec.MsgspecError, UnicodeDecodeError, GalacticError) as error:
        log.warning("file of usage not readable: counting starts again at zero", error=str(error))
    return UsageCounters(uuid4().hex, boot)


def node_drops(rules: list[Drops], unrouted: int | None) -> dict[tuple[str, int], int]:
    """Packets by reason and IP version: of the packet filter's DROP rules, and IPv4 packets without a route."""
    counted: dict[tuple[str, int], int] = {}
    for rule in rules:
        key = reason(rule), rule.family
        counted[key] = counted.get(key, 0) + rule.packets
    if unrouted is not None:
        counted["no_route", 4] = unrouted
    return counted

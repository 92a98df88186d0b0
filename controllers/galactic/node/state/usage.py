"""Cumulative traffic of this node's attachments, made of kernel counters that begin again with each device.

Pure. What a device counted since it was last read is added to three things: its attachment's record, the VPC's sum,
and the seconds that the attachment was there. A restart of the node controller continues with the file of before: the
kernel went on counting meanwhile. A device that is not known yet began at zero, except at the very first reading,
which only notes where the counters stand.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from galactic.linux.link_counters import LinkCounters, Reading
from galactic.node.state.attachment import Attachment, Key

KEPT_SECONDS: Final = 86_400.0
"""An ended attachment's record, in which a router that was away finds its last traffic."""
KEPT_RECORDS: Final = 2_000
"""Of ended attachments, the latest."""
NOTHING: Final = LinkCounters()
UNKNOWN: Final = 0
"""Index of a device that was read by its name."""


class Instance(NamedTuple):
    """One ADD of an attachment: no other has its epoch."""

    vpc: int
    function: int
    epoch: int


class Device(msgspec.Struct, gc=False):
    """A host end as it was last read, at ``seen`` (seconds since the host started)."""

    ifindex: int
    counters: LinkCounters
    seen: float


class UsageRecord(msgspec.Struct, gc=False):
    """An attachment's traffic and seconds since counting began. ``ended``: when it went; None: it is here."""

    name: str
    counters: LinkCounters = NOTHING
    seconds: float = 0.0
    ended: float | None = None


class UsageFile(msgspec.Struct, frozen=True, kw_only=True):
    """The counters as their file has them."""

    schema: int = 1
    id: str
    boot: str
    devices: list[tuple[int, int, Device]]
    records: list[tuple[int, int, int, UsageRecord]]
    vpcs: list[tuple[int, LinkCounters]]


@dataclass(slots=True)
class UsageCounters:
    """``id``: a new one whenever counting starts at zero; ``boot``: the host's start that its devices belong to."""

    id: str
    boot: str
    fresh: bool = True
    """Whether nothing was read yet."""
    devices: dict[Key, Device] = field(default_factory=dict)
    records: dict[Instance, UsageRecord] = field(default_factory=dict)
    vpcs: dict[int, LinkCounters] = field(default_factory=dict)
    lost: int = 0
    """Records of ended attachments that KEPT_RECORDS had no room for."""

    @classmethod
    def of(cls, file: UsageFile, boot: str) -> "UsageCounters":
        """Continued from a file. After another start of the host its devices are others, and begin at zero."""
        devices = {(vpc, function): device for vpc, function, device in file.devices}
        usage = cls(file.id, boot, fresh=False, devices=devices if file.boot == boot else {})
        usage.vpcs = dict(file.vpcs)
        for vpc, function, epoch, record in file.records:
            if file.boot != boot and record.ended is not None:
                record.ended = 0.0  # its clock began again
            usage.records[Instance(vpc, function, epoch)] = record
        return usage

    def file(self) -> UsageFile:
        return UsageFile(
            id=self.id,
            boot=self.boot,
            devices=[(*key, device) for key, device in self.devices.items()],
            records=[(*instance, record) for instance, record in self.records.items()],
            vpcs=[*self.vpcs.items()],
        )

    def observe(
        self,
        now: float,
        attachments: Mapping[Key, Attachment],
        readings: Mapping[str, Reading],
        host_end: Callable[[int, int], str],
    ) -> None:
        """All host ends were read at ``now`` (seconds since the host started). Ends what is attached no more."""
        for key, attachment in attachments.items():
            if (reading := readings.get(host_end(*key))) is not None:
                self.read(now, attachment, reading)
        self.fresh = False
        self._end(now, attachments)

    def read(self, now: float, attachment: Attachment, reading: Reading) -> None:
        """One host end was read."""
        key, before = attachment.key, self.devices.get(attachment.key)
        continued = (
            before is not None
            and before.ifindex in (reading.ifindex, UNKNOWN)
            and all(new >= old for new, old in zip(reading.counters[:-1], before.counters[:-1], strict=True))
        )
        if before is not None and continued:
            added = _difference(reading.counters, before.counters)
            seconds = max(now - before.seen, 0.0)
        else:
            added, seconds = (NOTHING if self.fresh else reading.counters), 0.0
        self.devices[key] = Device(reading.ifindex, reading.counters, now)
        record = self.records.setdefault(
            Instance(attachment.vpc, attachment.function, attachment.epoch), UsageRecord(attachment.name)
        )
        record.name, record.ended = attachment.name, None
        record.counters = _sum(record.counters, added)
        record.seconds += seconds
        self.vpcs[attachment.vpc] = _sum(self.vpcs.get(attachment.vpc, NOTHING), added)

    def read_traffic(self, now: float, attachment: Attachment, traffic: LinkCounters) -> None:
        """Bytes and packets of a host end that is about to go; nothing if the device is not known."""
        if (known := self.devices.get(attachment.key)) is not None:
            latest = known.counters._replace(
                sent_bytes=traffic.sent_bytes,
                sent_packets=traffic.sent_packets,
                received_bytes=traffic.received_bytes,
                received_packets=traffic.received_packets,
            )
        else:
            latest = traffic
        self.read(now, attachment, Reading(known.ifindex if known else UNKNOWN, latest))

    def too_big(self, attachment: Attachment) -> None:
        """A router reported that a packet of the attachment was too big for a link."""
        one = LinkCounters(too_big=1)
        instance = Instance(attachment.vpc, attachment.function, attachment.epoch)
        if (record := self.records.get(instance)) is not None:
            record.counters = _sum(record.counters, one)
            self.vpcs[attachment.vpc] = _sum(self.vpcs.get(attachment.vpc, NOTHING), one)

    def _end(self, now: float, attachments: Mapping[Key, Attachment]) -> None:
        present = {Instance(key[0], key[1], attachment.epoch) for key, attachment in attachments.items()}
        for instance, record in self.records.items():
            if instance not in present and record.ended is None:
                record.ended = now
        self.devices = {key: device for key, device in self.devices.items() if key in attachments}
        ended = sorted(_ended(self.records), key=lambda item: item[1])
        old = [instance for instance, at in ended if now - at > KEPT_SECONDS]
        surplus = [instance for instance, _ in ended[len(old) :][:-KEPT_RECORDS]]
        self.lost += len(surplus)
        for instance in (*old, *surplus):
            del self.records[instance]
        hosted = {vpc for vpc, _ in attachments}
        self.vpcs = {vpc: counters for vpc, counters in self.vpcs.items() if vpc in hosted}


def _ended(records: Mapping[Instance, UsageRecord]) -> Iterable[tuple[Instance, float]]:
    return ((instance, record.ended) for instance, record in records.items() if record.ended is not None)


def _sum(one: LinkCounters, other: LinkCounters) -> LinkCounters:
    return LinkCounters(*(a + b for a, b in zip(one, other, strict=True)))


def _difference(now: LinkCounters, before: LinkCounters) -> LinkCounters:
    """Counters of policies begin again without their device: when the last rule went, and another one came."""
    changed = LinkCounters(*(a - b for a, b in zip(now, before, strict=True)))
    return changed if changed.policy >= 0 else changed._replace(policy=now.policy)

"""The lists of VPCAttachments and peered VPCs that clusters publish, which a standalone router goes by.

A list is in parts, each a retained message. The parts of one generation are one list. A part replaces the one before it
at once. But an entry is only taken out when the list is known without it: by a later part of the same generation,
or when all parts of a later generation are there (docs/design/entitlements.md).
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from sys import intern
from typing import Final, NamedTuple, Protocol

import structlog

from galactic.bus import Bus
from galactic.errors import Rejected
from galactic.messages import Entitlement, Entitlements, PeeringVpc, Topics, decode
from galactic.names import parse_function, parse_vpc
from galactic.router.egress.retained import SHARDS_MAX, shard_number
from galactic.router.egress.revisions import plausible
from galactic.router.ingress.decoder import is_valid
from galactic.router.rib.networks import Network, network
from galactic.router.rib.path import Attachment, NodeRef
from galactic.router.rib.registrations import Registrations
from galactic.validation.networks import parse_networks
from galactic.validation.peering import Side

log = structlog.get_logger(__name__)
AGAIN_SECONDS: Final = 30.0
"""After which the parts of an incomplete list are requested again: a full queue of the broker drops messages."""


VPC_KEY: Final = "vpc//"
"""Before the names of VPCs among the keys of a list: no attachment's name has an empty part."""


class DeclaredVpc(NamedTuple):
    """A VPC that names peers."""

    identifier: int
    side: Side[int]


Entry = Attachment | DeclaredVpc


class Declarations(Protocol):
    """Where declared VPCs go; ``rib.vpc_tables.VpcTables``."""

    def declare(self, cluster: str, vpc: int, name: str, side: Side[int] | None) -> None: ...


@dataclass(slots=True)
class ClusterList:
    """One cluster's list. ``amend`` is pure bookkeeping: which entries a part changes."""

    parts: dict[int, tuple[int, frozenset[str]]] = field(default_factory=dict)
    """Number of the part → its generation, and the names in it."""
    generation: int = -1
    of: int = 1
    complete: bool = False
    """Whether there was a whole list, once."""
    _whole: int = -1  # the last generation that was whole
    _where: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → generation and part

    def amend(self, number: int, part: Entitlements, entries: dict[str, Entry]) -> dict[str, Entry | None]:
        """The entries that the part changes; None: no more. Raises Rejected for a part of an earlier generation."""
        generation = part.generation
        known, names = self.parts.get(number, (-1, frozenset[str]()))
        if generation < max(known, self._whole):
            raise Rejected(f"generation {generation} is not the newest", reason="StaleSequence")
        self.parts[number] = generation, frozenset(entries)
        if generation >= self.generation:
            self.of = part.of if generation > self.generation else max(self.of, part.of)
            self.generation = generation
        changed: dict[str, Entry | None] = {}
        for name, entry in entries.items():
            if self._where.get(name, (-1, 0))[0] <= generation:
                self._where[name] = generation, number
                changed[name] = entry
        gone = []
        if known == generation:
            gone = [name for name in names - entries.keys() if self._where.get(name) == (known, number)]
        if self._whole < self.generation and not self.missing:
            self._whole, self.complete = self.generation, True
            gone += [name for name, (other, _) in self._where.items() if other < self.generation]
        for name in gone:
            del self._where[name]
            changed[name] = None
        return changed

    @property
    def missing(self) -> list[int]:
        """The parts of the newest generation that are not there."""
        return [
            number for number in range(self.of) if self.parts.get(number, (-1, None))[0] != self.generation
        ]


class EntitlementLists:
    """Of all clusters of a standalone router. Attachments go to the registrations, peered VPCs to the tables."""

    def __init__(self, bus: Bus, topics: Topics, registrations: Registrations, tables: Declarations) -> None:
        self._bus, self._registrations, self._tables = bus, registrations, tables
        self._filter = topics.entitlements("+", "+")
        self._clusters: dict[str, ClusterList] = {}
        self._declared: dict[tuple[str, str], int] = {}  # cluster and namespace/name of VPCs → identifier

    def subscribe(self) -> None:
        """Before a snapshot is read: the lists belong to it."""
        self._bus.subscribe(self._filter)

    def arrived(self, cluster: str, level: str, payload: bytes) -> None:
        """A message on ``entitlements/<cluster>/<level>``. Raises Rejected."""
        number = shard_number(level)
        if number is None or not is_valid(NodeRef(cluster, cluster)):
            raise Rejected(
                f"{cluster!r}, {level!r}: not the name of a cluster and the number of a shard",
                reason="UnknownTopic",
            )
        if not payload:
            return  # the retained message was cleared, which takes nothing away
        part = decode(Entitlements, payload)
        if not (plausible(part.generation) and number < part.of <= SHARDS_MAX):
            raise Rejected(
                f"generation {part.generation}, shard {number} of {part.of}", reason="SequenceInvalid"
            )
        entries: dict[str, Entry] = {entry.attachment: attachment(entry) for entry in part.attachments}
        for declared in part.vpcs:
            with suppress(Rejected):  # one that is not valid is peered with none
                entries[f"{VPC_KEY}{declared.name}"] = peering_vpc(declared)
        known = self._clusters.setdefault(cluster, ClusterList())
        before = known.complete
        changed = known.amend(number, part, entries)
        if known.complete and not before:
            log.info("list of attachments complete", cluster=cluster, shards=known.of)
        attachments: dict[str, Attachment | None] = {}
        for key, entry in changed.items():
            if isinstance(entry, DeclaredVpc) or key.startswith(VPC_KEY):
                self._declare(
                    cluster, key.removeprefix(VPC_KEY), entry if isinstance(entry, DeclaredVpc) else None
                )
            else:
                attachments[key] = entry
        self._registrations.amend_attachments(cluster, attachments, complete=known.complete)

    def _declare(self, cluster: str, name: str, vpc: "DeclaredVpc | None") -> None:
        before = self._declared.pop((cluster, name), None)
        if before is not None and (vpc is None or vpc.identifier != before):
            self._tables.declare(cluster, before, name, None)
        if vpc is not None:
            self._declared[cluster, name] = vpc.identifier
            self._tables.declare(cluster, vpc.identifier, name, vpc.side)

    async def run(self) -> None:
        """Requests the parts of incomplete lists again, for ever."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            if self._bus.connected and any(known.missing for known in self._clusters.values()):
                self._bus.unsubscribe(self._filter)
                self._bus.subscribe(self._filter)


def attachment(entry: Entitlement) -> Attachment:
    """An entry of a list, as endpoints are checked against it. Raises Rejected."""
    return Attachment(
        parse_vpc(entry.vpc) if entry.vpc else None,
        parse_function(entry.function) if entry.function else None,
        frozenset(_networks(entry.networks)),
        entry.ready,
        frozenset(entry.nodes),
        intern(entry.vpc_name),
    )


def peering_vpc(entry: PeeringVpc) -> DeclaredVpc:
    """A VPC of a list. Raises Rejected."""
    identifier = parse_vpc(entry.vpc)
    peers = dict.fromkeys(map(parse_vpc, entry.peers))
    networks = parse_networks(entry.networks, None)
    return DeclaredVpc(identifier, Side(networks, tuple(peer for peer in peers if peer != identifier)))


def _networks(texts: tuple[str, ...]) -> Iterator[Network]:
    """Those that endpoints could announce: what is none entitles to nothing."""
    for text in texts:
        with suppress(Rejected):
            yield network(text)

"""Tables of the VPCs hosted here while MQTT has none: composed from the VPCAttachments' status in the API server.

A VPC falls back when MQTT has not served its table for ``PATIENCE`` and a random time more (a broker that goes away
leaves all nodes at once). With a broker and a router there, a table may take some seconds to come: when many pods
start, nodes that do not wait for it would all list the VPC. One watch, with a selector of their label, serves many
VPCs. It ends when MQTT's table is whole again and has everything that the API server has. While the broker is well,
the API server gets no request.

While both are away the store gets no table, and the routes in the kernel stay.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from galactic import names
from galactic.errors import Rejected
from galactic.kube.api import Api, Object
from galactic.kube.api import Key as Name
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.names import VPC_LABEL
from galactic.node.kubernetes.fallback_table import Endpoint, compose, endpoint
from galactic.node.state.attachment import Key
from galactic.node.state.remote import Ranges, Source
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = 1.0
DEBOUNCE_SECONDS: Final = 0.05
LARGEST: Final = 100
"""VPCs in one selector: some 1,500 bytes of URL."""


class Patience(NamedTuple):
    """The seconds without a whole table until a VPC falls back: ``least``, and at random up to ``spread`` more."""

    least: float
    spread: float


PATIENCE: Final = Patience(3.0, 7.0)


@dataclass(slots=True)
class _Vpc:
    """One VPC as the API server has it, with its peers. Other peers begin another watch."""

    peers: Mapping[int, Ranges] = field(default_factory=dict)
    endpoints: dict[Name, Endpoint] = field(default_factory=dict)
    detached: dict[Key, int] = field(
        default_factory=dict
    )  # attachment → epoch, of those that were seen to go
    before: dict[Name, Endpoint] = field(default_factory=dict)  # endpoints of the watch before
    dirty: bool = True
    composed: int | None = None  # the revision of MQTT's table that it was last composed with
    agrees: bool = False  # whether that table had everything


@dataclass(slots=True, eq=False)
class _Watch:
    """One watch, of the VPCs that fell back together. It ends with the last of them."""

    informer: Informer
    vpcs: dict[int, _Vpc]
    task: asyncio.Task[None]


class Fallback:
    """Sets the store's tables from the API server for VPCs whose table MQTT does not serve (``serves``)."""

    def __init__(
        self,
        api: Api,
        store: Store,
        serves: Callable[[int], bool],
        patience: Patience = PATIENCE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._store, self._serves, self._now = api, store, serves, now
        self._patience = patience
        self._deadlines: dict[int, float] = {}  # of VPCs without a table: when they fall back
        self._watches: list[_Watch] = []
        self._wake = asyncio.Event()

    @property
    def followed(self) -> set[int]:
        """The VPCs whose attachments are watched now."""
        return {vpc for watch in self._watches for vpc in watch.vpcs}

    async def run(self) -> None:
        """Runs for ever."""
        try:
            while True:
                self._begin()
                for watch in self._watches:
                    self._compose(watch)
                self._end()
                try:
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._wake.wait()
                    await asyncio.sleep(DEBOUNCE_SECONDS)
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            for watch in self._watches:
                watch.task.cancel()
            await asyncio.gather(*(watch.task for watch in self._watches), return_exceptions=True)

    def _begin(self) -> None:
        """Watches the VPCs that have been without a table for long enough."""
        now, hosted, followed = self._now(), self._store.attachments.hosted, self.followed
        without = {vpc for vpc in hosted - followed if not self._serves(vpc)}
        deadline = now + self._patience.least + random.uniform(0.0, self._patience.spread)
        self._deadlines = {vpc: self._deadlines.get(vpc, deadline) for vpc in without}
        overdue = sorted(vpc for vpc, moment in self._deadlines.items() if moment <= now)
        self._watch_in_parts({vpc: _Vpc(self._store.tables.peers(vpc)) for vpc in overdue})

    def _watch_in_parts(self, vpcs: dict[int, _Vpc]) -> None:
        """Each watch has as many VPCs as its selector can name with their peers."""
        part: dict[int, _Vpc] = {}
        for number, vpc in vpcs.items():
            if part and len(_labels(part | {number: vpc})) > LARGEST:
                self._watch(part)
                part = {}
            part[number] = vpc
        if part:
            self._watch(part)

    def _watch(self, vpcs: dict[int, _Vpc]) -> None:
        log.info(
            "no route tables from the broker, following the API server", vpcs=[*map(names.vpc_hex, vpcs)]
        )

        def changed(key: Name, old: Object | None, new: Object | None) -> None:
            concerned = {_vpc(attachment) for attachment in (old, new) if attachment}
            for number, vpc in vpcs.items():
                if number in concerned or not concerned.isdisjoint(vpc.peers):
                    _update(vpc, key, old, new)
            self._wake.set()

        informer = Informer(
            self._api,
            Selection(
                VPC_ATTACHMENTS,
                labels=f"{VPC_LABEL} in ({','.join(map(names.vpc_hex, _labels(vpcs)))})",
                cached=True,
            ),
            changed,
            keep=compact,
        )
        task = asyncio.create_task(informer.run(), name="attachments of hosted VPCs")
        self._watches.append(_Watch(informer, vpcs, task))

    def _compose(self, watch: _Watch) -> None:
        if not watch.informer.synced.is_set():
            return
        store = self._store
        for number, vpc in watch.vpcs.items():
            base = store.tables.view(number, Source.MQTT)
            # The store drops its views when a VPC's last pod makes way for another at once, which is not seen here.
            lost = not vpc.agrees and store.tables.view(number, Source.KUBERNETES) is None
            if not (vpc.dirty or lost) and vpc.composed == (base.revision if base else None):
                continue
            vpc.dirty, vpc.composed = False, base.revision if base else None
            for key in vpc.before.keys() - vpc.endpoints.keys():
                gone = vpc.before[key]
                vpc.detached[gone.key] = gone.epoch
            vpc.before = {}
            table = compose(number, store.cluster, base, vpc.endpoints.values(), vpc.detached, vpc.peers)
            vpc.agrees = table is None
            if table is None:
                store.drop_source(number, Source.KUBERNETES)
            else:
                store.set_table(number, Source.KUBERNETES, table.revision, dict(table.routes))

    def _end(self) -> None:
        """Stops watching VPCs that are not hosted any more, and those of which MQTT has everything again."""
        hosted = self._store.attachments.hosted
        again: dict[int, _Vpc] = {}
        for watch in list(self._watches):
            for number, vpc in list(watch.vpcs.items()):
                if number in hosted and (peers := self._store.tables.peers(number)) != vpc.peers:
                    # What is in force stays until the next watch has listed.
                    again[number] = _Vpc(peers, detached=vpc.detached, before=vpc.before | vpc.endpoints)
                    del watch.vpcs[number]
                    continue
                behind = vpc.composed is not None and not vpc.agrees
                if number in hosted and (behind or not self._serves(number)):
                    continue
                log.info("not following the API server any more", vpc=names.vpc_hex(number))
                self._store.drop_source(number, Source.KUBERNETES)
                del watch.vpcs[number]
            if not watch.vpcs:
                watch.task.cancel()
                self._watches.remove(watch)
        self._watch_in_parts(again)


def _update(vpc: _Vpc, key: Name, old: Object | None, new: Object | None) -> None:
    before: Endpoint | None = old["endpoint"] if old else None
    after: Endpoint | None = new["endpoint"] if new else None
    if before == after:
        return
    if after:
        vpc.endpoints[key] = after
        vpc.detached.pop(after.key, None)
    elif before:
        del vpc.endpoints[key]
        vpc.detached[before.key] = before.epoch
    vpc.dirty = True


def _labels(vpcs: Mapping[int, _Vpc]) -> list[int]:
    """The VPCs whose attachments are followed: those, and their peers."""
    return sorted(vpcs.keys() | {peer for vpc in vpcs.values() for peer in vpc.peers})


def _vpc(attachment: Object) -> int:
    return int(attachment["vpc"])


def compact(vpcattachment: Object) -> Object:
    """The part of a VPCAttachment that the informer keeps."""
    meta = vpcattachment["metadata"]
    metadata = {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta}
    try:
        vpc = names.parse_vpc((meta.get("labels") or {}).get(VPC_LABEL, ""))
        parsed = endpoint(vpc, vpcattachment.get("status") or {})
    except Rejected as error:
        log.warning("endpoint ignored", attachment="/".join(metadata.values()), error=str(error))
        vpc, parsed = 0, None
    return {"metadata": metadata, "vpc": vpc, "endpoint": parsed}

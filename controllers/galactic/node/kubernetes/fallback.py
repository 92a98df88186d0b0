"""While MQTT does not tell the tables of the VPCs hosted here, the attachments' status does: read from the API server.

A VPC is read there when it has had no trustworthy table for ``PATIENCE_SECONDS`` and a random while more (a broker that
goes away leaves all nodes at once), by one watch for many VPCs, with a selector of their label. It ends when MQTT's
table is trusted again and says all that the API server says. While the broker is well the API server is asked nothing.

With both away nothing is told to the store, and what runs goes on.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from galactic import names
from galactic.errors import Rejected
from galactic.kube.api import Key as Name
from galactic.kube.api import Object
from galactic.kube.client import Kube
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.names import VPC_LABEL
from galactic.node.kubernetes.fallback_table import Endpoint, compose, endpoint
from galactic.node.state.remote import Source
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 3.0
SPREAD_SECONDS: Final = 7.0
DEBOUNCE_SECONDS: Final = 0.05
LARGEST: Final = 100
"""VPCs in one selector: some 1,500 bytes of URL."""


@dataclass(slots=True)
class _Vpc:
    """One VPC as the API server tells of it."""

    endpoints: dict[Name, Endpoint] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)
    dirty: bool = True
    composed: int | None = None  # the revision of MQTT's table that it was last composed with
    agrees: bool = False  # whether that table said it all


@dataclass(slots=True, eq=False)
class _Watch:
    """One watch, of the VPCs that fell back together. It ends with the last of them."""

    informer: Informer
    vpcs: dict[int, _Vpc]
    task: asyncio.Task[None]


class Fallback:
    """Feeds the store from the API server where ``trusted`` says of a VPC that MQTT's table is not to be relied on."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        trusted: Callable[[int], bool],
        *,
        now: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE_SECONDS,
        spread: float = SPREAD_SECONDS,
    ) -> None:
        self._kube, self._store, self._trusted, self._now = kube, store, trusted, now
        self._patience, self._spread = patience, spread
        self._due: dict[int, float] = {}  # VPCs without a trusted table → when they are read
        self._watches: list[_Watch] = []
        self._wake = asyncio.Event()

    @property
    def followed(self) -> set[int]:
        """The VPCs whose attachments are watched now."""
        return {vpc for watch in self._watches for vpc in watch.vpcs}

    async def run(self) -> None:
        """For ever."""
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
        """Watches what has been without a trusted table for long enough."""
        now, hosted, followed = self._now(), self._store.attachments.hosted, self.followed
        doubtful = {vpc for vpc in hosted - followed if not self._trusted(vpc)}
        at = now + self._patience + random.uniform(0.0, self._spread)
        self._due = {vpc: self._due.get(vpc, at) for vpc in doubtful}
        due = sorted(vpc for vpc, when in self._due.items() if when <= now)
        for first in range(0, len(due), LARGEST):
            self._watch(due[first : first + LARGEST])

    def _watch(self, vpcs: Iterable[int]) -> None:
        told = {vpc: _Vpc() for vpc in vpcs}
        log.info(
            "no route tables from the broker, following the API server", vpcs=[*map(names.vpc_hex, told)]
        )

        def changed(key: Name, old: Object | None, new: Object | None) -> None:
            for vpc in {_vpc(each) for each in (old, new) if each}:
                if vpc in told:
                    _take(told[vpc], key, old, new)
            self._wake.set()

        informer = Informer(
            self._kube,
            Selection(
                VPC_ATTACHMENTS,
                labels=f"{VPC_LABEL} in ({','.join(map(names.vpc_hex, told))})",
                cached=True,
            ),
            changed,
            keep=_kept,
        )
        task = asyncio.create_task(informer.run(), name="attachments of hosted VPCs")
        self._watches.append(_Watch(informer, told, task))

    def _compose(self, watch: _Watch) -> None:
        if not watch.informer.synced.is_set():
            return
        store = self._store
        for vpc, told in watch.vpcs.items():
            base = store.tables.view(vpc, Source.MQTT)
            # One whose pod gave way to another at once, so that we did not see it leave, knows nothing any more.
            lost = not told.agrees and store.tables.view(vpc, Source.KUBERNETES) is None
            if not (told.dirty or lost) and told.composed == (base.revision if base else None):
                continue
            told.dirty, told.composed = False, base.revision if base else None
            whole = compose(vpc, store.cluster, base, told.endpoints.values(), told.gone)
            told.agrees = whole is None
            if whole is None:
                store.drop_source(vpc, Source.KUBERNETES)
            else:
                store.set_table(vpc, Source.KUBERNETES, whole.revision, dict(whole.routes))

    def _end(self) -> None:
        """Stops watching what is not hosted any more, and what MQTT tells of again, all of it."""
        hosted = self._store.attachments.hosted
        for watch in list(self._watches):
            for vpc, told in list(watch.vpcs.items()):
                lost = told.composed is not None and not told.agrees
                if vpc in hosted and (lost or not self._trusted(vpc)):
                    continue
                log.info("the API server is not needed any more", vpc=names.vpc_hex(vpc))
                self._store.drop_source(vpc, Source.KUBERNETES)
                del watch.vpcs[vpc]
            if not watch.vpcs:
                watch.task.cancel()
                self._watches.remove(watch)


def _take(told: _Vpc, key: Name, old: Object | None, new: Object | None) -> None:
    before: Endpoint | None = old["endpoint"] if old else None
    after: Endpoint | None = new["endpoint"] if new else None
    if before == after:
        return
    if after:
        told.endpoints[key] = after
        told.gone.pop(after.function, None)
    elif before:
        del told.endpoints[key]
        told.gone[before.function] = before.epoch
    told.dirty = True


def _vpc(kept: Object) -> int:
    return int(kept["vpc"])


def _kept(thing: Object) -> Object:
    """The part of an attachment that is remembered."""
    meta = thing["metadata"]
    kept = {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta}
    try:
        vpc = names.parse_vpc((meta.get("labels") or {}).get(VPC_LABEL, ""))
        told = endpoint(vpc, thing.get("status") or {})
    except Rejected as error:
        log.warning("endpoint ignored", attachment="/".join(kept.values()), error=str(error))
        vpc, told = 0, None
    return {"metadata": kept, "vpc": vpc, "endpoint": told}

"""Keeps the packet filter's table for gateways as ``gateway_rules`` has it; the ways out wait for it.

A way out is made after its rules are there, and its rules stay until it is gone: no packet of a VPC passes without
them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from galactic.errors import GalacticError
from galactic.linux.connections import Held, Service, capacity, release
from galactic.linux.kept_table import CountingKernel, KeptTable
from galactic.linux.objects import Address
from galactic.node.dataplane.connection_rules import CONNECTIONS, REFUSED
from galactic.node.dataplane.gateway_rules import TABLE, WayOut, held, served, table
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
ROUND_SECONDS: Final = 5.0
PENDING_SECONDS: Final = 0.1
"""Between two rounds while a way out is not in the kernel yet, or not gone yet."""
LINGER_SECONDS: Final = 20.0
"""For which rules of a way out stay that is no more: longer than a round that fails to remove it is repeated."""
SHARE: Final = 16
"""Of the host's connection tracking a VPC has one part in so many, in each family and direction."""
Serving = Mapping[Service, AbstractSet[Address]]


class GatewayFilter:
    """``lacking``: what this host lacks for it, in words. ``led_out``: the VPCs whose way out the kernel
    has, None before it was read. ``release`` ends connections to pods that a published port leads to no more.
    """

    def __init__(
        self,
        nft: CountingKernel,
        store: Store,
        lacking: Callable[[], Awaitable[str]],
        led_out: Callable[[], AbstractSet[int] | None],
        release: Callable[[AbstractSet[Held], Serving], int] = release,
    ) -> None:
        self._kept, self._store, self._lacking = KeptTable(nft, TABLE), store, lacking
        self._nft = nft
        self._led_out, self._release = led_out, release
        self._held: frozenset[Held] = frozenset()
        self._serving: Serving = {}
        self.connections = CONNECTIONS
        """Of a VPC, in each family and direction."""
        self._changed = store.watch()
        self._ways: dict[int, tuple[WayOut, float]] = {}  # with the time until which a former one stays
        self._written: Mapping[int, WayOut] = {}
        """As the packet filter has them: behind the wanted ones while a change is being written, or cannot be."""
        self._problem: str | None = None

    async def attempt(self) -> None:
        """A round. One that fails is logged, and the next writes the whole table."""
        self._changed.clear()
        try:
            await self.round(time.monotonic())
            self._problem = None
        except GalacticError as error:
            if str(error) != self._problem:
                log.warning("rules of gateways not written, trying again", error=str(error))
            self._problem = str(error)
            self._kept.forget()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.attempt()
            self._report()
            pause = PENDING_SECONDS if self._pending() else ROUND_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def on_external_change(self) -> None:
        """A transaction of any program may have changed the table: a round follows at once."""
        self._kept.named()
        self._changed.set()

    async def round(self, now: float) -> None:
        """Writes the difference, if there is one. Raises GalacticError."""
        store = self._store
        current = self._current()
        self._ways = {
            vpc: (way, until) for vpc, (way, until) in self._ways.items() if vpc in current or until > now
        } | {vpc: (way, now + LINGER_SECONDS) for vpc, way in current.items()}
        wanted = table((way for way, _ in self._ways.values()), self.connections)
        if self._kept.written is None and not wanted.chains and await self._lacking():
            self._kept.assume(wanted)  # nothing to remove where nothing can be
        await self._kept.verify()
        await self._kept.write(wanted)
        self._written = current
        store.set_filtered(current.keys())
        await self._release_stale()

    def share(self) -> None:
        """A VPC's connections are a part of what the host's connection tracking takes."""
        self.connections = (capacity() or CONNECTIONS * SHARE) // SHARE

    async def refused(self) -> Mapping[str, int]:
        """New connections' packets that were dropped, as their VPC had its share, by device. Raises Unreachable."""
        if self._kept.written is None or REFUSED not in self._kept.written.sets:
            return {}
        return await self._nft.counted(TABLE, REFUSED)

    async def _release_stale(self) -> None:
        """UDP clients whose pod serves no more get another one, or none. TCP connections stay with their pods. Flows
        of ports that were withdrawn while this program was away end with its first round.
        """
        ways = [way for way, _ in self._ways.values()]
        now_held, serving = held(ways), served(ways)
        if (now_held, serving) == (self._held, self._serving):
            return
        try:
            await asyncio.to_thread(self._release, self._held | now_held, serving)
        except GalacticError as error:
            log.warning("UDP flows stay with their former pods", error=str(error))
        self._held, self._serving = now_held, serving

    def _current(self) -> dict[int, WayOut]:
        gateways, prefix = self._store.gateways, self._store.node.prefix
        return {
            vpc: WayOut(gateway, here)
            for vpc, gateway in sorted(gateways.all.items())
            if (here := gateways.exit_here(vpc, prefix))
        }

    def _pending(self) -> bool:
        return bool(self._store.gateways.filtered - (self._led_out() or frozenset()))

    def _report(self) -> None:
        """The SIDs of the ways out that are in the kernel, and the published addresses, for the NodeSegment.

        Rules that are being replaced lead until the new ones are there: one transaction of nftables replaces them.
        """
        if (led_out := self._led_out()) is None:
            return  # as an earlier life reported it
        here = self._current().keys() & led_out
        ways = [way for vpc, way in self._written.items() if vpc in here]
        published = {str(one.address) for way in ways for one in way.published}
        self._store.set_leading(sorted(str(way.exit.segment) for way in ways), sorted(published))

    def condition(self) -> ConditionState:
        if self._problem and self._current():
            message = (
                f"{self._problem}: no VPC is led out by this node; install nftables, or select other nodes"
            )
            return ConditionState("Gateways", False, "FilterFailed", message)
        count = len(self._store.gateways.leading or ())
        fine = f"{count} VPCs are led out here" if count else "no VPC is led out here"
        return ConditionState("Gateways", True, "Applied", fine)

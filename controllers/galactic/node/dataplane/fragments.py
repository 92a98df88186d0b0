"""Keeps packets of VPCs out of the host's reassembly of fragments.

A host that tracks connections reassembles every fragment ahead of iptables' first rule (priority -400), and all in one
memory: a pod that sends first fragments alone takes it from all others. What is excluded from tracking before that is
passed on as fragments, which pods reassemble in memory of their own.

What a VPCGateway translates is reassembled in the gateway's own VRF, as that needs the ports. Where it leaves that VRF
again it is fragmented to the device's MTU, ahead of any encapsulation.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog

from galactic import names
from galactic.errors import GalacticError
from galactic.linux.kept_table import KeptTable, Kernel
from galactic.linux.nftables import Chain, Set, Table
from galactic.node.state.gateways import Gateway
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
TABLE: Final = "inet galactic-fragments"
ROUND_SECONDS: Final = 8.0
"""Between two checks that the kernel's table is as it was written."""
_BASE: Final = "type filter hook prerouting priority -450"


def table(reassembled: Iterable[str]) -> Table:
    """The table. ``reassembled``: the devices whose packets are tracked."""
    rules = "iifname @reassembled accept", 'iifname "G*" notrack'
    devices = Set("set", "type ifname;", {f'"{device}"': "" for device in sorted(reassembled)})
    return Table(TABLE, {"before": Chain(rules, _BASE)}, {"reassembled": devices})


def translated(gateways: Iterable[Gateway]) -> set[str]:
    """The devices where packets are translated: those of each gateway's own VRF."""
    return {
        end(gateway.vpc, gateway.function)
        for gateway in gateways
        if gateway.snat
        for end in (names.exit_end, names.gateway_vrf, names.inner_end)
    }


class Fragments:
    """``lacking``: what this host lacks for tables of nftables, in words. ``repaired`` counts other programs' changes
    that were put back.
    """

    def __init__(
        self,
        nft: Kernel,
        store: Store,
        lacking: Callable[[], Awaitable[str]],
        repaired: Callable[[], None] = lambda: None,
    ) -> None:
        self._kept, self._store, self._lacking = KeptTable(nft, TABLE, repaired), store, lacking
        self._changed = store.watch()
        self._external = False
        self._problem: str | None = None

    async def run(self) -> None:
        """For ever. A change of the store, such as a new pod, costs no look at the kernel's table."""
        check = 0.0
        while True:
            self._changed.clear()
            if self._external or time.monotonic() >= check:
                self._external, check = False, time.monotonic() + ROUND_SECONDS
                await self.attempt()
            elif self._problem is None:
                await self.attempt(verify=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, check - time.monotonic())):
                    await self._changed.wait()

    async def attempt(self, *, verify: bool = True) -> None:
        """A round. One that fails is logged, and the next writes the whole table."""
        try:
            if self._kept.written is None and (lack := await self._lacking()):
                self._report(lack)
                return
            if verify:
                await self._kept.verify()
            await self._kept.write(table(self._translated()))
            self._report(None)
        except GalacticError as error:
            self._report(str(error))
            self._kept.forget()

    def on_external_change(self) -> None:
        """A transaction of any program may have changed the table: it is verified at once."""
        self._kept.named()
        self._external = True
        self._changed.set()

    def _report(self, problem: str | None) -> None:
        if problem and problem != self._problem:
            log.warning("fragments of VPCs are reassembled with the host's own", problem=problem)
        self._problem = problem

    def _translated(self) -> set[str]:
        gateways = self._store.gateways
        return translated(gateways.all[vpc] for vpc in gateways.led_out(self._store.node.prefix))

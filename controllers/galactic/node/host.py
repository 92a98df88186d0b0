"""What the node's plan depends on besides attachments: what the kernel can do, the underlay, and the packet filter."""

import asyncio
from ipaddress import IPv6Network
from typing import Final, Protocol

import structlog

from galactic.errors import GalacticError
from galactic.linux.preflight import Preflight
from galactic.linux.underlay import Underlay
from galactic.node.plan import Host
from galactic.node.segment import Finding
from galactic.node.store import Store

log = structlog.get_logger(__name__)
INTERVAL_SECONDS: Final = 120.0
"""Between looks at underlay and packet filter: each costs a process of its own."""
BACKOFF_SECONDS: Final = (0.5, 10.0)


class Machine(Protocol):
    """What is asked of the machine. ``machine.LinuxMachine`` is the real one."""

    async def preflight(self) -> Preflight: ...

    async def underlay(self) -> Underlay:
        """Raises NotYet while there is none."""

    async def filter(self, prefix: IPv6Network) -> None:
        """The packet filter is as the plan wants it for a node with that prefix. Raises Unreachable."""


class Preparation:
    """Prepares the host and keeps it so. ``host`` is what the plan depends on, once everything of it is known."""

    def __init__(self, machine: Machine, store: Store, space: IPv6Network) -> None:
        self._machine, self._store, self._space = machine, store, space
        self._preflight: Preflight | None = None
        self._underlay: Underlay | None = None
        self._changed = store.watch()
        self._unfiltered: str | None = "the packet filter is not in place yet"
        self._without_underlay: str | None = "the underlay is not known yet"

    async def run(self) -> None:
        """For ever."""
        self._preflight = await self._machine.preflight()
        for finding in self._preflight.findings:
            level = log.info if finding.ok else log.error if finding.required else log.warning
            level("preflight", finding=finding.name, ok=finding.ok, message=finding.message)
        pause = BACKOFF_SECONDS[0]
        while True:
            await self._look()
            settled = self._underlay is not None and self._unfiltered is None
            pause = BACKOFF_SECONDS[0] if settled else min(pause * 2, BACKOFF_SECONDS[1])
            try:
                async with asyncio.timeout(INTERVAL_SECONDS if settled else pause):
                    await self._prefix_changed()
            except TimeoutError:
                continue

    def host(self) -> Host | None:
        """None while underlay or prefix are not known."""
        prefix, underlay, preflight = self._store.prefix, self._underlay, self._preflight
        if prefix is None or underlay is None or preflight is None or not prefix.subnet_of(self._space):
            return None
        return Host(prefix, self._space, underlay.device, preflight.encap, underlay.mtu)

    @property
    def problem(self) -> str | None:
        """What is missing before a pod can be attached, apart from the prefix."""
        if self._preflight is None:
            return "the kernel was not tried yet"
        if not self._preflight.ok:
            return "; ".join(
                each.message for each in self._preflight.findings if each.required and not each.ok
            )
        prefix = self._store.prefix
        if prefix is not None and not prefix.subnet_of(self._space):
            return f"the node's prefix {prefix} is outside the SRv6 space {self._space}"
        return self._without_underlay or (
            self._unfiltered if prefix and prefix != self._store.filtered else None
        )

    @property
    def encap(self) -> str:
        return self._preflight.encap if self._preflight else ""

    @property
    def kernel(self) -> str:
        return self._preflight.kernel if self._preflight else ""

    def findings(self) -> tuple[Finding, ...]:
        """As conditions."""
        tried = self._preflight.findings if self._preflight else ()
        return tuple(
            Finding(each.name, each.ok, "Supported" if each.ok else "Missing", each.message) for each in tried
        )

    async def _look(self) -> None:
        try:
            underlay = await self._machine.underlay()
        except GalacticError as error:
            # What is in place stays: a default route that is away for a moment changes nothing.
            self._without_underlay = None if self._underlay else str(error)
            log.warning("no underlay", error=str(error))
        else:
            self._without_underlay = None
            if underlay != self._underlay:
                log.info("underlay", device=underlay.device, mtu=underlay.mtu)
                self._underlay = underlay
                self._store.replan()
        if self._store.prefix is None:
            return
        try:
            prefix = self._store.prefix
            await self._machine.filter(prefix)
            self._store.set_filtered(prefix)
        except GalacticError as error:
            self._unfiltered = str(error)
            log.warning("packet filter not in place", error=str(error))
        else:
            self._unfiltered = None

    async def _prefix_changed(self) -> None:
        before = self._store.prefix
        while self._store.prefix == before:
            await self._changed.wait()
            self._changed.clear()

"""What the node's plan depends on besides attachments: what the kernel can do, the underlay, and the packet filter."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final, Protocol

import structlog

from galactic.errors import GalacticError
from galactic.linux.firewall import Installed
from galactic.linux.preflight import Preflight
from galactic.linux.underlay import Underlay
from galactic.node.dataplane.plan import OVERHEAD, Host
from galactic.node.state.attachment import SMALLEST_MTU
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
LOOK_SECONDS: Final = (2.0, 5.0)
"""Between looks at whether the packet filter is as it was left: the more they cost, the rarer, but drift is put back
within 10 s.
"""
LOOK_SHARE: Final = 300
"""At most a 300th of the time goes into looking, or what looks every 5 s need."""
FULL_SECONDS: Final = 300.0
"""Between full checks of the packet filter, which cost a process: they notice that others use another backend now."""
UNDERLAY_SECONDS: Final = 20.0
MISSING_SECONDS: Final = 60.0
"""After which the kernel is tried again if it lacked something, though no module has come."""
BACKOFF_SECONDS: Final = (0.5, 5.0)


class HostAdapter(Protocol):
    """What is asked of the machine. ``machine.LinuxMachine`` is the real one."""

    async def preflight(self) -> Preflight: ...

    def modules(self) -> str:
        """Changes when a kernel module comes or goes. Costs next to nothing."""

    async def underlay(self) -> Underlay:
        """Raises NotYet while there is none."""

    async def filter(self, prefix: IPv6Network, known: Installed | None = None) -> Installed:
        """The packet filter is as the plan wants it for a node with that prefix. Raises Unreachable.

        ``known``: mends that, sooner than with looking for the right backend first.
        """

    def intact(self, installed: Installed) -> bool:
        """Whether the packet filter is as it was then. Costs little, however many rules others have."""


@dataclass(slots=True)
class _Due:
    """When, by the monotonic clock, something is to be done next."""

    preflight: float = 0.0
    underlay: float = 0.0
    filter: float = 0.0


class HostSetup:
    """Prepares the host and keeps it so. ``host`` is what the plan depends on, once everything of it is known.

    ``drift`` is called with the number of firewall chains that somebody else had changed and that were put back.
    """

    def __init__(
        self,
        machine: HostAdapter,
        store: Store,
        space: IPv6Network,
        drift: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._machine, self._store, self._space, self._drift = machine, store, space, drift
        self._preflight: Preflight | None = None
        self._modules = ""
        self._underlay: Underlay | None = None
        self._installed: Installed | None = None
        self._installed_for: IPv6Network | None = None
        self._changed = store.watch()
        self._due = _Due()
        self._backoff = BACKOFF_SECONDS[0]
        self._unfiltered: str | None = "the packet filter is not in place yet"
        self._without_underlay: str | None = "the underlay is not known yet"

    async def run(self) -> None:
        """For ever."""
        while True:
            pause = await self.look()
            try:
                async with asyncio.timeout(pause):
                    await self._prefix_changed()
            except TimeoutError:
                continue

    async def look(self) -> float:
        """Does what is due and returns after how many seconds to look again."""
        await self._try_kernel()
        await self._find_underlay()
        cost = await self._keep_filter()
        if self._underlay is None or self._unfiltered is not None:
            self._backoff = min(self._backoff * 2, BACKOFF_SECONDS[1])
            return self._backoff
        return min(max(self._backoff, cost * LOOK_SHARE, LOOK_SECONDS[0]), LOOK_SECONDS[1])

    def host(self) -> Host | None:
        """None while underlay or prefix are not known."""
        prefix, underlay, preflight = self._store.node.prefix, self._underlay, self._preflight
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
        prefix = self._store.node.prefix
        if prefix is not None and not prefix.subnet_of(self._space):
            return f"the node's prefix {prefix} is outside the SRv6 space {self._space}"
        return self._without_underlay or (
            self._unfiltered if prefix and prefix != self._store.node.filtered else None
        )

    @property
    def encap(self) -> str:
        return self._preflight.encap if self._preflight else ""

    @property
    def kernel(self) -> str:
        return self._preflight.kernel if self._preflight else ""

    @property
    def backend(self) -> str:
        """Of the packet filter: ``legacy`` or ``nft``; "" while there is none."""
        return self._installed.backend if self._installed else ""

    def findings(self) -> tuple[ConditionState, ...]:
        """As conditions."""
        tried = self._preflight.findings if self._preflight else ()
        kernel = (
            ConditionState(each.name, each.ok, "Supported" if each.ok else "Missing", each.message)
            for each in tried
        )
        return (*kernel, self._underlay_finding(), *self._filter_findings())

    def _underlay_finding(self) -> ConditionState:
        underlay = self._underlay
        if underlay is None:
            return ConditionState("Underlay", False, "NoUnderlay", self._without_underlay or "")
        least = SMALLEST_MTU + OVERHEAD[self._preflight.encap if self._preflight else "encap"]
        if underlay.mtu < least:
            told = f"{underlay.device} has MTU {underlay.mtu}: raise it to {least} at least, or full packets are lost"
            return ConditionState("Underlay", False, "MTUTooSmall", told)
        if underlay.inside:
            told = (
                f"{underlay.device} has {underlay.inside[0]}, inside the SRv6 space {self._space}: "
                "pods cannot reach that address; choose a space of its own"
            )
            return ConditionState("Underlay", False, "AddressInSRv6Space", told)
        return ConditionState("Underlay", True, "Found", f"{underlay.device}, MTU {underlay.mtu}")

    def _filter_findings(self) -> tuple[ConditionState, ...]:
        installed = self._installed
        if installed is None or self._unfiltered:
            told = self._unfiltered or "the packet filter is not in place yet"
            return (ConditionState("PacketFilter", False, "NotInPlace", told),)
        reason = {"legacy": "LegacyTables", "nft": "NftTables"}[installed.backend]
        told = installed.lacking or "sources of pods' packets are checked"
        return (
            ConditionState("PacketFilter", True, reason, installed.reason),
            ConditionState(
                "SourceValidation", not installed.lacking, "Missing" if installed.lacking else "Checked", told
            ),
        )

    async def _try_kernel(self) -> None:
        """Once; while it lacks something, again when a module has come, and now and then."""
        known, now = self._preflight, time.monotonic()
        if known is not None and (known.complete or (now < self._due.preflight and not self._new_modules())):
            return
        self._preflight = await self._machine.preflight()
        self._modules = self._machine.modules()
        self._due.preflight = now + MISSING_SECONDS
        before = known.findings if known else ()
        for finding in self._preflight.findings:
            if finding not in before:
                level = log.info if finding.ok else log.error if finding.required else log.warning
                level("preflight", finding=finding.name, ok=finding.ok, message=finding.message)
        if known and known.encap != self._preflight.encap:
            self._store.dirty.mark_host()

    def _new_modules(self) -> bool:
        return self._machine.modules() != self._modules

    async def _find_underlay(self) -> None:
        now = time.monotonic()
        if self._underlay is not None and now < self._due.underlay:
            return
        self._due.underlay = now + UNDERLAY_SECONDS
        try:
            underlay = await self._machine.underlay()
        except GalacticError as error:
            # What is in place stays: a default route that is away for a moment changes nothing.
            if str(error) != self._without_underlay:
                log.warning("no underlay", error=str(error))
            self._without_underlay = None if self._underlay else str(error)
            return
        self._without_underlay = None
        if underlay != self._underlay:
            log.info("underlay", device=underlay.device, mtu=underlay.mtu)
            self._underlay = underlay
            self._store.dirty.mark_host()

    async def _keep_filter(self) -> float:
        """The seconds of processor time that it took to look, where nothing had to be done."""
        prefix = self._store.node.prefix
        if prefix is None:
            return 0.0
        kept = self._installed if self._unfiltered is None and prefix == self._installed_for else None
        started, due = time.process_time(), time.monotonic() >= self._due.filter
        if kept is not None and not due and self._machine.intact(kept):
            self._backoff = BACKOFF_SECONDS[0]
            return time.process_time() - started
        try:
            self._installed = await self._machine.filter(prefix, None if due else kept)
        except GalacticError as error:
            if str(error) != self._unfiltered:
                log.warning("packet filter not in place", error=str(error))
            self._unfiltered = str(error)
            return 0.0
        self._unfiltered, self._installed_for = None, prefix
        if due or kept is None:
            self._due.filter = time.monotonic() + (
                MISSING_SECONDS if self._installed.lacking else FULL_SECONDS
            )
        self._store.node.set_filtered(prefix)
        if self._installed.changed:
            self._tell(self._installed, kept)
        return 0.0

    def _tell(self, installed: Installed, kept: Installed | None) -> None:
        if kept is None or kept.backend != installed.backend:
            log.info(
                "packet filter", backend=installed.backend, why=installed.reason, changed=installed.changed
            )
            return
        self._drift(len(installed.changed))
        # whoever insists on changing it is not worth all of the time
        self._backoff = min(self._backoff * 2, BACKOFF_SECONDS[1])
        log.warning("packet filter was changed by somebody else and put back", changed=installed.changed)

    async def _prefix_changed(self) -> None:
        before = self._store.node.prefix
        while self._store.node.prefix == before:
            await self._changed.wait()
            self._changed.clear()

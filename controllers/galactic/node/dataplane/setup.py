"""The host as the plan needs it: the kernel's features, the underlay, and the packet filter."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError
from galactic.linux.firewall import Installed
from galactic.linux.foreign_chains import Dropping
from galactic.linux.preflight import Preflight
from galactic.linux.underlay import Underlay
from galactic.node.dataplane.plan import OVERHEAD, Host
from galactic.node.state.attachment import SMALLEST_MTU
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
CHECK_SECONDS: Final = (2.0, 5.0)
"""Between checks of the packet filter: the more they cost, the rarer, but drift is put back within 10 s."""
CHECK_SHARE: Final = 300
"""Checks take a 300th of the time at most, or what checks every 5 s need."""
FULL_CHECK_SECONDS: Final = 300.0
"""Between full checks, which cost a process: they notice that other programs use another backend now."""
UNDERLAY_SECONDS: Final = 5.0
"""Between checks of the underlay: packets that come by a new interface are dropped until it is found."""
LOST_SECONDS: Final = 30.0
"""Until an underlay that is away is reported: a default route may be away for a moment."""
FOREIGN_SECONDS: Final = (5.0, 60.0)
"""Between checks for chains of other programs that drop packets of VPCs: the more they cost, the rarer. A virtual
machine may count as their cost what its host took away.
"""
CONTESTED: Final = 5
"""Repairs of the packet filter within CONTESTED_SECONDS, from which on another program contests it."""
CONTESTED_SECONDS: Final = 60.0
"""Between repairs of a contested packet filter: they cost a process each, and undo each other."""
MISSING_SECONDS: Final = 60.0
"""Until source validation is tried again where the kernel lacks it."""
PREFLIGHT_SECONDS: Final = (5.0, 60.0)
"""Until the next preflight after one that found a feature missing, if no kernel module comes before: at first, and at
most.
"""
BACKOFF_SECONDS: Final = (0.5, 5.0)


class HostAdapter(Protocol):
    """The host's operations. ``adapter.LinuxHost`` has the real ones."""

    async def preflight(self) -> Preflight: ...

    def modules(self) -> str:
        """A text that changes when a kernel module comes or goes. Cheap."""

    async def underlay(self) -> Underlay:
        """Raises NotYet while there is none."""

    async def filter(
        self, prefix: IPv6Network, uplinks: Sequence[str], known: Installed | None = None
    ) -> Installed:
        """Makes the packet filter as the plan has it for a node with that prefix. Raises Unreachable.

        ``uplinks``: the interfaces by which SRv6 packets of the underlay come in.

        ``known``: the backend to use; without it the right one is found first, which takes longer.
        """

    def intact(self, installed: Installed) -> bool:
        """Whether the packet filter is unchanged since. Cheap, however many rules other programs have."""

    def dropping(self, prefix: IPv6Network, uplinks: Sequence[str]) -> Sequence[Dropping]:
        """The chains of other programs that drop packets of VPCs. Cheap: it reads policies, and the rules of those
        chains alone that packets of VPCs reach.
        """


@dataclass(slots=True)
class _Next:
    """When, by the monotonic clock, each of them is checked next."""

    preflight: float = 0.0
    underlay: float = 0.0
    filter: float = 0.0
    foreign: float = 0.0
    contested: float = 0.0


class HostSetup:
    """Prepares the host and keeps it so. ``host``: the facts that the plan depends on, once all of them are known.

    ``drift`` is called with the number of chains of the packet filter that another program had changed.
    """

    def __init__(
        self,
        adapter: HostAdapter,
        store: Store,
        block: IPv6Network,
        drift: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._adapter, self._store, self._block, self._drift = adapter, store, block, drift
        self._preflight: Preflight | None = None
        self._modules = ""
        self._underlay: Underlay | None = None
        self._installed: Installed | None = None
        self._installed_for: tuple[IPv6Network, tuple[str, ...]] | None = None
        self._dropping: Sequence[Dropping] = ()
        self._repairs: deque[float] = deque(maxlen=CONTESTED)
        self._contested = ""
        self._changed = store.watch()
        self._external = False
        self._next = _Next()
        self._backoff, self._pause = Backoff(*BACKOFF_SECONDS, spread=0.0), 0.0
        self._missing = Backoff(*PREFLIGHT_SECONDS, spread=0.0)
        self._filter_problem: str | None = "the packet filter is not in place yet"
        self._underlay_problem: str | None = "the underlay is not known yet"
        self._lost = (0.0, "")  # since when the underlay that was there is away, and why

    async def run(self) -> None:
        """For ever."""
        while True:
            pause = await self.check()
            try:
                async with asyncio.timeout(pause):
                    await self._changed_meanwhile()
            except TimeoutError:
                continue

    async def check(self) -> float:
        """Checks what is due and mends it. The seconds until the next check."""
        await self._check_kernel()
        await self._check_underlay()
        cost = await self._check_filter()
        self._check_foreign()
        if self._underlay is None or self._filter_problem is not None:
            return self._backoff.pause()
        return min(max(self._pause, cost * CHECK_SHARE, CHECK_SECONDS[0]), CHECK_SECONDS[1])

    def on_external_change(self) -> None:
        """A transaction of any program may have changed the packet filter's chains: they are checked at once."""
        if self.backend == "nft":
            self._external = True
            self._changed.set()

    def uplinks(self) -> tuple[str, ...]:
        """The interfaces by which SRv6 packets of the underlay come in; none until they are known."""
        return tuple(self._underlay.uplinks) if self._underlay else ()

    def host(self) -> Host | None:
        """None while underlay or prefix are not known."""
        prefix, underlay, preflight = self._store.node.prefix, self._underlay, self._preflight
        if prefix is None or underlay is None or preflight is None or not prefix.subnet_of(self._block):
            return None
        facts = prefix, self._block, underlay.device, preflight.encap, underlay.mtu
        return Host(*facts, underlay.advertised, preflight.multipath)

    @property
    def problem(self) -> str | None:
        """Why no pod can be attached, apart from the prefix; None when one can."""
        if self._preflight is None:
            return "the kernel was not checked yet"
        if not self._preflight.ok:
            return "; ".join(
                finding.message for finding in self._preflight.findings if finding.required and not finding.ok
            )
        prefix = self._store.node.prefix
        if prefix is not None and not prefix.subnet_of(self._block):
            return f"the node's prefix {prefix} is outside the SRv6 block {self._block}"
        return self._underlay_problem or (
            self._filter_problem if prefix and prefix != self._store.node.filtered else None
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

    def conditions(self) -> tuple[ConditionState, ...]:
        """One for each feature of the kernel, the underlay, and the packet filter."""
        findings = self._preflight.findings if self._preflight else ()
        kernel = (
            ConditionState(
                finding.name, finding.ok, "Supported" if finding.ok else "Missing", finding.message
            )
            for finding in findings
        )
        return (*kernel, self._underlay_condition(), *self._filter_conditions())

    def _underlay_condition(self) -> ConditionState:
        underlay = self._underlay
        if underlay is None:
            return ConditionState("Underlay", False, "NoUnderlay", self._underlay_problem or "")
        since, lost = self._lost
        if lost and time.monotonic() >= since + LOST_SECONDS:
            remedy = f"restore the routes and addresses of {underlay.device}"
            message = f"{lost}, which there was: no packet reaches other nodes; {remedy}"
            return ConditionState("Underlay", False, "NoUnderlay", message)
        least = SMALLEST_MTU + OVERHEAD[self._preflight.encap if self._preflight else "encap"]
        if underlay.mtu < least:
            message = f"{underlay.device} has MTU {underlay.mtu}: raise it to {least} or more, or full packets are lost"
            return ConditionState("Underlay", False, "MTUTooSmall", message)
        if underlay.inside:
            message = (
                f"{underlay.device} has {underlay.inside[0]}, inside the SRv6 block {self._block}: "
                "pods cannot reach that address; choose a block of its own"
            )
            return ConditionState("Underlay", False, "AddressInSRv6Space", message)
        also = f"; SRv6 packets also come by {', '.join(underlay.others)}" if underlay.others else ""
        if underlay.advertised:
            also += f"; router advertisements are accepted on {', '.join(underlay.advertised)}"
        return ConditionState("Underlay", True, "Found", f"{underlay.device}, MTU {underlay.mtu}{also}")

    def _filter_conditions(self) -> tuple[ConditionState, ...]:
        installed = self._installed
        if installed is None or self._filter_problem:
            problem = self._filter_problem or "the packet filter is not in place yet"
            return (ConditionState("PacketFilter", False, "NotInPlace", problem),)
        backend = {"legacy": "LegacyTables", "nft": "NftTables"}[installed.backend]
        validation = (
            ConditionState("SourceValidation", False, "Missing", installed.lacking)
            if installed.lacking
            else ConditionState("SourceValidation", True, "Checked", "sources of pods' packets are checked")
        )
        untracked = (
            ConditionState(
                "Untracked", False, "Missing", f"NAT may apply to packets of VPCs: {installed.tracked}"
            )
            if installed.tracked
            else ConditionState("Untracked", True, "NotTracked", "packets of VPCs are in no connection table")
        )
        if self._contested:
            message = (
                f"another program changes {self._contested} again and again: give up the first place there"
            )
            return ConditionState("PacketFilter", False, "Contested", message), validation, untracked
        if self._dropping:
            chains = "; ".join(f"{chain}: {chain.remedy}" for chain in self._dropping)
            return ConditionState("PacketFilter", False, "ForeignDrop", chains), validation, untracked
        return ConditionState("PacketFilter", True, backend, installed.reason), validation, untracked

    async def _check_kernel(self) -> None:
        """Once; while it lacks a feature, again after a module has come, and after PREFLIGHT_SECONDS."""
        known, now = self._preflight, time.monotonic()
        if known is not None and (known.complete or (now < self._next.preflight and not self._new_modules())):
            return
        self._preflight = await self._adapter.preflight()
        self._modules = self._adapter.modules()
        self._next.preflight = now + self._missing.pause()
        before = known.findings if known else ()
        for finding in self._preflight.findings:
            if finding not in before:
                level = log.info if finding.ok else log.error if finding.required else log.warning
                level("preflight", finding=finding.name, ok=finding.ok, message=finding.message)
        if known and known.encap != self._preflight.encap:
            self._store.dirty.mark_host()

    def _new_modules(self) -> bool:
        return self._adapter.modules() != self._modules

    async def _check_underlay(self) -> None:
        now = time.monotonic()
        if self._underlay is not None and now < self._next.underlay:
            return
        self._next.underlay = now + UNDERLAY_SECONDS
        try:
            underlay = await self._adapter.underlay()
        except GalacticError as error:
            # The plan stays as it is: a default route that is away for a moment changes nothing.
            if str(error) != self._underlay_problem:
                log.warning("no underlay found", error=str(error))
            self._underlay_problem = None if self._underlay else str(error)
            self._lost = (self._lost[0] if self._lost[1] else now, str(error))
            return
        self._underlay_problem, self._lost = None, (0.0, "")
        if underlay != self._underlay:
            log.info("underlay found", device=underlay.device, mtu=underlay.mtu, others=underlay.others)
            self._underlay = underlay
            self._store.dirty.mark_host()

    async def _check_filter(self) -> float:
        """The seconds of processor time that the check took; 0 where the filter was written.

        Without an underlay there is no route to write either, and a filter that is there stays.
        """
        prefix, underlay = self._store.node.prefix, self._underlay
        if prefix is None or underlay is None:
            return 0.0
        wanted = prefix, underlay.uplinks
        known = self._installed if self._filter_problem is None and wanted == self._installed_for else None
        started, full = time.process_time(), time.monotonic() >= self._next.filter
        if self._contested and time.monotonic() < self._next.contested:
            return 0.0
        if known is not None and not full and self._adapter.intact(known):
            self._backoff.succeeded()
            self._pause, self._contested = 0.0, ""
            return time.process_time() - started
        try:
            self._installed = await self._adapter.filter(*wanted, None if full else known)
        except GalacticError as error:
            if str(error) != self._filter_problem:
                log.warning("packet filter not in place", error=str(error))
            self._filter_problem = str(error)
            return 0.0
        self._filter_problem, self._installed_for = None, wanted
        if full or known is None:
            self._next.filter = time.monotonic() + (
                MISSING_SECONDS if self._installed.lacking or self._installed.tracked else FULL_CHECK_SECONDS
            )
        self._store.node.set_filtered(prefix)
        if self._installed.changed:
            self._report(self._installed, known)
        return 0.0

    def _check_foreign(self) -> None:
        """Chains of other programs that drop packets of VPCs: reported, not changed."""
        prefix, underlay, now = self._store.node.prefix, self._underlay, time.monotonic()
        if prefix is None or underlay is None or self._filter_problem or now < self._next.foreign:
            return
        started = time.process_time()
        before, self._dropping = self._dropping, self._adapter.dropping(prefix, underlay.uplinks)
        cost = time.process_time() - started
        self._next.foreign = now + min(max(FOREIGN_SECONDS[0], cost * CHECK_SHARE), FOREIGN_SECONDS[1])
        for chain in self._dropping:
            if chain not in before:
                log.warning(
                    "another program's chain drops packets of VPCs", chain=str(chain), remedy=chain.remedy
                )

    def _report(self, installed: Installed, known: Installed | None) -> None:
        if known is None or known.backend != installed.backend:
            log.info(
                "packet filter in place",
                backend=installed.backend,
                why=installed.reason,
                changed=installed.changed,
            )
            return
        self._drift(len(installed.changed))
        self._pause = (
            self._backoff.pause()
        )  # a program that changes it again and again does not take all our time
        log.warning("packet filter changed by another program was put back", changed=installed.changed)
        now = time.monotonic()
        self._repairs.append(now)
        if self._contested or (
            len(self._repairs) == CONTESTED and now - self._repairs[0] < CONTESTED_SECONDS
        ):
            self._contested = ", ".join(installed.changed)
            self._next.contested = now + CONTESTED_SECONDS

    async def _changed_meanwhile(self) -> None:
        before = self._store.node.prefix
        while self._store.node.prefix == before and not self._external:
            await self._changed.wait()
            self._changed.clear()
        self._external = False

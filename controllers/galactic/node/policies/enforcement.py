"""The task that keeps the kernel's rules as the operator published them. An ADD waits until its own are in force.

Rules stay in the kernel while this process or the API server is away: nothing is written before the attachments and
their slices were read once. An attachment whose slices are not known yet keeps the rules that it has.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from galactic import names
from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet, Unreachable
from galactic.kube.conditions import POLICIES
from galactic.linux.kept_table import CountingKernel, KeptTable
from galactic.node.policies.classes import Ip
from galactic.node.policies.rules import CLOSED, Rules
from galactic.node.policies.ruleset import TABLE, table
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.condition import ConditionState

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)
GATHER_SECONDS: Final = 0.005
"""Changes that arrive together are written together."""
VERIFY_SECONDS: Final = 8.0
"""Between two checks that the kernel's table is as it was written."""
TRIAL_SECONDS: Final = 60.0
"""Between two trials of a kernel that could not enforce rules."""
BACKOFF_SECONDS: Final = (0.2, 10.0)
LINGER_SECONDS: Final = 3.0
"""From an attachment's end until its rules go."""
WAIT_SECONDS: Final = 12.0
"""For which an ADD waits for its rules; the plugin gives up after 20 s."""


class Source(Protocol):
    """Rules as the operator published them. ``galactic.node.policies.slices.PolicySlices`` is the real one."""

    @property
    def complete(self) -> bool:
        """Whether attachments, and the slices of their VPCs, were read."""

    @property
    def groups(self) -> Mapping[str, frozenset[Ip]]: ...

    def listed(self, attachment: str) -> tuple[str, ...] | None:
        """The names of the rules in force for an attachment (namespace/name); None where it is not known."""

    def rules(self, slices: tuple[str, ...]) -> tuple[Rules, ...] | None:
        """The rules of those names; None while any, or a group of theirs, is not known."""

    def want(self, vpcs: frozenset[int]) -> None:
        """The VPCs whose slices are needed."""


S = TypeVar("S", bound=Source)


@dataclass(frozen=True, slots=True)
class Selected:
    """An attachment with rules."""

    vpc: int
    name: str  # namespace/name
    slices: tuple[str, ...]


class Enforcement:
    """``attachments``: those of this node; ``wake`` is set when they change.

    ``lacking``: what this host lacks to enforce rules, in words. ``repaired`` counts other programs' changes
    that were put back.
    """

    def __init__(
        self,
        kernel: CountingKernel,
        attachments: Mapping[Key, Attachment],
        lacking: Callable[[], Awaitable[str]],
        wake: asyncio.Event,
        repaired: Callable[[], None] = lambda: None,
    ) -> None:
        self._kernel, self._attachments = kernel, attachments
        self._kept, self._lacking = KeptTable(kernel, TABLE, repaired), lacking
        self.wake = wake
        self._source: Source | None = None
        self._pending: dict[Key, Selected] = {}
        self._unruled: set[Key] = set()  # pending, without rules
        self._leaving: dict[str, float] = {}  # host end without an attachment → when its rules go
        self._in_force: dict[str, tuple[Rules, ...]] = {}  # host end → rules
        self._written: asyncio.Event = asyncio.Event()  # set and replaced with each round
        self._external = False  # a transaction was reported since the last check
        self._problem = ""
        self.unable = ""
        """The lack of this host for rules, in words."""

    def follow(self, source: S) -> S:
        """From now on rules are those of that source."""
        self._source = source
        self.wake.set()
        return source

    def on_external_change(self) -> None:
        """A transaction of any program may have changed the table: it is verified at once."""
        self._kept.named()
        self._external = True
        self.wake.set()

    def condition(self) -> ConditionState:
        """The condition ``Policies``: whether this node can enforce rules inside VPCs."""
        if self.unable:
            text = f"pods that a VPCPolicy selects are refused here: {self.unable}"
            return ConditionState(POLICIES, False, "Unsupported", text)
        if self._problem:
            return ConditionState(
                POLICIES, False, "Failing", f"the rules are not as published: {self._problem}"
            )
        count = len(self._in_force)
        return ConditionState(POLICIES, True, "Enforced", f"rules are in force for {count} attachments here")

    async def drops(self) -> Counter[str]:
        """The packets that rules have dropped since they are in force, in both directions, by host end. Raises
        Unreachable.
        """
        dropped: Counter[str] = Counter()
        if self._kept.written is not None and self._kept.written.chains:
            for direction in ("in", "out"):
                dropped.update(await self._kernel.counted(TABLE, f"dropped-{direction}"))
        return dropped

    @contextmanager
    def admitting(self, attachment: Attachment, slices: tuple[str, ...]) -> "Iterator[None]":
        """Within it the rules of a pod that is about to be attached are wanted: ``enforced`` waits for them."""
        if slices:
            self._pending[attachment.key] = Selected(attachment.vpc, attachment.name, slices)
        else:
            self._unruled.add(attachment.key)
        self.wake.set()
        try:
            yield
        finally:
            self._pending.pop(attachment.key, None)
            self._unruled.discard(attachment.key)
            self.wake.set()

    async def enforced(self, key: Key) -> None:
        """Returns when the rules of a pending attachment are in the kernel, at once where it has none. Raises NotYet,
        and Unreachable where this node cannot enforce rules.
        """
        wanted, device = self._pending.get(key), names.host_end(*key)
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while True:
            written = self._written
            if wanted is None:
                # One that had rules and has none now: those of an earlier pod would be in its way.
                if device not in self._in_force:
                    return
            elif self.unable:
                raise Unreachable(
                    "rules",
                    f"a VPCPolicy selects {wanted.name}, and this node cannot enforce it: {self.unable}",
                )
            elif self._in(device, wanted.slices):
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise NotYet(f"the rules of {names.host_end(*key)} are not in force yet{self._why(wanted)}")
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await written.wait()

    def _in(self, device: str, slices: tuple[str, ...]) -> bool:
        rules = self._source.rules(slices) if self._source else None
        return rules is not None and self._in_force.get(device) == rules

    def _why(self, wanted: Selected | None) -> str:
        if self._problem:
            return f": {self._problem}"
        known = self._source.rules(wanted.slices) if wanted and self._source else ()
        return ": their PolicySlices are not known here" if known is None else ""

    async def run(self) -> None:
        """For ever."""
        backoff, trial, check = Backoff(*BACKOFF_SECONDS), 0.0, time.monotonic() + VERIFY_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, check - time.monotonic())):
                    await self.wake.wait()
                    await asyncio.sleep(GATHER_SECONDS)
            self.wake.clear()
            external, self._external = self._external, False
            due = time.monotonic() >= check
            if due:
                check = time.monotonic() + VERIFY_SECONDS
            if (self.unable or not trial) and time.monotonic() >= trial:
                self.unable, trial = await self._lacking(), time.monotonic() + TRIAL_SECONDS
            try:
                if not self.unable:
                    if due or external:
                        await self._kept.verify(thorough=due)
                    await self._round()
            except GalacticError as error:
                self._kept.forget()
                self._problem = str(error)
                log.warning("rules not written, trying again", error=str(error))
                self._report()
                await asyncio.sleep(backoff.pause())
                self.wake.set()
            else:
                self._problem = ""
                backoff.succeeded()
                self._report()
                if self._leaving:
                    check = min(check, *self._leaving.values())

    def _report(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    def _wanted(self, source: Source) -> dict[str, Selected]:
        """By host end. An attachment that the API server does not name any more keeps the rules that it has."""
        wanted = {}
        for key, attachment in self._attachments.items():
            slices = source.listed(attachment.name)
            if slices != ():
                wanted[names.host_end(*key)] = Selected(attachment.vpc, attachment.name, slices or ("",))
        for key, selected in self._pending.items():
            wanted[names.host_end(*key)] = selected
        return wanted

    async def _round(self) -> None:
        source = self._source
        if source is None:
            return
        wanted = self._wanted(source)
        source.want(frozenset(selected.vpc for selected in wanted.values() if selected.slices != ("",)))
        if not source.complete:
            return
        first = self._kept.written is None and not self._in_force
        in_force: dict[str, tuple[Rules, ...]] = {}
        pending = {names.host_end(*key) for key in self._pending}
        for device, selected in wanted.items():
            rules = source.rules(selected.slices)
            if rules is None:
                before = self._in_force.get(device)
                if before is None and device in pending:
                    continue  # its ADD waits
                rules = (CLOSED,) if before is None and first else before or ()
            if rules:
                in_force[device] = rules
        self._linger(in_force, wanted)
        await self._kept.write(table(in_force, source.groups))
        self._in_force = in_force

    def _linger(self, in_force: dict[str, tuple[Rules, ...]], wanted: Mapping[str, Selected]) -> None:
        """Rules outlast their attachment until its device is certainly gone."""
        free = {names.host_end(*key) for key in (*self._attachments, *self._unruled)}
        before, self._leaving = self._leaving, {}
        for device, rules in self._in_force.items():
            if device in wanted or device in free:
                continue
            end = before.get(device, time.monotonic() + LINGER_SECONDS)
            if time.monotonic() < end:
                self._leaving[device], in_force[device] = end, rules

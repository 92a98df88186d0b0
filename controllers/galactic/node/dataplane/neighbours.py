"""Whether the pods attached here answer ARP and neighbour discovery for their addresses.

A pod whose host end cannot resolve its address gets no packet, whatever the plan and the routes say. The kernel tells
that only of those to whom somebody has sent something, and what it tells may be history. So each address is asked
for once a minute, and soon after its ADD, as a packet to it would do, and looked up afterwards. Two attempts in a row
without an answer are a finding.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from galactic import names
from galactic.errors import GalacticError
from galactic.linux.objects import Neighbour, NeighbourState
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
ROUND_SECONDS: Final = 10.0
ASK_SECONDS: Final = 60.0
"""Between two attempts for an address that answers."""
ANSWER_SECONDS: Final = 9.0
"""From an attempt to its verdict: one that the kernel remembers is asked after five seconds, given up after eight."""
ATTEMPTS: Final = 2
"""In a row, until an address that does not answer is a finding."""
NAMED: Final = 3
_SILENT: Final = frozenset({"FAILED", "INCOMPLETE", "NONE"})
"""Of an address that was asked for: where the table is full, the kernel forgets at once those that did not answer."""
_UNDECIDED: Final = frozenset({"DELAY", "PROBE"})


class Kernel(Protocol):
    """What is asked of the kernel: see ``galactic.linux.objects.Kernel``."""

    async def neighbours(self) -> dict[Neighbour, NeighbourState]: ...

    async def solicit(self, wanted: Iterable[Neighbour]) -> set[Neighbour]: ...


@dataclass(slots=True)
class _Attempt:
    """The last attempt for an address of a pod. ``failures``: how many in a row, with it, had no answer."""

    name: str  # the attachment's
    container: str
    at: float
    failures: int = 0
    decided: bool = False


class Neighbours:
    """Asks for the addresses of all attachments in the store."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel, self._store = kernel, store
        self._attempts: dict[Neighbour, _Attempt] = {}

    async def run(self) -> None:
        """For ever. What the kernel does not answer is tried again in the next round."""
        while True:
            try:
                await self.look(time.monotonic())
            except GalacticError as error:
                log.warning("neighbours not read", error=str(error))
            await asyncio.sleep(ROUND_SECONDS)

    async def look(self, now: float) -> None:
        """One round: decides on attempts that are old enough, and asks for what is due. ``now``: seconds, monotonic."""
        self._forget()
        waiting = [
            each
            for each, attempt in self._attempts.items()
            if not attempt.decided and now - attempt.at >= ANSWER_SECONDS
        ]
        if waiting:
            states = await self._kernel.neighbours()
            for each in waiting:
                self._decide(each, states.get(each, "NONE"))
        due = self._due(now)
        taken = await self._kernel.solicit(due) if due else set()
        for each in due:
            attempt = self._attempts[each]
            if each in taken:
                attempt.at, attempt.decided = now, False
            else:  # its device is gone, or has not come yet: nothing is known
                attempt.failures = 0

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(attachment, address) of those that do not answer."""
        return sorted(
            (attempt.name, str(address))
            for (_, address), attempt in self._attempts.items()
            if attempt.failures >= ATTEMPTS
        )

    def finding(self) -> ConditionState:
        """As a condition."""
        failed = self.failed
        if not failed:
            return ConditionState("Neighbours", True, "Resolved", "the pods here answer for their addresses")
        named = ", ".join(f"{name} {address}" for name, address in failed[:NAMED])
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        message = (
            f"no answer to ARP or neighbour discovery from {named}{more}; no packet reaches them: "
            "`galactic trace` from another pod of the VPC shows what drops it"
        )
        return ConditionState("Neighbours", False, "NeighbourFailed", message)

    def _forget(self) -> None:
        """Attempts of addresses that are not attached any more, or to another pod."""
        present: dict[Neighbour, _Attempt] = {}
        for key, attachment in self._store.attachments.items():
            for address in attachment.addresses:
                neighbour = names.host_end(*key), address.ip
                known = self._attempts.get(neighbour)
                if known is None or known.container != attachment.container:
                    known = _Attempt(attachment.name, attachment.container, -math.inf, decided=True)
                present[neighbour] = known
        self._attempts = present

    def _decide(self, neighbour: Neighbour, state: NeighbourState) -> None:
        if state in _UNDECIDED:
            return
        attempt = self._attempts[neighbour]
        attempt.decided = True
        before, attempt.failures = attempt.failures, attempt.failures + 1 if state in _SILENT else 0
        about = {"attachment": attempt.name, "address": str(neighbour[1])}
        if attempt.failures == ATTEMPTS:
            log.warning("a pod does not answer for its address", **about)
        elif before >= ATTEMPTS and not attempt.failures:
            log.info("a pod answers for its address again", **about)

    def _due(self, now: float) -> list[Neighbour]:
        return [
            each
            for each, attempt in self._attempts.items()
            if attempt.decided and (attempt.failures or now - attempt.at >= ASK_SECONDS)
        ]

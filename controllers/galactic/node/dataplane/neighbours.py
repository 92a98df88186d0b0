"""Whether the pods attached here answer ARP and neighbour discovery for their addresses.

A pod whose host end cannot resolve its address gets no packet, although plan and routes are right. The kernel has a
neighbour entry only for addresses that packets were sent to, and the entry may be old. So each address is solicited
once a minute, and soon after its ADD, as a packet to it would do, and its entry read afterwards. An address has failed
after two attempts in a row without an answer.

Next hops of the underlay are kept as well: packets to other nodes have a way while the kernel's tables are full.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
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
"""From an attempt to its verdict: the kernel probes a known neighbour after 5 s, and gives up after 8 s."""
ATTEMPTS: Final = 2
"""In a row, until an address that does not answer has failed."""
NAMED: Final = 3
_SILENT: Final = frozenset({"FAILED", "INCOMPLETE", "NONE"})
"""States of a solicited address that did not answer; where the table is full, the kernel drops its entry at once."""
_UNDECIDED: Final = frozenset({"DELAY", "PROBE"})


class Kernel(Protocol):
    """The part of ``galactic.linux.objects.Kernel`` that is needed here."""

    async def neighbours(self) -> dict[Neighbour, NeighbourState]: ...

    async def solicit(self, wanted: Iterable[Neighbour]) -> set[Neighbour]: ...

    async def keep_next_hops(self, devices: Iterable[str]) -> int: ...


@dataclass(slots=True)
class _Attempt:
    """The last attempt for an address of a pod. ``failures``: how many in a row, with it, had no answer."""

    name: str  # the attachment's
    container: str
    at: float
    failures: int = 0
    decided: bool = False


class Neighbours:
    """Solicits the addresses of all attachments in the store. ``uplinks``: the underlay's interfaces."""

    def __init__(
        self, kernel: Kernel, store: Store, uplinks: Callable[[], Sequence[str]] = lambda: ()
    ) -> None:
        self._kernel, self._store, self._uplinks = kernel, store, uplinks
        self._attempts: dict[Neighbour, _Attempt] = {}

    async def run(self) -> None:
        """For ever. A round that fails is followed by the next."""
        while True:
            try:
                await self.round(time.monotonic())
            except GalacticError as error:
                log.warning("neighbours not read", error=str(error))
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self, now: float) -> None:
        """Decides on attempts that are old enough, then starts new ones. ``now``: seconds, monotonic."""
        if new := await self._kernel.keep_next_hops(self._uplinks()):
            log.info("next hops of the underlay kept", entries=new)
        self._update_attempts()
        waiting = [
            neighbour
            for neighbour, attempt in self._attempts.items()
            if not attempt.decided and now - attempt.at >= ANSWER_SECONDS
        ]
        if waiting:
            states = await self._kernel.neighbours()
            for neighbour in waiting:
                self._decide(neighbour, states.get(neighbour, "NONE"))
        wanted = self._to_solicit(now)
        solicited = await self._kernel.solicit(wanted) if wanted else set()
        for neighbour in wanted:
            attempt = self._attempts[neighbour]
            if neighbour in solicited:
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

    def condition(self) -> ConditionState:
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

    def _update_attempts(self) -> None:
        """Drops those for addresses that are not attached any more, or to another pod; adds those for new ones."""
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
        before = attempt.failures
        attempt.failures = before + 1 if state in _SILENT else 0
        about = {"attachment": attempt.name, "address": str(neighbour[1])}
        if attempt.failures == ATTEMPTS:
            log.warning("pod does not answer ARP or neighbour discovery", **about)
        elif before >= ATTEMPTS and not attempt.failures:
            log.info("pod answers ARP or neighbour discovery again", **about)

    def _to_solicit(self, now: float) -> list[Neighbour]:
        return [
            neighbour
            for neighbour, attempt in self._attempts.items()
            if attempt.decided and (attempt.failures or now - attempt.at >= ASK_SECONDS)
        ]

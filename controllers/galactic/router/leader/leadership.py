"""Whether this router leads: claimed when it is chosen, ended by a higher term (docs/design/router-leader.md).

A claim is the retained ``router/leader``. It is published first and everything that is retained is read after that, so
that whatever an earlier leader got through before is seen, and whatever it gets through later is heard. Nothing but
the claim is published before. Of two claims the one with the higher term counts, of equal terms that of the higher
name; who hears of one above its own stops.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

import structlog

from galactic.errors import Rejected
from galactic.messages import Leader, decode
from galactic.router.egress.retained import Retained
from galactic.router.egress.revisions import milliseconds, plausible
from galactic.router.leader.election import Election
from galactic.router.metrics import RouterMetrics

log = structlog.get_logger(__name__)
CONTESTED_SECONDS: Final = (0.5, 60.0)
"""Pauses of one that is chosen here and outdone there, as two routers are that are not told of each other."""
LASTING_SECONDS: Final = 60.0
RAISE_SECONDS: Final = 600.0
"""A claim is raised above the database's term that often at the most: two planes that share a database by mistake would
otherwise outdo each other for ever."""


class Leadership:
    """One candidate. ``reign`` is called with what is retained and cancelled when another leads."""

    def __init__(
        self,
        election: Election,
        replica: str,
        metrics: RouterMetrics,
        *,
        publish: Callable[[Leader], Awaitable[None]],
        read: Callable[[], None],
        gate: Callable[[bool], None],
        begins: Callable[[bool], None],
        reign: Callable[[Retained], Coroutine[None, None, None]],
    ) -> None:
        """``publish`` makes a claim, ``read`` asks for ``viewed``, ``gate`` is told whether more may be published.

        ``begins`` is told True at the very moment at which what ``reign`` will be given was read, and False when that
        reign is over, be it before it began.
        """
        self._election, self._replica, self._metrics = election, replica, metrics
        self._publish, self._read, self._gate, self._reign = publish, read, gate, reign
        self._begins = begins
        self._mandate, self._ended, self._claim = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._own: Leader | None = None
        self._highest = 0
        self._view: asyncio.Future[Retained] | None = None
        self._current = False  # whether the broker was read in this session
        self._raised, self._raising = -RAISE_SECONDS, False
        self.reigning = False

    @property
    def term(self) -> int:
        """The term in which this router leads; 0: it does not."""
        return self._own.term if self._own is not None and self.reigning else 0

    async def run(self) -> None:
        """For ever: stands by, claims, reigns."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._election.run(self._chosen), name="election")
            tasks.create_task(self._campaigns(), name="campaigns")

    def viewed(self, retained: Retained) -> None:
        """The broker was read: a session began, or ``read`` was called."""
        self._current = True
        self._take(retained.leader)
        if self._view is not None and not self._view.done():
            self._view.set_result(retained)
            if retained.leader == self._own:
                self._begins(True)  # whoever waits for the view has its turn later than what is heard next
        elif self.reigning and not self._ended.is_set():
            raising, self._raising = self._raising, False
            if raising and retained.leader == self._own:
                log.warning("the database knows a higher term: claims again, above it", term=self._highest)
                self._gate(False)
                self._ended.set()
                return
            if retained.leader != self._own:
                self._claim.set()
            self._gate(True)

    def lost(self) -> None:
        """The session with the broker ended: who leads is not known until it is read again."""
        self._current = False

    def above(self, term: int) -> None:
        """Some router had that term, though the broker may not know any more: the next claim is above it."""
        if plausible(term):
            self._highest = max(self._highest, term)

    def outranked(self, term: int) -> None:
        """The database refuses this leader, because it has seen that term.

        Either another leads, which the broker is about to tell; or the broker has forgotten it, and our clock is behind
        it. So the broker is read again, and if nobody there is above, this router claims anew.
        """
        self.above(term)
        if (
            self.reigning
            and self._own is not None
            and self._own.term <= term
            and time.monotonic() - self._raised >= RAISE_SECONDS
        ):
            self._raised, self._raising = time.monotonic(), True
            self._read()

    def heard(self, payload: bytes) -> None:
        """Somebody published ``router/leader``, maybe this router."""
        leader = None
        if payload:
            try:
                leader = decode(Leader, payload)
            except Rejected as error:
                log.warning("a leader that cannot be read", error=str(error))
        self._take(leader)
        if self.reigning and not self._ended.is_set() and leader != self._own:
            self._claim.set()

    def _take(self, leader: Leader | None) -> None:
        if leader is None or not plausible(leader.term):
            return
        self._highest = max(self._highest, leader.term)
        self._metrics.term(self._highest)
        own = self._own
        if own is not None and leader != own and (leader.term, leader.id) > (own.term, own.id):
            log.warning("deposed", by=leader.id, term=leader.term, own=own.term)
            self._mandate.clear()
            self._gate(False)
            self._ended.set()
            self._election.deposed()

    def _chosen(self, may: bool) -> None:
        if may:
            self._mandate.set()
            return
        self._mandate.clear()
        if self._own is not None and not self._ended.is_set():
            log.warning("another router was chosen", own=self._own.term)
            self._gate(False)
            self._ended.set()

    async def _campaigns(self) -> None:
        shortest, longest = CONTESTED_SECONDS
        pause = 0.0
        while True:
            await self._mandate.wait()
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            began = time.monotonic()
            await self._campaign()
            lasting = time.monotonic() - began > LASTING_SECONDS
            pause = shortest if lasting else min(max(pause * 2, shortest), longest)

    async def _campaign(self) -> None:
        """Claims and reigns until that is over."""
        self._ended.clear()
        self._own = Leader(self._replica, max(self._highest + 1, milliseconds()))
        work = asyncio.create_task(self._lead(self._own), name="reign")
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._gate(False)
            for task in (work, ended):
                task.cancel()
            await asyncio.wait({work, ended})
            self._begins(False)
            log.info("leads no longer", term=self._own.term)
            self._own, self._view, self.reigning = None, None, False
            self._metrics.leading(False)
        if not work.cancelled():
            work.result()

    async def _lead(self, own: Leader) -> None:
        log.info("claims to lead", term=own.term)
        leader = None
        while leader != own:  # a broker that was replaced in between does not know of the claim
            self._view = asyncio.get_running_loop().create_future()
            await self._publish(own)
            self._read()
            retained = await self._view
            leader = retained.leader
        self.reigning = True
        self._metrics.leading(True)
        log.info("leads", term=own.term)
        self._gate(self._current)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reign(retained), name="reign")
            tasks.create_task(self._repeat(own), name="claim")

    async def _repeat(self, own: Leader) -> None:
        """Says it again to a broker that does not know it any more."""
        while True:
            await self._claim.wait()
            self._claim.clear()
            await self._publish(own)

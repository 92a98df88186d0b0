"""Which of several replicas may claim to lead (docs/design/router-leader.md).

An election only says who *may claim*. Who leads is decided in one place, the broker: by the highest term in the
retained ``router/leader``, which every router reads and listens to. So losing sight of the election (the API server
or Postgres is away) ends no reign: nobody else can be chosen without being seen there.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from galactic.errors import GalacticError
from galactic.kube.api import Api
from galactic.kube.lease import DURATION_SECONDS, Lease, Terms, own_namespace

log = structlog.get_logger(__name__)
NAME: Final = "galactic-router"
TERMS: Final = Terms(duration=3.0, deadline=2.0, retry=0.5, longest=DURATION_SECONDS)
"""A dead leader is followed within 3 s + two looks of 0.6 s at the most; where renewals come late, after up to 15 s,
Kubernetes' own duration. Costs the API server two requests a second for each replica and two more for the leader's
renewals, as much as the Leases of twenty kubelets."""
RETRY_SECONDS: Final = 0.5

Chosen = Callable[[bool], None]
"""Told True when this replica may claim to lead, again as often as that is confirmed, and False when another may."""


class Election(Protocol):
    """Chooses among replicas."""

    async def run(self, chosen: Chosen) -> None:
        """For ever; gives up what it holds when cancelled. What it cannot find out it does not tell."""

    def deposed(self) -> None:
        """The broker says that another leads: who is chosen has to be found out anew."""


class Alone:
    """No Kubernetes and no database: whoever starts is chosen, and the one that started last leads."""

    async def run(self, chosen: Chosen) -> None:
        chosen(True)
        await asyncio.Event().wait()

    def deposed(self) -> None:
        """Nobody can be asked: the other one leads. Claiming again would only make the two take turns."""
        log.error(
            "another router leads, and without Kubernetes or a database nobody can choose: this one stands by until it "
            "is started again; run one router, or give all of them the same --database-url"
        )


class LeaseElection:
    """By a Lease in Kubernetes."""

    def __init__(
        self,
        api: Api,
        own: str,
        *,
        namespace: str | None = None,
        terms: Terms = TERMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = Lease(api, namespace or own_namespace(), NAME, own, terms=terms, clock=clock)

    async def run(self, chosen: Chosen) -> None:
        await self._lease.follow(chosen)

    def deposed(self) -> None:
        """The next renewal tells."""


class Lock(Protocol):
    """An exclusive lock that ends with its holder's session, such as Postgres' advisory locks."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """For ever: waits for the lock, calls ``lead``, cancels it when the lock may be lost."""


class LockElection:
    """By an advisory lock in Postgres. One that was lost with its session is waited for again, and that is all."""

    def __init__(self, lock: Lock, *, retry: float = RETRY_SECONDS) -> None:
        self._lock, self._retry = lock, retry
        self._holding: asyncio.Task[None] | None = None

    async def run(self, chosen: Chosen) -> None:
        async def lead() -> None:
            chosen(True)
            await asyncio.Event().wait()

        while True:
            holding = self._holding = asyncio.create_task(self._lock.run(lead), name="lock")
            try:
                await asyncio.wait({holding})
            finally:
                holding.cancel()
                await asyncio.wait({holding})
            if not holding.cancelled() and (error := holding.exception()) is not None:
                if not isinstance(error, GalacticError):
                    raise error
                log.warning("no lock to be had", error=str(error))
            await asyncio.sleep(self._retry * random.uniform(0.5, 1.5))

    def deposed(self) -> None:
        """Whoever has the lock now may be the other one: it is given back, and waited for."""
        if self._holding is not None:
            self._holding.cancel()

"""Which of several replicas may claim to lead (docs/design/router-leader.md).

An election only decides which router *may claim*. Which one leads is decided in one place, the broker: by the highest
term in the retained ``router/leader``, to which every router subscribes. So a leader goes on while the API server or
PostgreSQL is unreachable: the claim of any other router would arrive from the broker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError
from galactic.kube.api import Api
from galactic.kube.cluster import cluster_uid
from galactic.kube.lease import DURATION_SECONDS, Candidate, Lease, Terms, own_namespace

log = structlog.get_logger(__name__)
NAME: Final = "galactic-router"
TERMS: Final = Terms(duration=3.0, deadline=2.0, retry=0.5, longest=DURATION_SECONDS)
"""A dead leader is replaced within 3 s and two polls of 0.6 s at the most; where renewals come late, after up to 15 s,
Kubernetes' own duration. Costs the API server two requests a second for each replica and two more for the leader's
renewals, as much as the Leases of twenty kubelets."""
BROKER_SECONDS: Final = 10.0
"""For which a router that does not lead may be without the broker, and stand for election."""
OFFER_AFTER_SECONDS: Final = 30.0
"""For which a leader may be without the broker. A broken session ends after 23 s, so all replicas have noticed by then
that the broker is gone, if it is.
"""
OFFER_SECONDS: Final = 3.0
"""For which such a leader leaves the Lease to the others: several of their polls."""
OFFER_AGAIN_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.5
LONGEST_RETRIES: Final = 4
"""The longest pause, of these: PostgreSQL is back, and within 3 s some router asks it for the lock."""

Chosen = Callable[[bool], None]
"""Called with True when this replica may claim to lead, whenever that is confirmed; with False when another may."""


class Election(Protocol):
    """Chooses among replicas. ``owner``: the cluster whose replicas these are; empty: none, or not known."""

    owner: str

    async def run(self, chosen: Chosen) -> None:
        """For ever; gives the election up when cancelled. Calls nothing while the result is unknown."""

    def deposed(self) -> None:
        """Another router's claim is higher: the last result counts no more."""


class Alone:
    """No Kubernetes and no database: every router is chosen when it starts, and the last one leads."""

    owner = ""

    async def run(self, chosen: Chosen) -> None:
        chosen(True)
        await asyncio.Event().wait()

    def deposed(self) -> None:
        """The other router leads. A new claim of this one would only make the two take turns."""
        log.error(
            "another router leads, and there is no election without Kubernetes or a database: this router stands by "
            "until it is restarted; run one router, or give all of them the same --database-url"
        )


class LeaseElection:
    """By a Lease in Kubernetes.

    ``connected`` returns whether this replica has the broker, ``leads`` whether it leads. One that does not lead, and
    has been without the broker for BROKER_SECONDS, leaves the Lease to the others: the operator records endpoints while
    no router has it. A leader without the broker records endpoints. It offers the Lease now and then, and goes on where
    no other replica takes it.
    """

    def __init__(
        self,
        api: Api,
        own: str,
        *,
        namespace: str | None = None,
        terms: Terms = TERMS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = ""
        self.connected: Callable[[], bool] = lambda: True
        self.leads: Callable[[], bool] = lambda: False
        self._api, self._clock = api, clock
        self._connected_at = clock()
        candidate = Candidate(namespace or own_namespace(), NAME, own)
        self._lease = Lease(api, candidate, terms=terms, clock=clock)

    async def run(self, chosen: Chosen) -> None:
        self.owner = await cluster_uid(self._api)
        await self._lease.follow(chosen, self._stands)

    def _stands(self) -> bool:
        """Whether it stands for election."""
        now = self._clock()
        if self.connected():
            self._connected_at = now
        without = now - self._connected_at
        if self.leads():
            return (
                without < OFFER_AFTER_SECONDS
                or (without - OFFER_AFTER_SECONDS) % OFFER_AGAIN_SECONDS >= OFFER_SECONDS
            )
        return without < BROKER_SECONDS

    def deposed(self) -> None:
        """The next renewal brings the result."""


class Lock(Protocol):
    """An exclusive lock that ends with its holder's session, such as Postgres' advisory locks."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """For ever: waits for the lock, calls ``lead``, cancels it when the lock may be lost."""


class LockElection:
    """Election by an advisory lock in PostgreSQL. After the loss of its session a router waits for the lock again."""

    owner = ""

    def __init__(self, lock: Lock, *, retry: float = RETRY_SECONDS) -> None:
        self._lock, self._retry = lock, retry
        self._holding: asyncio.Task[None] | None = None

    async def run(self, chosen: Chosen) -> None:
        backoff = Backoff(self._retry, LONGEST_RETRIES * self._retry)

        async def lead() -> None:
            backoff.succeeded()
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
                log.warning("waiting for the database's lock failed, trying again", error=str(error))
            await asyncio.sleep(backoff.pause())

    def deposed(self) -> None:
        """Gives the lock back and waits for it: the other router may be next."""
        if self._holding is not None:
            self._holding.cancel()

"""Leader election: of all replicas of a controller at most one acts, told by a Lease (coordination.k8s.io/v1).

The terms are client-go's: a lease holds for 15 s, is renewed every 2 s, and a leader that has not managed to for 10 s
stops acting by itself. Nobody compares clocks: a candidate waits until it has seen the same renewal for the whole
duration on its own monotonic clock, a leader counts from before it asked. So between the moment when a leader stops and
the moment when anybody else may begin there are at least 5 s, whatever the network does (``Fenced`` ends requests that
are under way then). A request for the lease is given up after half of the 10 s, as in Kubernetes' own components: one
connection that died does not cost the lease.
"""

import asyncio
import contextlib
import math
import os
import random
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Api, Conflict, NotFound
from galactic.kube.resources import LEASES

log = structlog.get_logger(__name__)
T = TypeVar("T")
DURATION_SECONDS: Final = 15.0
"""How long a lease holds after it was last renewed."""
DEADLINE_SECONDS: Final = 10.0
"""After how long without a renewal its holder stops acting."""
RETRY_SECONDS: Final = 2.0
"""How often a holder renews, and a candidate looks."""
SHARE: Final = 3
"""How many renewals in a row may come late."""
RENEWALS: Final = 32
"""How many renewals a late one is remembered for."""
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Deposed(Unreachable):
    """Another replica leads, or may: this one must not write."""

    def __init__(self) -> None:
        super().__init__("lease", "another replica leads, or may")


@dataclass(frozen=True, slots=True)
class Terms:
    """The periods, in seconds: ``retry`` < ``deadline`` < ``duration``.

    ``longest``: for how long a holder may ask for the lease whose renewals come late. 0: always for ``duration``.
    """

    duration: float = DURATION_SECONDS
    deadline: float = DEADLINE_SECONDS
    retry: float = RETRY_SECONDS
    longest: float = 0.0

    @property
    def attempt(self) -> float:
        """How long one request may take of a holder that stops at the deadline."""
        return self.deadline / 2


class Pace:
    """For how long a holder asks for the lease: three times the longest of its latest intervals between renewals.

    So a lease is short where the API server is quick, and one that is slow, or a holder on a loaded machine, does not
    lose it each time.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._intervals: deque[float] = deque(maxlen=RENEWALS)
        self._renewed: float | None = None

    @property
    def duration(self) -> int:
        wanted = SHARE * max(self._intervals, default=0.0)
        return math.ceil(max(self._terms.duration, min(wanted, self._terms.longest)))

    def asks(self, at: float, before: float | None) -> None:
        """The lease is about to be written. ``before``: the duration of the holder before; None: it is renewed."""
        if before is not None:
            self._intervals.append(before / SHARE)
        elif self._renewed is not None:
            self._intervals.append(at - self._renewed)

    def renewed(self, at: float) -> None:
        """The API server took what was asked for at that time."""
        self._renewed = at


def identity() -> str:
    """A name for this process that no other has: a restarted one is another candidate."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


def own_namespace(otherwise: str = "kube-system") -> str:
    """The namespace of the pod that this process runs in, ``$POD_NAMESPACE`` before all; ``otherwise`` outside of a
    cluster.
    """
    if told := os.environ.get("POD_NAMESPACE"):
        return told
    with contextlib.suppress(OSError):
        return ACCOUNT.read_text().strip() or otherwise
    return otherwise


class Lease:
    """One candidate for the lease ``namespace``/``name``.

    ``run`` calls ``lead`` whenever this candidate holds the lease, and cancels it when it does so no more. ``holder``
    is who held it at the last look, empty for nobody. ``report`` is told at every look, by whoever waits as well, what
    hindered it, or None.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        own: str,
        *,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str | None], None] | None = None,
    ) -> None:
        self._api, self._namespace, self._name, self.own = api, namespace, name, own
        self._report = report or (lambda _problem: None)
        self._terms, self._clock = terms or Terms(), clock
        self._until = float("-inf")
        self._seen: tuple[object, float] = (None, 0.0)
        self._answered = False
        self._pace = Pace(self._terms)
        self.holder = ""
        self.transitions = 0

    @property
    def leads(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._until

    @property
    def remaining(self) -> float:
        """For how many seconds it may still act without another renewal; not positive if it may not."""
        return self._until - self._clock()

    async def guarded(self, request: Coroutine[Any, Any, T]) -> T:
        """The request's answer, ended when this replica may no longer act. Raises Deposed."""
        remaining = self.remaining
        if remaining <= 0:
            request.close()
            raise Deposed
        try:
            async with asyncio.timeout(remaining) as limit:
                return await request
        except TimeoutError:
            if limit.expired():
                raise Deposed from None
            raise

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """For ever: waits for the lease, leads, starts over when it is lost. Raises what ``lead`` raises.

        Cancelled, it ends ``lead`` first, and then gives the lease back, so that another need not wait.
        """
        try:
            while True:
                await self._acquire()
                await self._reign(lead)
        finally:
            if self.leads:
                await self._release()

    async def follow(self, chosen: Callable[[bool], None]) -> None:
        """For ever: tells True at every renewal that succeeded, False whenever another is seen to hold the lease.

        For those whose writes are ordered elsewhere: an API server that does not answer says nothing, and is not told.
        """
        patience = self._terms.deadline
        try:
            while True:
                taken = await self._attempt(patience)
                patience = self._terms.deadline if self._answered else self._longer(patience)
                if taken:
                    chosen(True)
                elif not self._answered:
                    # Nobody could renew: whoever holds it gets the chance to when the API server is back.
                    self._seen = (None, 0.0)
                elif self.holder not in ("", self.own):
                    self._until = float("-inf")
                    chosen(False)
                # Not all candidates at once.
                await asyncio.sleep(self._terms.retry * random.uniform(1.0, 1.2))
        finally:
            if self.holder == self.own:
                await self._release()

    def _longer(self, patience: float) -> float:
        """For the next request, after one that was not answered."""
        return max(self._terms.deadline, min(2 * patience, self._terms.longest / 2))

    async def _acquire(self) -> None:
        while not await self._attempt(self._terms.attempt):  # noqa: ASYNC110 - the other side is another process
            # Not all candidates at once.
            await asyncio.sleep(self._terms.retry * random.uniform(1.0, 1.2))

    async def _reign(self, lead: Callable[[], Awaitable[None]]) -> None:
        log.info("leading", lease=self._name, identity=self.own)
        work = asyncio.ensure_future(lead())
        try:
            while self.leads:
                done, _ = await asyncio.wait({work}, timeout=min(self._terms.retry, max(0.0, self.remaining)))
                if done:
                    work.result()
                    raise Unreachable("lease", "what it is for has ended")
                limit = min(self._terms.attempt, self.remaining)
                if limit > 0 and not await self._attempt(limit) and self.holder != self.own:
                    self._until = float("-inf")
        finally:
            work.cancel()
            await asyncio.wait({work})
        log.warning("no longer leading", lease=self._name, identity=self.own, holder=self.holder)

    async def _attempt(self, limit: float) -> bool:
        """Takes or renews the lease. False if another holds it, or the API server does not answer in ``limit`` s."""
        began = self._clock()
        try:
            async with asyncio.timeout(limit):
                taken = await self._take(began)
        except (Conflict, NotFound):
            self._answered = True
            self._report(None)
            return False  # another was quicker
        except (GalacticError, TimeoutError) as error:
            self._answered = False
            problem = str(error) or f"kube-apiserver: {self._late(limit)}"
            log.warning("lease not renewed", lease=self._name, error=problem)
            self._report(f"lease {self._name} not renewed: {problem}")
            return False
        self._answered = True
        self._report(None)
        if taken:
            self._pace.renewed(began)
            self._until = began + self._terms.deadline
        return taken

    def _late(self, limit: float) -> str:
        """Why a request was given up after ``limit`` seconds: its own time was up, or that of the term."""
        if limit < self._terms.attempt:
            return f"no answer before the {self._terms.deadline:g} s since the last renewal were over"
        return f"no answer within {limit:g} s"

    async def _take(self, began: float) -> bool:
        found = await self._api.find(LEASES, self._name, self._namespace)
        if found is None:
            body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": self._spec({})}
            await self._api.create(LEASES, body, self._namespace)
            self.holder = self.own
            return True
        spec = found.get("spec") or {}
        self.holder = spec.get("holderIdentity") or ""
        self.transitions = spec.get("leaseTransitions") or 0
        # A lease that another renewed is one that is seen for the first time: only what stands still runs out.
        record = (self.holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen[0]:
            self._seen = (record, began)
        duration = max(self._terms.duration, float(spec.get("leaseDurationSeconds") or 0))
        if self.holder not in ("", self.own) and began < self._seen[1] + duration:
            return False
        before = None if self.holder == self.own else float(spec.get("leaseDurationSeconds") or 0)
        self._pace.asks(began, before)
        await self._api.replace(LEASES, found | {"spec": self._spec(spec)})
        self.holder = self.own
        return True

    async def _release(self) -> None:
        """Leaves the lease to whoever comes first. What fails here costs the others some seconds, no more."""
        self._until = float("-inf")
        with contextlib.suppress(GalacticError, TimeoutError):
            async with asyncio.timeout(self._terms.retry):
                found = await self._api.find(LEASES, self._name, self._namespace)
                if found and (found.get("spec") or {}).get("holderIdentity") == self.own:
                    await self._api.replace(LEASES, found | {"spec": found["spec"] | {"holderIdentity": ""}})
                    self.holder = ""
                    log.info("lease released", lease=self._name)

    def _spec(self, before: Mapping[str, Any]) -> dict[str, Any]:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before.get("holderIdentity") == self.own
        self.transitions = (before.get("leaseTransitions") or 0) + (0 if mine or not before else 1)
        return {
            "holderIdentity": self.own,
            "leaseDurationSeconds": self._pace.duration,
            "acquireTime": before.get("acquireTime") if mine else moment,
            "renewTime": moment,
            "leaseTransitions": self.transitions,
        }

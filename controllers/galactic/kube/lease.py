"""Leader election by a Lease (coordination.k8s.io/v1): of all replicas of a controller at most one acts.

The terms are client-go's: a lease holds for 15 s, is renewed every 2 s, and a leader that has not managed to for 10 s
stops acting by itself. No clocks are compared: a candidate waits until it has seen the same renewal for the whole
duration on its own monotonic clock, a leader counts from before its request. So there are at least 5 s between the end
of one leader and the start of the next, whatever the network does (``Fenced`` ends requests that are under way then). A
request for the lease ends after half of the 10 s, as in Kubernetes' own components: a connection that died does not
cost the lease.
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
"""How often a holder renews the lease, and a candidate reads it."""
SHARE: Final = 3
"""How many renewals in a row may come late."""
RENEWALS: Final = 32
"""The renewals that count for the duration."""
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Deposed(Unreachable):
    """Another replica leads, or may lead: this one must not write."""

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
        """The time limit of a request by a holder that stops at the deadline."""
        return self.deadline / 2


class Pace:
    """The duration that a holder writes: three times the longest of its latest intervals between renewals.

    So a lease is short where the API server is fast. A slow API server or a loaded machine does not cost it each time.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._intervals: deque[float] = deque(maxlen=RENEWALS)
        self._renewed: float | None = None

    @property
    def duration(self) -> int:
        sufficient = SHARE * max(self._intervals, default=0.0)
        return math.ceil(max(self._terms.duration, min(sufficient, self._terms.longest)))

    def writing(self, at: float, before: float | None) -> None:
        """The lease is about to be written. ``before``: the duration of the holder before; None: it is renewed."""
        if before is not None:
            self._intervals.append(before / SHARE)
        elif self._renewed is not None:
            self._intervals.append(at - self._renewed)

    def renewed(self, at: float) -> None:
        """The API server accepted the renewal that was requested at that time."""
        self._renewed = at


def identity() -> str:
    """A unique name for this process: a restarted one is another candidate."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


def own_namespace(otherwise: str = "kube-system") -> str:
    """The pod's own namespace: ``$POD_NAMESPACE``, else the service account's; ``otherwise`` outside a cluster."""
    if namespace := os.environ.get("POD_NAMESPACE"):
        return namespace
    with contextlib.suppress(OSError):
        return ACCOUNT.read_text().strip() or otherwise
    return otherwise


@dataclass(frozen=True, slots=True)
class Candidate:
    """``own``: the identity of a replica that asks for the Lease ``namespace``/``name``."""

    namespace: str
    name: str
    own: str


class Lease:
    """The Lease as one candidate sees it.

    ``run`` calls ``lead`` whenever this candidate holds the lease, and cancels it on its loss. ``holder``: the holder
    at the last request, empty for none. ``report`` gets the problem of every request, also while waiting, or None.
    ``annotations`` are those of the Lease; ``annotate`` returns those that each renewal writes.
    """

    def __init__(
        self,
        api: Api,
        candidate: Candidate,
        *,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str | None], None] | None = None,
    ) -> None:
        self._api, self._namespace, self._name = api, candidate.namespace, candidate.name
        self.own = candidate.own
        self._report = report or (lambda _problem: None)
        self._terms, self._clock = terms or Terms(), clock
        self._until = float("-inf")
        self._observed: tuple[object, float] = (None, 0.0)
        self._answered = False
        self._pace = Pace(self._terms)
        self.holder = ""
        self.transitions = 0
        self._acquired = ""
        self.annotations: Mapping[str, str] = {}
        self.annotate: Callable[[], Mapping[str, str]] = dict

    @property
    def leads(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._until

    @property
    def term(self) -> tuple[int, str]:
        """That of the present holder: another one when the lease was anybody else's, or deleted, in between."""
        return self.transitions, self._acquired

    @property
    def remaining(self) -> float:
        """Seconds for which it may still act without another renewal; not positive if it may not."""
        return self._until - self._clock()

    async def guarded(self, request: Coroutine[Any, Any, T]) -> T:
        """The request's answer; the request ends when this replica may no longer act. Raises Deposed."""
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
        """Never returns: waits for the lease, leads, starts over on its loss. Raises what ``lead`` raises.

        On cancellation it ends ``lead`` first, and then releases the lease, so that another candidate need not wait.
        """
        try:
            while True:
                await self._acquire()
                await self._reign(lead)
        finally:
            if self.leads:
                await self._release()

    async def follow(self, chosen: Callable[[bool], None], stands: Callable[[], bool] = lambda: True) -> None:
        """Never returns: calls ``chosen`` with True after a renewal, with False when another candidate leads.

        For controllers whose writes are ordered elsewhere: an API server that does not answer changes nothing. A
        candidate that does not stand releases the lease, and does not ask for it.
        """
        patience = self._terms.deadline
        try:
            while True:
                if not stands():
                    if self.holder == self.own:
                        log.warning("lease released: this candidate cannot lead now", lease=self._name)
                        await self._release()
                    await asyncio.sleep(self._terms.retry)
                    continue
                renewed = await self._attempt(patience)
                patience = self._terms.deadline if self._answered else self._longer(patience)
                if renewed:
                    chosen(True)
                elif not self._answered:
                    # The holder could not renew either: it gets the chance to when the API server is back.
                    self._observed = (None, 0.0)
                elif self.holder not in ("", self.own):
                    self._until = float("-inf")
                    chosen(False)
                # Not all candidates at once.
                await asyncio.sleep(self._terms.retry * random.uniform(1.0, 1.2))
        finally:
            if self.holder == self.own:
                await self._release()

    def _longer(self, patience: float) -> float:
        """The time limit of the next request, after one that was not answered."""
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
                    raise Unreachable("lease", "the leader's work has ended by itself")
                limit = min(self._terms.attempt, self.remaining)
                if limit > 0 and not await self._attempt(limit) and self.holder != self.own:
                    self._until = float("-inf")
        finally:
            work.cancel()
            await asyncio.wait({work})
        log.warning("deposed", lease=self._name, identity=self.own, holder=self.holder)

    async def _attempt(self, limit: float) -> bool:
        """Acquires or renews the lease. False if another holds it, or the API server does not answer in ``limit`` s."""
        began = self._clock()
        try:
            async with asyncio.timeout(limit):
                held = await self._acquire_once(began)
        except (Conflict, NotFound):
            self._answered = True
            self._report(None)
            return False  # another candidate wrote it first
        except (GalacticError, TimeoutError) as error:
            self._answered = False
            problem = str(error) or f"kube-apiserver: {self._timeout_text(limit)}"
            log.warning("lease not renewed", lease=self._name, error=problem)
            self._report(f"lease {self._name} not renewed: {problem}")
            return False
        self._answered = True
        self._report(None)
        if held:
            self._pace.renewed(began)
            self._until = began + self._terms.deadline
        return held

    def _timeout_text(self, limit: float) -> str:
        """Why a request ended after ``limit`` seconds: its own limit, or the deadline since the last renewal."""
        if limit < self._terms.attempt:
            return f"no answer before the {self._terms.deadline:g} s since the last renewal were over"
        return f"no answer within {limit:g} s"

    async def _acquire_once(self, began: float) -> bool:
        lease = await self._api.find(LEASES, self._name, self._namespace)
        if lease is None:
            body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": self._spec({})}
            await self._api.create(LEASES, body, self._namespace)
            self.holder = self.own
            return True
        spec, metadata = lease.get("spec") or {}, lease["metadata"]
        self.annotations = metadata.get("annotations") or {}
        self.holder = spec.get("holderIdentity") or ""
        self.transitions = spec.get("leaseTransitions") or 0
        # A renewal starts the wait again: only a lease that no holder renews runs out.
        record = (self.holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._observed[0]:
            self._observed = (record, began)
        duration = max(self._terms.duration, float(spec.get("leaseDurationSeconds") or 0))
        if self.holder not in ("", self.own) and began < self._observed[1] + duration:
            return False
        renewal = self.holder == self.own
        self._pace.writing(began, None if renewal else float(spec.get("leaseDurationSeconds") or 0))
        if renewal and (annotations := self.annotate()):  # a new holder reads them first
            metadata = metadata | {"annotations": {**self.annotations, **annotations}}
        await self._api.replace(LEASES, lease | {"metadata": metadata, "spec": self._spec(spec)})
        self.holder = self.own
        return True

    async def _release(self) -> None:
        """Leaves the lease to the next candidate. A failure here costs the others one duration, no more."""
        self._until = float("-inf")
        with contextlib.suppress(GalacticError, TimeoutError):
            async with asyncio.timeout(self._terms.retry):
                lease = await self._api.find(LEASES, self._name, self._namespace)
                if lease and (lease.get("spec") or {}).get("holderIdentity") == self.own:
                    await self._api.replace(LEASES, lease | {"spec": lease["spec"] | {"holderIdentity": ""}})
                    self.holder = ""
                    log.info("lease released", lease=self._name)

    def _spec(self, before: Mapping[str, Any]) -> dict[str, Any]:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        renewal = before.get("holderIdentity") == self.own
        self.transitions = (before.get("leaseTransitions") or 0) + (0 if renewal or not before else 1)
        self._acquired = before.get("acquireTime") or "" if renewal else moment
        return {
            "holderIdentity": self.own,
            "leaseDurationSeconds": self._pace.duration,
            "acquireTime": self._acquired,
            "renewTime": moment,
            "leaseTransitions": self.transitions,
        }

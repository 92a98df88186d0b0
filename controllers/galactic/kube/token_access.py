"""Whether the holder of a token may read one of our own paths: the API server decides.

A TokenReview gives the user, and a SubjectAccessReview whether that user may ``get`` the path (a non-resource URL), as
in kube-rbac-proxy and controller-runtime. Answers are kept for a while by the token's digest. Reviews of unknown tokens
are bounded, so that a flood of them does not become one of the API server; a token that was allowed before never waits
behind them.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from galactic.errors import NotYet, Rejected
from galactic.kube.api import Object
from galactic.kube.resources import ACCESS_REVIEWS, TOKEN_REVIEWS, Resource

ALLOWED_SECONDS: Final = 60.0
"""How long an allowed token stays allowed without another review: a right that was revoked ends after that."""
REFUSED_SECONDS: Final = 10.0
MOST_KEPT: Final = 256
"""Answers that are kept, and tokens that were allowed before."""
MOST_REVIEWS: Final = 4
"""Reviews of unknown tokens at a time."""


class Reviews(Protocol):
    """Of the API server."""

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        """The review with its status. Raises Unreachable, or Rejected where we may not ask."""


@dataclass(frozen=True, slots=True)
class _Answer:
    refusal: Rejected | None
    until: float


class TokenAccess:
    """Made once for a process. ``clock``: monotonic seconds."""

    def __init__(self, reviews: Reviews, clock: Callable[[], float] = time.monotonic) -> None:
        self._reviews, self._clock = reviews, clock
        self._answers: OrderedDict[tuple[bytes, str], _Answer] = OrderedDict()
        self._under_review = 0

    async def check(self, token: str, path: str) -> None:
        """Raises Rejected unless the holder may ``get`` that path, with the reason Unauthenticated or Forbidden.

        Raises NotYet (Busy) while too many others are reviewed, and Unreachable.
        """
        key = hashlib.sha256(token.encode()).digest(), path
        known, now = self._answers.get(key), self._clock()
        if known is None or known.until <= now:
            known = await self._review(key, token, trusted=known is not None and known.refusal is None)
        if known.refusal is not None:
            raise Rejected(str(known.refusal), reason=known.refusal.reason)

    async def _review(self, key: tuple[bytes, str], token: str, *, trusted: bool) -> _Answer:
        if self._under_review >= MOST_REVIEWS and not trusted:
            raise NotYet("too many tokens are being reviewed: try again", reason="Busy")
        self._under_review += 0 if trusted else 1
        try:
            refusal = await self._refusal(token, key[1])
        finally:
            self._under_review -= 0 if trusted else 1
        seconds = ALLOWED_SECONDS if refusal is None else REFUSED_SECONDS
        answer = _Answer(refusal, self._clock() + seconds)
        self._keep(key, answer)
        return answer

    def _keep(self, key: tuple[bytes, str], answer: _Answer) -> None:
        """In place of the oldest answer; of a refusal only if that is one too, so that a flood forgets no reader."""
        self._answers.pop(key, None)
        if len(self._answers) >= MOST_KEPT:
            refused = next((known for known, kept in self._answers.items() if kept.refusal), None)
            if refused is None and answer.refusal:
                return
            del self._answers[next(iter(self._answers)) if refused is None else refused]
        self._answers[key] = answer

    async def _refusal(self, token: str, path: str) -> Rejected | None:
        status = await self._ask(TOKEN_REVIEWS, {"token": token})
        if not status.get("authenticated"):
            return Rejected("the API server does not know this token", reason="Unauthenticated")
        user = status.get("user") or {}
        spec = {name: user[name] for name in ("uid", "groups", "extra") if user.get(name)}
        spec |= {
            "user": user.get("username", ""),
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        if (await self._ask(ACCESS_REVIEWS, spec)).get("allowed"):
            return None
        return Rejected(
            f"{spec['user']} may not get {path}: bind a ClusterRole with that nonResourceURL to it",
            reason="Forbidden",
        )

    async def _ask(self, resource: Resource, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": ""},
            "spec": spec,
        }
        answer: Mapping[str, Any] = (await self._reviews.create(resource, body)).get("status") or {}
        return answer

"""Events about what the router itself lacks, for whoever looks with ``kubectl describe`` and has no log at hand.

They are on its own Pod where ``POD_NAME`` and ``POD_UID`` say which that is, else on the Lease ``galactic-router``.
What is over within PATIENCE_SECONDS is no matter; what stays is told again every TOLD_SECONDS, before Events expire.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog

from galactic.errors import GalacticError
from galactic.kube.api import Api
from galactic.kube.events import event_body
from galactic.kube.lease import own_namespace
from galactic.kube.resources import EVENTS, LEASES

log = structlog.get_logger(__name__)
PATIENCE_SECONDS: Final = 5.0
TOLD_SECONDS: Final = 900.0
POLL_SECONDS: Final = 1.0
LEASE: Final = "galactic-router"
COMPONENT: Final = "galactic-router"


class RouterEvent(NamedTuple):
    """What is told of one of ``/healthz``'s problems, before its own words."""

    problem: str
    reason: str
    message: str


COMPLAINTS: Final = (
    RouterEvent(
        "mqtt", "BrokerUnreachable", "there is no session with the broker, so no route change is told"
    ),
    RouterEvent("postgres", "DatabaseUnreachable", "no history is written; routes do not wait for it"),
)


class RouterEvents:
    """Tells of those of ``problems()`` (texts by name, as ``/healthz`` has them) that are in COMPLAINTS."""

    def __init__(
        self, api: Api, problems: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._problems, self._clock = api, problems, clock
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Looks for ever. An Event that the API server does not take is told at the next look."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Tells what is due now."""
        problems, at = self._problems(), self._clock()
        self._since = {name: self._since.get(name, at) for name in problems}
        self._told = {name: told for name, told in self._told.items() if name in problems}
        for name, reason, message in COMPLAINTS:
            new = at - self._since.get(name, at) < PATIENCE_SECONDS
            if new or at - self._told.get(name, -TOLD_SECONDS) < TOLD_SECONDS:
                continue
            try:
                if about := await self._about():
                    text = f"{message}: {problems[name]}"
                    body = event_body(about, "Warning", reason, text, component=COMPONENT)
                    await self._api.create(EVENTS, body, about["namespace"])
                self._told[name] = at
            except GalacticError as error:
                log.warning("event not made", problem=problems[name], error=str(error))

    async def _about(self) -> dict[str, str] | None:
        namespace, pod, uid = own_namespace(), os.environ.get("POD_NAME"), os.environ.get("POD_UID")
        if pod and uid:
            return {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid}
        lease = await self._api.find(LEASES, LEASE, namespace)
        if lease is None:
            return None
        found = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "namespace": namespace}
        return found | {"name": LEASE, "uid": lease["metadata"]["uid"]}

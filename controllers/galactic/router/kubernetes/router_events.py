"""Events about failures of the router itself, for ``kubectl describe``.

They are on the router's Pod where ``POD_NAME`` and ``POD_UID`` name it, else on the Lease ``galactic-router``. A
failure that is over within PATIENCE_SECONDS makes none. A lasting one makes one every REPEAT_SECONDS, before Events
expire.
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
REPEAT_SECONDS: Final = 900.0
POLL_SECONDS: Final = 1.0
LEASE: Final = "galactic-router"
COMPONENT: Final = "galactic-router"


class RouterEvent(NamedTuple):
    """Of one problem, of ``/healthz`` or the settings, whose text follows the message."""

    problem: str
    reason: str
    message: str


ROUTER_EVENTS: Final = (
    RouterEvent(
        "mqtt", "BrokerUnreachable", "no session with the MQTT broker, so nodes receive no route changes"
    ),
    RouterEvent(
        "postgres", "DatabaseUnreachable", "no history is written; route changes are published without it"
    ),
    RouterEvent("mqtt-password", "PasswordExposed", "the password is sent to the broker without encryption"),
    RouterEvent(
        "cluster", "BrokerShared", "two clusters share a broker, and this one's nodes get no routes from it"
    ),
    RouterEvent("postgres-tls", "DatabaseExposed", "the connection to the database is not secure"),
)


class RouterEvents:
    """Makes Events of those of ``problems()`` (texts by name) that are in ROUTER_EVENTS."""

    def __init__(
        self, api: Api, problems: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._problems, self._clock = api, problems, clock
        self._since: dict[str, float] = {}
        self._made: dict[str, float] = {}

    async def run(self) -> None:
        """Makes Events for ever. One that the API server refuses is made at the next poll."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_SECONDS)

    async def poll(self) -> None:
        """Makes the Events that are missing now."""
        problems, at = self._problems(), self._clock()
        self._since = {name: self._since.get(name, at) for name in problems}
        self._made = {name: made for name, made in self._made.items() if name in problems}
        for name, reason, message in ROUTER_EVENTS:
            new = at - self._since.get(name, at) < PATIENCE_SECONDS
            if new or at - self._made.get(name, -REPEAT_SECONDS) < REPEAT_SECONDS:
                continue
            try:
                if about := await self._about():
                    text = f"{message}: {problems[name]}"
                    body = event_body(about, "Warning", reason, text, component=COMPONENT)
                    await self._api.create(EVENTS, body, about["namespace"])
                self._made[name] = at
            except GalacticError as error:
                log.warning("Event not made", problem=problems[name], error=str(error))

    async def _about(self) -> dict[str, str] | None:
        namespace, pod, uid = own_namespace(), os.environ.get("POD_NAME"), os.environ.get("POD_UID")
        if pod and uid:
            return {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid}
        lease = await self._api.find(LEASES, LEASE, namespace)
        if lease is None:
            return None
        about = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "namespace": namespace}
        return about | {"name": LEASE, "uid": lease["metadata"]["uid"]}
